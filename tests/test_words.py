"""The product uses the standard words in strings, docstrings and comments; each rule has a failing twin."""

from __future__ import annotations

import io
import re
import tokenize
import tomllib
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml

from tests.test_docs import BANNED

ROOT = Path(__file__).resolve().parents[1]
ROOMS = ("core_losses", "finetune", "agecls", "finegrained", "generalcls", "apps")
SOURCES = sorted(file for room in ROOMS for file in (ROOT / room).rglob("*.py"))
RECIPES = sorted(file for room in ROOMS for file in (ROOT / room).rglob("*.yaml"))
# Where keys that older versions wrote are read.
ALLOWED = {"finetune/experiments/study/finished_runs.py": {"train_push"}}

GAPS = (tokenize.NL, tokenize.NEWLINE, tokenize.INDENT, tokenize.DEDENT)
COMMENT = re.compile(r"^\s*#+ ?", re.MULTILINE)


def texts(source: str) -> Iterator[str]:
    """Yield a Python file's texts: adjacent strings are one, and so are comments that follow each other."""
    kind, parts = 0, [""]
    for token in tokenize.generate_tokens(io.StringIO(source).readline):
        name = tokenize.tok_name[token.type]
        if name.startswith("FSTRING") or token.type == tokenize.STRING:
            found, text = tokenize.STRING, "" if name in ("FSTRING_START", "FSTRING_END") else token.string
            if token.type == tokenize.STRING:
                text = re.sub(r"^[a-zA-Z]*('''|\"\"\"|'|\")(.*)\1$", r"\2", text, flags=re.DOTALL)
        elif token.type == tokenize.COMMENT:
            found, text = token.type, COMMENT.sub("", token.string) + " "
        elif token.type in GAPS and kind:
            continue
        else:
            found, text = 0, ""
        if found == 0 or found != kind:
            yield "".join(parts)
            parts = []
        kind = found
        parts.append(text)
    yield "".join(parts)


def recipe_texts(source: str) -> Iterator[str]:
    """Yield the texts of a recipe: its comments as one, and its keys and values."""
    yield " ".join(re.findall(r"(?:^|\s)#+ ?(.*)$", source, re.MULTILINE))
    yield yaml.safe_dump(yaml.safe_load(source))


def toml_texts(source: str) -> Iterator[str]:
    """Yield the texts of a TOML file: its comments as one, and its keys and values."""
    yield " ".join(re.findall(r"(?:^|\s)#+ ?(.*)$", source, re.MULTILINE))
    yield repr(tomllib.loads(source))


def banned_in(found: Iterator[str]) -> set[str]:
    """Return the words of BANNED that stand in these texts, however their lines are broken."""
    joined = "\0".join(re.sub(r"\s+", " ", text) for text in found)  # no pattern reaches past a zero byte
    return {word for word, pattern in BANNED.items() if re.search(pattern, joined, re.IGNORECASE)}


@pytest.mark.parametrize("file", SOURCES, ids=lambda file: str(file.relative_to(ROOT)))
def test_a_module_uses_the_standard_words(file: Path):
    allowed = ALLOWED.get(file.relative_to(ROOT).as_posix(), set())
    assert banned_in(texts(file.read_text(encoding="utf-8"))) == allowed


@pytest.mark.parametrize("file", RECIPES, ids=lambda file: str(file.relative_to(ROOT)))
def test_a_recipe_uses_the_standard_words(file: Path):
    assert banned_in(recipe_texts(file.read_text(encoding="utf-8"))) == set()


def test_the_projects_settings_use_the_standard_words():
    assert banned_in(toml_texts((ROOT / "pyproject.toml").read_text(encoding="utf-8"))) == set()


def test_every_room_has_been_read():
    assert {file.relative_to(ROOT).parts[0] for file in SOURCES} == set(ROOMS)
    assert RECIPES
    assert all((ROOT / name).is_file() for name in ALLOWED)


@pytest.mark.parametrize(
    ("word", "source"),
    [
        ("nought", 'say("it is nought")\n'),
        ("mend", '"""One line.\n\nHow to\nmend it.\n"""\n'),
        ("anew", "x = 1  # read anew\n"),
        ("look-alike", 'def f():\n    """Draw look-alikes."""\n'),
        ("commonest", 'raise ValueError(f"{x} of the commonest {kind}")\n'),
        ("by itself", 'say(\n    "it comes by "\n    f"itself in {x}"\n)\n'),
        ("by itself", "# It comes by\n# itself.\nx = 1\n"),
        ("kept features", "text = 'kept features'\n"),
        ("asked once", 'text = rf"asked {count} asked only once"\n'),
        ("is no number", 'say(f"{name} is no number: give one")\n'),
        ("train_push", 'row = {"train_push": 1.0}\n'),
    ],
)
def test_a_banned_word_in_a_module_is_caught(word: str, source: str):
    assert banned_in(texts(source)) == {word}


def test_every_banned_word_has_a_twin_and_names_in_code_pass():
    marks = test_a_banned_word_in_a_module_is_caught.pytestmark
    assert {word for word, _ in marks[0].args[1]} == set(BANNED)
    code = 'mend = anew(nought)\nfolder = "lookalike"\nx = 1  # by\nitself = "itself"\n'
    assert banned_in(texts(code)) == set()


@pytest.mark.parametrize("source", ["a: 1  # read anew\n", "# read\n# anew\na: 1\n", "name: anew\n"])
def test_a_banned_word_in_a_recipe_is_caught(source: str):
    assert banned_in(recipe_texts(source)) == {"anew"}
    assert banned_in(recipe_texts(source.replace("anew", "again"))) == set()


@pytest.mark.parametrize("source", ["a = 1  # read anew\n", "# read\n# anew\na = 1\n", 'name = "anew"\n'])
def test_a_banned_word_in_the_settings_is_caught(source: str):
    assert banned_in(toml_texts(source)) == {"anew"}
    assert banned_in(toml_texts(source.replace("anew", "again"))) == set()
