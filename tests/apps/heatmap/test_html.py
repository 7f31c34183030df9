"""The HTML table: what a screen reader hears, what a name can do, and that nothing is fetched."""

from __future__ import annotations

import base64
import hashlib
import re
from html.parser import HTMLParser
from typing import Any

import numpy as np
import pytest

from apps.heatmap import html as style
from apps.heatmap.heatmap import heat_map
from apps.heatmap.html import to_html, to_html_page
from finetune.figures.canvas import INK, MUTED, PAPER, READABLE, VERMILION, contrast, luminance

VOID = {"img", "meta", "wbr", "br"}

GRAPHIC = 3.0  # WCAG 2.2, success criterion 1.4.11: least contrast of a mark with what it lies on


class Reader(HTMLParser):
    """Collects elements with attributes and text; a tag that does not close is an error."""

    def __init__(self) -> None:
        super().__init__()
        self.open: list[int] = []
        self.elements: list[dict[str, Any]] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append({"tag": tag, "text": "", **dict(attrs)})
        if tag not in VOID:
            self.open.append(len(self.elements) - 1)

    def handle_endtag(self, tag: str) -> None:
        assert self.elements[self.open.pop()]["tag"] == tag

    def handle_data(self, data: str) -> None:
        for position in self.open:
            self.elements[position]["text"] += data

    def all(self, tag: str, **attributes: str) -> list[dict[str, Any]]:
        """Return the elements of this tag with these attributes."""
        wanted = attributes.items()
        return [e for e in self.elements if e["tag"] == tag and all(e.get(k) == v for k, v in wanted)]


def read(html: str) -> Reader:
    """Parse the text and check that everything that opens closes."""
    reader = Reader()
    reader.feed(html)
    reader.close()
    assert reader.open == []
    return reader


CRL, CE = [[0.9, 0.1], [0.004, 0.996]], [[0.35, 0.65], [0.5, 0.5]]


def small(**changes: Any) -> str:
    """Return the fragment of two images, two classes and two models."""
    options = {"rows": ["a.jpg", "b.jpg"], "class_names": ["cat", "dog"], "targets": [1, None], **changes}
    return to_html(heat_map(tables={"CE": np.array(CE), "CRL": np.array(CRL)}, **options))


def test_every_cell_has_its_number_and_its_headers():
    page = read(small())
    assert [cell["text"].split()[0] for cell in page.all("td")] == [
        *("0.35", "0.65", "0.90", "0.10"),
        *("0.50", "0.50", "0", "1.00"),
    ]
    assert [head["text"] for head in page.all("th", scope="colgroup")] == ["CE", "CRL"]
    assert [head["colspan"] for head in page.all("th", scope="colgroup")] == ["2", "2"]
    assert [head["text"] for head in page.all("th", scope="col")] == ["Image", "cat", "dog", "cat", "dog"]
    assert [head["text"] for head in page.all("th", scope="row")] == ["a.jpgtrue: dog", "b.jpg"]
    (caption,) = page.all("caption")
    assert "Softmax probabilities" in caption["text"]
    assert "2 images, 2 models" in caption["text"]


def test_truth_and_prediction_are_told_in_words_as_well():
    cells = read(small()).all("td")
    assert [cell["text"].partition(" ")[2] for cell in cells] == [
        *("", "predicted, ✓ true class", "predicted", "✓ true class"),
        *("predicted", "", "", "predicted"),
    ]
    assert [("t" in cell["class"].split()) for cell in cells] == [False, True, False, True] + [False] * 4
    assert small().count("<b>") == 4 + 1  # four predictions and the legend


def test_without_any_truth_nothing_speaks_of_one():
    page = read(small(targets=None))
    assert "true" not in page.all("table")[0]["text"]


def test_the_table_can_be_scrolled_by_keyboard():
    (region,) = read(small()).all("div", role="region")
    assert region["tabindex"] == "0"
    assert region["aria-label"]


