"""Titles in pictures: as much as there is room for, and never two alike."""

from __future__ import annotations

import pytest

from finetune.experiments.study.arms import build_arms
from finetune.experiments.study.titles import short_titles
from finetune.figures import canvas


@pytest.mark.parametrize("width", [1.8, 2.4, 2.9])
def test_titles_fit_and_stay_different(width):
    words = [f"crl:alpha=1.{digit}7654321:beta={beta}" for digit in (1, 2, 8) for beta in ("1", "0.87654321")]
    arms = build_arms([*words, "crl:label_smoothing=0.1", "lsoftmax:margin=2:blend_start=100"])
    titles = [arm.title for arm in arms]
    short = short_titles(titles, width, canvas.SMALL)
    assert len(set(short)) == len(set(titles)) == len(titles)
    assert all(canvas.text_width(title, canvas.SMALL) <= width for title in short)
    assert all(title.count("\n") < 2 for title in short)
    assert short[0] == "CE"
