from __future__ import annotations

import re
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from apps.demo import text as demo_page
from apps.demo import theme as demo_look
from apps.demo.examples import Example, Examples
from finetune.images.decode import FORMAT_NAMES, FORMATS

ROOT = Path(__file__).resolve().parents[3]


def item(name: str, class_name: str | None = None) -> Example:
    return Example(Path(name), class_name, np.zeros((4, 4, 3), np.uint8), name)


def test_a_tab_without_a_model_says_how_to_add_one():
    for task in ("age", "category"):
        html = demo_page.missing_html(task)
        assert "crl export" in html
        assert "crl demo" in html


def test_the_words_say_what_it_is_not_for_and_when_pictures_go():
    assert "not for decisions about individuals" in demo_page.about("age")
    assert "removed within 10 minutes" in demo_page.privacy_html("age", 10)
    assert "removed within a minute" in demo_page.privacy_html("category", 1)
    assert "removed within 12 seconds" in demo_page.privacy_html("category", 0.2)
    assert "uploads go within 12 seconds" in demo_page.footer_html(0.2)
    assert re.search(r"\bages?\b", demo_page.privacy_html("category", 1)) is None


def test_examples_are_named_buttons_that_can_be_switched():
    html = demo_page.examples_template(Examples((item("x/a.png", "60+"), item("x/b.png"))))
    assert html.count("<button") == 2
    assert 'data-example="1" aria-pressed="${value.includes(1)}"' in html
    assert 'alt="example, 60+"' in html
    assert 'alt="example b"' in html


@pytest.mark.parametrize("name", ["${alert(1)}", "`+alert(1)+`", "{{#if x}}", "\\u0060", '"><script>'])
def test_a_name_cannot_add_to_the_template(name):
    html = demo_page.examples_template(Examples((item("a.png", name),)))
    rest = html.replace("${value.includes(0)}", "")
    assert not set("`${}\\") & set(rest)
    assert "<script" not in rest


def test_the_switch_says_why_it_is_fixed():
    without = SimpleNamespace(detector=None, has_maps=False)
    assert "No face detector" in demo_page.cropped_info(without)
    assert "Takes longer" in demo_page.explain_info(without)
    with_one = SimpleNamespace(detector=object(), has_maps=True)
    assert "faces are found" in demo_page.cropped_info(with_one)
    assert "class activation map" in demo_page.explain_info(with_one)


def test_the_look_needs_nothing_from_elsewhere():
    assert demo_look.FAVICON.is_file()
    for text in (demo_look.STYLESHEET.read_text(encoding="utf-8"), demo_page.COPY_SCRIPT, demo_page.HEADER):
        assert "http" not in text
        assert "@import" not in text
    assert "url(" not in demo_look.STYLESHEET.read_text(encoding="utf-8")


def luminance(colour: str) -> float:
    parts = [int(colour[start : start + 2], 16) / 255 for start in (1, 3, 5)]
    linear = [part / 12.92 if part <= 0.04045 else ((part + 0.055) / 1.055) ** 2.4 for part in parts]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


def contrast(first: str, second: str) -> float:
    """Return the contrast of two colours as WCAG 2.2 defines it, 1 to 21."""
    high, low = sorted((luminance(first), luminance(second)), reverse=True)
    return (high + 0.05) / (low + 0.05)


def variables(selector: str) -> dict[str, str]:
    sheet = demo_look.STYLESHEET.read_text(encoding="utf-8")
    block = sheet[sheet.index(selector) :].split("{", 1)[1].split("}", 1)[0]
    return {
        name.strip(): value.strip() for name, _, value in (part.partition(":") for part in block.split(";"))
    }


@pytest.mark.parametrize("selector", [":root, .gradio-container", ".dark, .dark .gradio-container"])
def test_text_can_be_read_in_light_and_dark(selector):
    colours = variables(selector)
    for ink in ("ink", "muted", "accent", "truth", "warn"):
        for paper in ("page", "panel"):
            assert contrast(colours[f"--crl-{ink}"], colours[f"--crl-{paper}"]) >= 4.5, (ink, paper)
    for ink in ("accent", "truth", "warn"):
        assert contrast(colours[f"--crl-{ink}"], colours[f"--crl-{ink}-soft"]) >= 4.5, ink
    assert contrast(colours["--crl-muted"], colours["--crl-well"]) >= 4.5
    assert contrast("#ffffff", demo_look.BLUE) >= 4.5


def test_classes_are_called_as_people_read_them():
    names = ("001.Black_footed_Albatross", "002.Laysan_Albatross")
    assert demo_page.class_choices(names) == [
        ("Black footed Albatross", names[0]),
        ("Laysan Albatross", names[1]),
    ]
    html = demo_page.examples_template(Examples((item("x/a.png", names[0]), item("b.png"))), names)
    assert 'alt="example, Black footed Albatross"' in html
    assert "crl-examples is-wide" in html
    assert "is-wide" not in demo_page.examples_template(Examples((item("x/a.png", "60+"),)), ("60+", "0-2"))


def test_the_page_and_the_manual_tell_the_formats_that_are_read():
    told = FORMAT_NAMES.replace(" and ", ", ").split(", ")
    assert tuple(name.upper().replace(" ", "") for name in told) == FORMATS
    assert f"10 MB each: {FORMAT_NAMES}." in demo_page.limits_html(16, 10)
    assert f"* {FORMAT_NAMES} are read." in (ROOT / "docs" / "export.md").read_text(encoding="utf-8")
