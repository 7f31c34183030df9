"""Risk against coverage, drawn for every number of images."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from finetune.figures import canvas
from finetune.figures.risk_coverage import draw_risk_coverage
from finetune.metrics.selective import risk_coverage
from tests.finetune.drawing import has_colour, pixels_of


@pytest.mark.parametrize("count", [0, 1, 1500])
def test_each_measure_has_a_curve(tmp_path: Path, count: int):
    sure = np.linspace(1, 0, count)
    curves = {
        name: risk_coverage(sure, (np.arange(count) % every == 0).astype(float))
        for name, every in (("exact accuracy", 2), ("one-off accuracy", 5))
    }
    pixels = pixels_of(draw_risk_coverage(curves, tmp_path / "risk.png"))
    for colour in (canvas.BLUE, canvas.VERMILION):
        assert has_colour(pixels, colour) == (count > 0)