@pytest.mark.parametrize(
    "name",
    [
        "<script>alert(1)</script>",
        '"><img src=x onerror=alert(1)>',
        "'quoted' & \"double\"",
        "</style><b>x",
        "a<!-- b",
    ],
)
def test_names_cannot_become_markup(name: str):
    found = heat_map([name], [name, "dog"], {name: np.array([[0.25, 0.75]])}, [0])
    page = read(to_html_page(found, name))
    assert {e["tag"] for e in page.elements} <= {
        *(
            "html",
            "head",
            "meta",
            "title",
            "style",
            "body",
            "main",
            "h1",
            "div",
            "table",
            "caption",
            "strong",
        ),
        *("thead", "tbody", "tr", "th", "td", "span", "bdi", "small", "b", "i", "wbr"),
    }
    assert not any(key.startswith("on") or key in ("src", "href") for e in page.elements for key in e)
    assert page.all("h1")[0]["text"] == name
    assert page.all("th", scope="row")[0]["text"] == f"{name}true: {name}"
    assert page.all("th", scope="colgroup")[0]["text"] == name


def test_names_cannot_turn_or_break_the_text_around_them():
    name = "\u202egnp.exe\x07\n\u2066\ufeff\udc80"
    html = to_html(heat_map([name], ["cat", "dog"], {"m": np.array([[0.25, 0.75]])}))
    assert "\ufffdgnp.exe" + "\ufffd" * 5 in html
    assert not set("\u202e\x07\u2066\ufeff\udc80") & set(html)
    html.encode("utf-8")
    assert "<bdi>شمس\u200c.jpg</bdi>" in to_html(
        heat_map(["شمس\u200c.jpg"], ["cat", "dog"], {"m": np.array([[0.25, 0.75]])})
    )


def test_long_names_are_cut_and_told_in_full_where_the_pointer_rests():
    name, group = "n" * 90 + ".jpg", "g" * 40
    page = read(to_html(heat_map([name], [group, "dog"], {"m": np.array([[0.25, 0.75]])})))
    (row,) = page.all("th", scope="row")
    assert row["title"] == name
    assert len(row["text"]) == 44
    assert page.all("th", scope="col")[1]["title"] == group
    assert "title" not in page.all("th", scope="col")[2]


def test_the_page_stands_alone():
    crop = np.random.default_rng(0).integers(0, 256, (224, 224, 3), dtype=np.uint8)
    table = np.array([[0.25, 0.75]])
    text = to_html_page(heat_map(["a"], ["cat", "dog"], {"m": table}, [0], [crop]), "T")
    page = read(text)
    assert page.all("html", lang="en")
    assert page.all("meta", name="viewport")[0]["content"].startswith("width=device-width")
    assert not page.all("script") + page.all("link")
    assert not re.search(r"https?:|//|url\(|@import", re.sub(r'src="data:[^"]*"', "", text))
    assert all(image["src"].startswith("data:image/jpeg;base64,") for image in page.all("img"))
    assert "style" not in {key for e in page.elements for key in e}
    (policy,) = page.all("meta", **{"http-equiv": "Content-Security-Policy"})
    assert "default-src 'none'" in policy["content"]
    (style,) = page.all("style")
    digest = base64.b64encode(hashlib.sha256(style["text"].encode()).digest()).decode()
    assert f"style-src 'sha256-{digest}'" in policy["content"]
    assert "unsafe" not in policy["content"]


def test_thumbnails_are_small_and_show_the_crop():
    import cv2

    crop = np.zeros((300, 300, 3), np.uint8)
    crop[..., 0] = 250  # red, were the channels not mixed up
    table = np.array([[0.25, 0.75]])
    html = to_html(heat_map(["a", "b"], ["cat", "dog"], {"m": np.repeat(table, 2, 0)}, None, [crop, None]))
    (image,) = read(html).all("img")
    assert image["alt"] == ""
    stream = base64.b64decode(image["src"].partition(",")[2])
    pixels = cv2.cvtColor(cv2.imdecode(np.frombuffer(stream, np.uint8), cv2.IMREAD_COLOR), cv2.COLOR_BGR2RGB)
    assert pixels.shape == (96, 96, 3)
    assert pixels.mean(axis=(0, 1)) == pytest.approx([250, 0, 0], abs=4)


