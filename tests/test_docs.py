"""The pages have short, plain prose and links that lead somewhere; each rule has a twin that it catches."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
OWN_PAGES = ("README.md", "CONTRIBUTING.md", "CHANGELOG.md", "SECURITY.md")
FOLDER_PAGES = ("tests/README.md", "tests/old_formats/README.md", "examples/README.md")
PAGES = [*(ROOT / name for name in OWN_PAGES + FOLDER_PAGES), *sorted((ROOT / "docs").glob("*.md"))]
GLOSSARY = ROOT / "docs" / "glossary.md"

LONGEST, MEAN = 30, 17  # words in a sentence, and on average over a page
NEAR_TOP = 50  # lines
BANNED = {
    "nought": r"\bnoughts?\b",
    "mend": r"\bmend(s|ed|ing)?\b",
    "anew": r"\banew\b",
    "look-alike": r"\blook-alikes?\b",
    "commonest": r"\bcommonest\b",
    "by itself": r"\bby (itself|themselves)\b",
    "kept features": r"\bkept features?\b",
    "asked once": r"\basked( \w+)? once\b",
    "is no number": r"\b(is|are) no numbers?\b",
    "train_push": r"\btrain_push\b",
}
DEFINED = (
    *("arm", "cell", "one-off", "policy", "tap"),
    *(
        "task",
        "study",
        "head",
        "branch",
        "fold",
        "split",
        "subject",
        "manifest",
        "run folder",
        "bundle",
        "recipe",
    ),
    *("margin head", "gradient factor", "gradient magnitude", "majority-class baseline", "exact accuracy"),
    *("paired test", "Holm's correction", "seed"),
)
# A full stop behind these ends no sentence.
ABBREVIATIONS = re.compile(r"\b(e\.g|i\.e|al|etc|vs|Fig|Eq|Eqs|No)\.(?=\s)")
ENDS = re.compile(r"(?<=[.!?])[)\"'*]*\s+")
ITEM = re.compile(r"^\s*([-*+]|\d+\.)\s+")
FENCED = re.compile(r"^\s*```.*?^\s*```[^\n]*$", re.MULTILINE | re.DOTALL)


def without_code(text: str) -> str:
    """Return a page without its fenced blocks."""
    return FENCED.sub("\n", text)


def blocks(text: str) -> list[str]:
    """Return paragraphs and list items: all prose but code, tables, headings, HTML and images."""
    found, open_block = [""], False
    for line in without_code(text).splitlines():
        bare = line.strip()
        if not bare or bare[0] in "|#<!":
            open_block = False
            continue
        item = ITEM.match(line)
        if item or not open_block:
            found.append("")
        found[-1] += " " + line[item.end() if item else 0 :]
        open_block = True
    return [block.strip() for block in found if block.strip()]


def plain(block: str) -> str:
    """Return a block with the text of its links and without images, tags and emphasis."""
    text = re.sub(r"!\[[^]]*\]\([^)]*\)", " ", block)
    text = re.sub(r"\[([^]]*)\]\([^)]*\)", r"\1", text)
    return re.sub(r"</?[a-zA-Z][^<>]*>|\*\*", " ", text)


def sentences(text: str) -> list[str]:
    """Return a page's sentences; a colon and a semicolon end none, the end of a list item does."""
    parts: list[str] = []
    for block in blocks(text):
        parts += ENDS.split(ABBREVIATIONS.sub(r"\1", plain(block)))
    return [part.strip() for part in parts if words(part)]


def joined_sentences(text: str) -> list[str]:
    """Return the sentences as a simple reader counts them, who joins all lines and knows no list items."""
    lines = re.sub(r"```.*?```", "", text, flags=re.DOTALL).splitlines()
    prose = " ".join(line for line in lines if not line.startswith(("|", "#", "<", "!")))
    return re.split(r"(?<=[.!?])\s+", prose)


def words(sentence: str) -> int:
    """Return how many words a sentence has: what holds a letter or a digit, between spaces."""
    return sum(any(letter.isalnum() for letter in word) for word in sentence.split())


