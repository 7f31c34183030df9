"""The curve of an answer in years: its median, its range, and its words."""

from __future__ import annotations

import re

import numpy as np

from agecls.task import TASK
from apps.demo.line_chart import curve_html

NAMES = (*map(str, range(100)), "100+")
LINE = TASK.number_line(NAMES)
PROBS = np.bincount([20, 30, 30, 30, 31, 32, 33, 40, 40, 41], minlength=101) / 10


def test_the_curve_marks_the_median_and_shades_the_middle_of_the_probability():
    assert LINE is not None
    html = curve_html(LINE, NAMES, PROBS, None)
    assert "Probability by age: highest at 30, median 31, the middle of the probability from 20 to 40" in html
    assert '<path class="at" d="M31 0V100"/>' in html
    assert '<rect class="range" x="19.5" y="0" width="21" height="100"/>' in html
    points = re.search(r'class="edge" points="([^"]*)"', html)
    assert points is not None
    pairs = [tuple(map(float, pair.split(","))) for pair in points[1].split()]
    assert len(pairs) == 101
    assert min(pairs, key=lambda pair: pair[1])[0] == 30
    assert re.findall(r"%\">([^<]*)</span>", html) == ["0", "25", "50", "75", "100+"]
    assert 'class="true"' not in html


def test_a_set_takes_the_place_of_the_middle_and_the_true_year_is_marked():
    assert LINE is not None
    inside = np.isin(np.arange(101), range(28, 36))
    html = curve_html(LINE, NAMES, PROBS, inside, true=29)
    assert "the set from 28 to 35" in html
    assert '<rect class="range" x="27.5" y="0" width="8" height="100"/>' in html
    assert '<path class="true" d="M29 0V100"/>' in html