def test_many_classes_show_the_rest_as_one_column():
    table = np.full((1, 60), 0.4 / 59)
    table[0, 7] = 0.6
    names = [f"class {index}" for index in range(60)]
    page = read(to_html(heat_map(["a"], names, {"CE": table, "CRL": table}, [3])))
    heads = [head["text"] for head in page.all("th", scope="col")][1:]
    assert len(heads) == 2 * 25
    assert heads[24] == heads[49] == "other (36)"
    last = page.all("td")[24]
    assert float(last["text"]) == pytest.approx(36 * 0.4 / 59, abs=0.005)
    assert "o" in last["class"].split()


def test_a_class_is_called_as_people_read_it_and_a_long_name_stays_whole():
    names = ["001.Black_footed_Albatross", "Chevrolet Silverado 1500 Hybrid Crew Cab 2012"]
    page = read(to_html(heat_map(["a"], names, {"m": np.array([[0.25, 0.75]])}, [0])))
    heads = page.all("th", scope="col")[1:]
    assert [head["text"] for head in heads] == ["Black footed Albatross", names[1]]
    assert heads[1]["title"] == names[1]
    assert "true: Black footed Albatross" in page.all("th", scope="row")[0]["text"]


@pytest.mark.parametrize("steps", [style.DAY_STEPS, style.NIGHT_STEPS], ids=["day", "night"])
def test_numbers_read_on_every_step(steps: list[tuple[str, str]]):
    assert len(steps) == style.LEVELS + 1
    assert min(contrast(paper, ink) for paper, ink in steps) >= READABLE


@pytest.mark.parametrize("steps", [style.DAY_STEPS, style.NIGHT_STEPS], ids=["day", "night"])
def test_every_step_is_farther_from_the_page_than_the_last(steps: list[tuple[str, str]]):
    light = [luminance(paper) for paper, _ in steps]
    order = sorted(light, reverse=light[0] > light[-1])
    assert light == order
    assert len(set(light)) == len(light)


@pytest.mark.parametrize(
    ("paper", "ink", "muted", "truth", "steps"),
    [
        (PAPER, INK, MUTED, VERMILION, style.DAY_STEPS),
        (style.NIGHT_PAPER, style.NIGHT_INK, style.NIGHT_MUTED, style.NIGHT_TRUTH, style.NIGHT_STEPS),
    ],
)
def test_words_noughts_and_frames_stand_out(
    paper: str, ink: str, muted: str, truth: str, steps: list[tuple[str, str]]
):
    assert contrast(paper, ink) >= READABLE
    assert contrast(paper, muted) >= READABLE
    assert contrast(steps[0][0], muted) >= READABLE  # the grey 0 lies on the first step
    assert contrast(paper, truth) >= GRAPHIC  # the frame has a line of the page's colour along its inside


def test_every_rule_names_the_table():
    rules = re.findall(r"(?:^|[{}])([^{}@]+)\{", style.STYLE)
    assert len(rules) > 60
    assert [rule for rule in rules if ".crl-heat" not in rule] == []
    for selector in ",".join(rules).split(","):
        assert selector.startswith((".crl-heat", ".dark .crl-heat"))


def test_the_colours_are_those_of_the_steps():
    for level, (paper, ink) in enumerate(style.DAY_STEPS):
        assert f"--h{level}:{paper};--i{level}:{ink}" in style.STYLE
    assert style.STYLE.count("{") == style.STYLE.count("}")
    assert style.PAGE_STYLE.count("{") == style.PAGE_STYLE.count("}")