def too_long(found: list[str]) -> list[str]:
    """Return the sentences above the limit, each with its length."""
    return [f"{words(sentence)} words: {sentence}" for sentence in found if words(sentence) > LONGEST]


def mean_length(text: str) -> float:
    """Return the mean number of words of a page's sentences."""
    lengths = [words(sentence) for sentence in sentences(text)]
    return sum(lengths) / max(len(lengths), 1)


def banned_words(text: str) -> list[str]:
    """Return the words of BANNED that a page uses anywhere, code and tables included."""
    joined = re.sub(r"\s+", " ", text)
    return [word for word, pattern in BANNED.items() if re.search(pattern, joined, re.IGNORECASE)]


def anchors(text: str) -> set[str]:
    """Return the anchors of a page's headings, as GitHub names them."""
    found: dict[str, int] = {}
    for heading in re.findall(r"^#{1,6}\s+(.*?)\s*#*$", without_code(text), re.MULTILINE):
        bare = re.sub(r"[^\w\- ]", "", plain(heading).replace("`", "").lower()).strip()
        slug = bare.replace(" ", "-")
        count = found.get(slug, -1) + 1
        found[slug] = count
        if count:
            found[f"{slug}-{count}"] = 0
    return set(found)


def is_dead(page: Path, link: str) -> bool:
    """Return whether a relative link of a page leads to no file, or to no heading of one."""
    name, _, anchor = link.partition("#")
    target = (page.parent / name) if name else page
    return not target.exists() or bool(anchor and anchor not in anchors(read(target)))


def dead_links(page: Path) -> list[str]:
    """Return the relative links of a page whose file or heading does not exist."""
    text = re.sub(r"`[^`\n]*`", "", without_code(read(page)))
    links = re.findall(r"\]\(\s*<?([^)\s>]+)", text) + re.findall(r"\b(?:src|href)=\"([^\"]+)\"", text)
    relative = [link for link in links if not re.match(r"[a-z][a-z0-9+.-]*:", link)]
    return [link for link in relative if is_dead(page, link)]


def missing_commands(text: str) -> list[str]:
    """Return which of both commands no line near a page's top begins with."""
    top = text.splitlines()[:NEAR_TOP]
    begun = {" ".join(line.split()[:2]) for line in top}
    return [name for name in ("make demo", "make test") if name not in begun]


def undefined(text: str) -> list[str]:
    """Return the terms of DEFINED that a glossary does not define, each as a bold word at an item's start."""
    items = re.findall(r"^\* \*\*([^*]+)\*\*", text, re.MULTILINE)
    terms = {term.strip().lower() for item in items for term in item.split(",")}
    return [term for term in DEFINED if term.lower() not in terms]


def read(page: Path) -> str:
    """Return a page's text."""
    return page.read_text(encoding="utf-8")


def named(page: Path) -> str:
    """Return a page's name as a test shows it."""
    return page.relative_to(ROOT).as_posix()


each_page = pytest.mark.parametrize("page", PAGES, ids=named)
LONG = " ".join(["word"] * (LONGEST + 1)) + "."


@each_page
def test_no_sentence_is_too_long(page: Path):
    assert too_long(sentences(read(page))) == []


@each_page
def test_no_joined_sentence_is_too_long(page: Path):
    assert too_long(joined_sentences(read(page))) == []


@each_page
def test_sentences_are_short_on_average(page: Path):
    assert mean_length(read(page)) <= MEAN


@each_page
def test_only_standard_words_are_used(page: Path):
    assert banned_words(read(page)) == []


@each_page
def test_relative_links_lead_somewhere(page: Path):
    assert dead_links(page) == []


def test_the_readme_names_both_commands_near_its_top():
    assert missing_commands(read(ROOT / "README.md")) == []


def test_a_command_that_is_missing_or_far_down_is_caught():
    text = "make demo     # a page\nmake test-exhaustive\n"
    assert missing_commands(text + "\n" * NEAR_TOP + "make test\n") == ["make test"]
    assert missing_commands(text + "make test\n") == []


def test_the_glossary_defines_what_a_newcomer_meets_and_is_linked():
    assert undefined(read(GLOSSARY)) == []
    for name in ("README.md", "CONTRIBUTING.md"):
        assert "(docs/glossary.md)" in read(ROOT / name)


