"""Every number reads on its background, in light and dark, and no rule reaches outside the table."""

from __future__ import annotations

import re

import pytest

from apps.heatmap import style as style
from finetune.figures.canvas import INK, MUTED, PAPER, READABLE, VERMILION, contrast, luminance

GRAPHIC = 3.0  # WCAG 2.2, success criterion 1.4.11: least contrast of a mark with what it lies on


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
