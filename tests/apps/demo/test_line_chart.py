import xml.etree.ElementTree as ET

import numpy as np
import pytest

from apps.demo.line_chart import Chart, ChartLine, scale, spread


def test_what_lies_outside_the_scales_is_cut_off_and_labelled_at_the_edge():
    line = ChartLine("a", "far", np.array([0.0, 1.0]), np.array([0.0, 1e9]))
    chart = Chart("k", "title", "words", "x", "y", [0, 1], [0, 1]).draw([line])
    assert "e+" not in chart
    assert 'clip-path="url(#k-clip)"' in chart
    label = next(item for item in ET.fromstring(chart).iter("text") if item.text == "far")
    assert 34 <= float(label.get("y")) <= 60


def test_a_chart_escapes_its_words():
    line = ChartLine("a", "<i>&", np.array([0.0, 1.0]), np.array([0.0, 1.0]))
    chart = Chart("k", "<b>", "\"&'", "x", "y", [0, 1], [0, 1]).draw([line])
    assert "<b>" not in chart
    assert "<i>" not in chart
    ET.fromstring(chart)


@pytest.mark.parametrize(("low", "high"), [(0, 1.04), (0, 11.4), (0, 5.2), (-3, 6), (0, 0.001)])
def test_scales_are_round_and_cover(low, high):
    ticks = scale(low, high)
    assert ticks[0] <= low
    assert ticks[-1] >= high - 1e-9
    assert 4 <= len(ticks) <= 10
    assert np.allclose(np.diff(ticks), ticks[1] - ticks[0])


def test_labels_never_overlap():
    places = spread([5, 5, 5, 5], gap=4, low=0, high=20)
    assert sorted(places) == [5, 9, 13, 17]
    assert sorted(spread([20, 20, 20], gap=4, low=0, high=20)) == [12, 16, 20]
