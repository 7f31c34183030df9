"""Learning curves for every shape of history; a reliability diagram that shows the metric's own bins."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from finetune.figures import canvas
from finetune.figures.learning_curves import draw_learning_curves, draw_reliability
from finetune.metrics.classification import expected_calibration_error
from tests.agecls.drawing import made_up_answers
from tests.finetune.drawing import has_colour, pixels_of


def history(epochs: int, offset: float = 0.0, validated: bool = True) -> list[dict[str, Any]]:
    rows: list[dict[str, Any]] = []
    for epoch in range(epochs):
        row = {
            "epoch": epoch + 1,
            "stage": "all",
            "train_loss": 2.0 - 0.1 * epoch,
            "train_accuracy": 0.1 * epoch + offset,
        }
        row |= {"val_accuracy": 0.05 * epoch if validated else None}
        rows.append(row)
    return rows


def lines_of(monkeypatch: pytest.MonkeyPatch) -> dict[str, list[float]]:
    """Collect the lines that are plotted from now on, by label."""
    from matplotlib.axes import Axes

    seen: dict[str, list[float]] = {}
    original = Axes.plot

    def record(self, x, y, *arguments, label="", **keywords):
        seen.setdefault(label, []).extend(np.asarray(y).tolist())
        return original(self, x, y, *arguments, label=label, **keywords)

    monkeypatch.setattr(Axes, "plot", record)
    return seen


def test_curves_are_means_over_folds_of_epochs_that_all_reached(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    seen = lines_of(monkeypatch)
    pixels = pixels_of(draw_learning_curves([history(5), history(3, offset=0.2)], tmp_path / "l.png"))
    assert has_colour(pixels, canvas.BLUE)
    assert has_colour(pixels, canvas.VERMILION)
    assert seen["training"] == pytest.approx([10, 20, 30, 2.0, 1.9, 1.8])
    assert seen["validation"] == pytest.approx([0, 5, 10])


def test_an_epoch_that_a_fold_did_not_validate_is_left_out(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    seen = lines_of(monkeypatch)
    gap = history(3)
    gap[1]["val_accuracy"] = None
    draw_learning_curves([history(3), gap], tmp_path / "l.png")
    assert seen["validation"] == pytest.approx([0, 10])


@pytest.mark.parametrize(
    "histories",
    [
        [history(4, validated=False)],
        [history(1)],
        [history(3), history(3, validated=False)],
        [[], history(2)],
    ],
    ids=["no validation", "one epoch", "one fold validated", "one fold not begun"],
)
def test_curves_are_drawn_where_something_is_missing(tmp_path: Path, histories: list[list[dict[str, Any]]]):
    assert has_colour(pixels_of(draw_learning_curves(histories, tmp_path / "l.png")), canvas.BLUE)


@pytest.mark.parametrize("histories", [[], [[]]])
def test_curves_of_nothing_say_so(tmp_path: Path, histories: list[list[dict[str, Any]]]):
    assert not has_colour(pixels_of(draw_learning_curves(histories, tmp_path / "l.png")), canvas.BLUE)


def test_reliability_draws_the_metrics_bins(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    from matplotlib.axes import Axes

    bars = []
    original = Axes.bar

    def record(self, x, height, *arguments, **keywords):
        bars.append(np.asarray(height))
        return original(self, x, height, *arguments, **keywords)

    monkeypatch.setattr(Axes, "bar", record)
    target = np.arange(400) % 8
    probs = made_up_answers(target, 8, seed=0)
    assert has_colour(pixels_of(draw_reliability(probs, target, tmp_path / "r.png")), canvas.SKY)
    bins = expected_calibration_error(probs, target)
    np.testing.assert_allclose(bars[0], 100 * bins.accuracy[bins.count > 0])
    np.testing.assert_array_equal(bars[1], bins.count)


@pytest.mark.parametrize("sure", [1.0, 0.0])
def test_reliability_of_perfect_answers_and_of_none(tmp_path: Path, sure: float):
    target = np.zeros(int(6 * sure), dtype=int)
    pixels_of(draw_reliability(np.eye(3)[target], target, tmp_path / "r.png"))