@pytest.mark.parametrize(
    "text",
    [
        LONG,
        f"Short.\n\n* {LONG}",
        "Short: " + LONG,
        LONG.replace("word word", "see Fig. 2, e.g. (Lin et al. 2015)", 1),
        "\n".join(LONG.split()),
        "**Bold** " + LONG.replace("word ", "[a](b.md) ", 3),
        "> " + LONG,
    ],
)
def test_a_long_sentence_is_caught(text: str):
    assert len(too_long(sentences(text))) == 1


@pytest.mark.parametrize(
    "text",
    [
        f"```\n{LONG}\n```",
        f"| {LONG} |",
        f"# {LONG}",
        f'<img alt="{LONG}">',
        f"![{LONG}](a.png)",
        f"Start.\n* {LONG[:80]}\n* {LONG[80:]}",
        LONG.replace("word word", "word. Word", 1),
        LONG.replace("word word", "(word.) Word", 1),
        LONG.replace("word word", "**Word.** Word", 1),
    ],
)
def test_a_short_sentence_passes(text: str):
    assert too_long(sentences(text)) == []


def test_list_items_without_a_full_stop_are_caught_where_lines_are_joined():
    items = "\n".join(f"* item {number} of many words" for number in range(8))
    assert len(too_long(joined_sentences(items))) == 1
    assert too_long(joined_sentences(items.replace("words", "words."))) == []


def test_a_page_of_middling_sentences_is_caught():
    middling = " ".join([" ".join(["word"] * (MEAN + 1)) + "."] * 5)
    assert too_long(sentences(middling)) == []
    assert mean_length(middling) > MEAN
    assert mean_length(middling + " Short.") == pytest.approx((5 * (MEAN + 1) + 1) / 6)


@pytest.mark.parametrize(
    ("word", "text"),
    [
        ("nought", "Classes start at nought."),
        ("mend", "How to mend it."),
        ("mend", "The misspelling is mended."),
        ("anew", "Decoded\nanew."),
        ("look-alike", "Look-alike classes"),
        ("commonest", "| the commonest group |"),
        ("by itself", "It comes by\nitself."),
        ("by itself", "Controls come by themselves."),
        ("kept features", "### Epochs with kept features"),
        ("asked once", "The backbone is asked once."),
        ("asked once", "The backbone is asked only once."),
        ("is no number", "The loss is no number."),
        ("train_push", "`train_push`"),
    ],
)
def test_a_banned_word_is_caught(word: str, text: str):
    assert banned_words(text) == [word]


def test_every_banned_word_has_a_twin_and_its_likes_pass():
    marks = test_a_banned_word_is_caught.pytestmark
    assert {word for word, _ in marks[0].args[1]} == set(BANNED)
    assert (
        banned_words("We recommend `finegrained.lookalike`; the number is not asked again, and a renewal.")
        == []
    )


def test_a_dead_link_is_caught(tmp_path: Path):
    page, other = tmp_path / "page.md", tmp_path / "other.md"
    other.write_text("# One\n\n## Two `words`, a *third*\n\n## One\n\n```\n# not this\n```\n")
    page.write_text(
        "# Here\n[a](other.md) [b](other.md#two-words-a-third) [c](#here) [d](https://example.org/x)\n"
        "[e](other.md#one-1) [f](missing.md) [g](other.md#three) [h](#there)\n"
        '<img src="missing.png"> ![i](also/missing.png) [j](other.md#not-this)\n'
        "`[k](in_code.md)`\n```\n[l](in_block.md)\n```\n"
    )
    dead = ["missing.md", "other.md#three", "#there", "missing.png", "also/missing.png", "other.md#not-this"]
    assert sorted(dead_links(page)) == sorted(dead)


def test_a_term_that_is_not_defined_is_caught():
    text = "* **arm**: a loss.\n* **Cell**: an arm with a seed.\n* one-off, with no bold start.\n"
    assert {"one-off", "policy", "tap"} <= set(undefined(text))
    assert {"arm", "cell"}.isdisjoint(undefined(text))
