"""How training went and how far its probabilities can be trusted: learning curves, reliability diagram."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from finetune.figures import canvas
from finetune.metrics.classification import Calibration, accuracy, expected_calibration_error

if TYPE_CHECKING:
    from matplotlib.axes import Axes


def draw_learning_curves(
    histories: Sequence[Sequence[Mapping[str, Any]]], out: Path, *, unit: str = "fold"
) -> Path:
    """Draw accuracy and loss against epochs: the mean over folds, in a band from the lowest to the highest.

    Folds may differ in length: drawn are the epochs that every fold reached, so that no mean changes folds.

    Args:
        histories: the epoch rows of each fold: `epoch` from 1, `train_loss`, `train_accuracy` and, where
            there was a validation part, `val_loss` and `val_accuracy` (fractions in [0, 1]; None or absent
            where not measured).
        out: the PNG to write.
        unit: what one history is of: a fold, a run.

    Returns:
        `out`.
    """
    folds = [history for history in histories if history]
    epochs = min((max(int(row["epoch"]) for row in history) for history in folds), default=0)
    many = f"mean of {len(folds)} {unit}s" if len(folds) > 1 else f"one {unit}"
    title = f"Learning curves: {many}, {canvas.count_text(epochs, 'epoch')}"
    subtitle = f"band: from the lowest to the highest {unit}" if len(folds) > 1 else ""
    with canvas.new_figure(out, 3.5, title, subtitle) as figure:
        left, right = figure.subplots(1, 2)
        for axes, quantity, label, scale in (
            (left, "accuracy", "accuracy (%)", 100),
            (right, "loss", "loss", 1),
        ):
            for part, colour in (("train", canvas.BLUE), ("val", canvas.VERMILION)):
                table = scale * _epoch_table(folds, f"{part}_{quantity}", epochs)
                _draw_band(axes, table, "training" if part == "train" else "validation", colour)
            axes.grid(True, axis="y")
            axes.set(xlabel="epoch", ylabel=label)
            axes.set_xlim(1 - 0.02 * epochs, max(epochs * 1.02, 2))
            axes.xaxis.get_major_locator().set_params(integer=True)
            if axes.has_data():
                axes.legend(loc="best")
            else:
                axes.text(0.5, 0.5, "not measured", ha="center", transform=axes.transAxes, color=canvas.MUTED)
    return out


def _epoch_table(folds: Sequence[Sequence[Mapping[str, Any]]], key: str, epochs: int) -> np.ndarray:
    """Return (folds that measured `key`, epochs) values, nan where an epoch was not measured."""
    table = np.full((len(folds), epochs), np.nan)
    for fold, history in enumerate(folds):
        for row in history:
            value = row.get(key)
            if value is not None and int(row["epoch"]) <= epochs:
                table[fold, int(row["epoch"]) - 1] = value
    measured: np.ndarray = np.isfinite(table).any(axis=1)
    return np.asarray(table[measured])


def _draw_band(axes: Axes, table: np.ndarray, name: str, colour: str) -> None:
    whole = np.isfinite(table).all(axis=0)
    if not len(table) or not whole.any():
        return
    x, values = np.flatnonzero(whole) + 1, table[:, whole]
    marker = "o" if len(x) == 1 else ""
    axes.plot(x, values.mean(axis=0), color=colour, linewidth=1.8, label=name, marker=marker)
    if len(table) > 1:
        axes.fill_between(x, values.min(axis=0), values.max(axis=0), color=colour, alpha=0.18, linewidth=0)


def draw_reliability(probs: np.ndarray, target: np.ndarray, out: Path, *, unit: str = "group") -> Path:
    """Draw accuracy against confidence in 15 bins of equal width, and below it the images per bin.

    The bins and the expected calibration error are those of
    `finetune.metrics.classification.expected_calibration_error`.

    Args:
        probs: (N, K) probabilities.
        target: (N,) int true classes.
        out: the PNG to write.
        unit: what one class is: a group, a class.

    Returns:
        `out`.
    """
    bins = expected_calibration_error(probs, target)
    middles, width = 50 * (bins.low + bins.high), 90 / len(bins.count)
    error = "no images" if np.isnan(bins.error) else f"ECE {100 * bins.error:.1f} %"
    title = f"Reliability: {canvas.count_text(len(target), 'image')}, {error}"
    with canvas.new_figure(out, 5.6, title, _reliability_words(probs, target), width=6.0) as figure:
        upper, lower = figure.subplots(2, 1, sharex=True, height_ratios=(3, 1))
        _draw_reliability_bars(upper, bins, middles, width, unit)
        lower.bar(middles, bins.count, width, color=canvas.FAINT, edgecolor=canvas.MUTED, linewidth=0.6)
        for x, n in zip(middles, bins.count, strict=True):
            if n:
                lower.text(x, n, f"{n:,}", ha="center", va="bottom", size=canvas.SMALL - 1.5)
        lower.set(xlabel=f"probability of the predicted {unit} (%)", ylabel="images", xlim=(0, 100))
        lower.margins(y=0.22)
    return out


def _reliability_words(probs: np.ndarray, target: np.ndarray) -> str:
    if not len(target):
        return ""
    said, held = 100 * float(probs.max(axis=1).mean()), 100 * accuracy(probs, target)
    verdict = ": overconfident" if said - held > 1 else ": underconfident" if held - said > 1 else ""
    return f"says {said:.1f} % on average, is correct for {held:.1f} % of the images{verdict}"


def _draw_reliability_bars(
    axes: Axes, bins: Calibration, middles: np.ndarray, width: float, unit: str
) -> None:
    filled = bins.count > 0
    right, sure = 100 * bins.accuracy[filled], 100 * bins.confidence[filled]
    axes.plot(
        [0, 100],
        [0, 100],
        color=canvas.MUTED,
        linewidth=1,
        linestyle=(0, (4, 3)),
        label="perfectly calibrated",
    )
    axes.bar(middles[filled], right, width, color=canvas.SKY, label="accuracy in the bin")
    axes.vlines(sure, right, sure, color=canvas.VERMILION, linewidth=1.6, label="gap to the mean probability")
    axes.set(ylim=(0, 100), yticks=range(0, 101, 20), ylabel=f"predicted {unit} is correct (%)")
    axes.grid(True, axis="y")
    axes.legend(
        loc="lower center", bbox_to_anchor=(0.5, 1.0), ncols=3, fontsize=canvas.SMALL, columnspacing=1.2
    )
