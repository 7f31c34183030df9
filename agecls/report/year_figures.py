"""Figures of ages in years: answers against the truth, errors by decade, and single images' probabilities."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from agecls.data.years import Years
from agecls.year_scores import true_years, year_errors
from finetune.experiments.records.predictions import Predictions
from finetune.figures import canvas
from finetune.figures.gallery import draw_thumbnail

FEW = 8  # images of a figure of curves
ROW = 1.05  # inches of each
COLOURS = (canvas.BLUE, canvas.VERMILION)


def draw_answers(found: Predictions, years: Years, out: Path) -> Path:
    """Draw each image's answer against its true age, with the median and the middle 80 % of answers by age.

    Args:
        found: the test images.
        years: what their classes stand for.
        out: the PNG to write.

    Returns:
        `out`.
    """
    truth, answers = true_years(found, years), years.median(found.probs)
    errors = year_errors(found, years)
    title = f"Answers against true ages: mean absolute error {np.abs(errors).mean():.2f} years"
    subtitle = (
        f"{canvas.count_text(len(found), 'image')}; line: median answer of five years of true age, "
        "band: the middle 80 of 100; grey: answer = truth"
    )
    with canvas.new_figure(out, 5.6, title, subtitle) as drawn:
        axes = drawn.add_subplot()
        top = float(max(truth.max(), answers.max())) + 2
        axes.plot([0, top], [0, top], color=canvas.MUTED, linewidth=1.2)
        faint = float(np.clip(12 / np.sqrt(len(found)), 0.08, 0.6))
        jitter = np.random.default_rng(0).uniform(-0.35, 0.35, (2, len(found)))
        axes.scatter(
            truth + jitter[0], answers + jitter[1], s=7, color=canvas.BLUE, alpha=faint, linewidths=0
        )
        starts = np.arange(0, top, 5)
        bins = [(start, answers[(truth >= start) & (truth < start + 5)]) for start in starts]
        enough = [(start + 2, np.percentile(own, (10, 50, 90))) for start, own in bins if len(own) >= 10]
        if enough:
            x, ends = np.array([point for point, _ in enough]), np.array([own for _, own in enough])
            axes.fill_between(x, ends[:, 0], ends[:, 2], color=canvas.VERMILION, alpha=0.18, linewidth=0)
            axes.plot(x, ends[:, 1], color=canvas.VERMILION, linewidth=2)
        axes.set(xlim=(-1, top), ylim=(-1, top), xlabel="true age (years)", ylabel="answer (years)")
        axes.grid(True)
    return out


def draw_decades(rows: list[dict[str, Any]], unit: str, out: Path) -> Path:
    """Draw the mean absolute error of each decade as bars, and its bias as points, both with intervals.

    Args:
        rows: of `decade_rows`.
        unit: what their intervals resample, in one word.
        out: the PNG to write.

    Returns:
        `out`.
    """
    subtitle = f"lines: 95 % intervals over {unit}s; pale, without a line: fewer than 30 {unit}s"
    with canvas.new_figure(out, 4.2, "Error by decade of true age, in years", subtitle) as drawn:
        axes = drawn.add_subplot()
        axes.grid(True, axis="y")
        axes.axhline(0, color=canvas.MUTED, linewidth=1)
        for place, row in enumerate(rows):
            sure = row["mae_interval"] is not None
            axes.bar(place - 0.16, row["mae"], 0.44, color=canvas.BLUE, alpha=1.0 if sure else 0.45)
            shade = 1.0 if sure else 0.45
            axes.plot(place + 0.28, row["bias"], "o", markersize=6, color=canvas.VERMILION, alpha=shade)
            if sure:
                axes.vlines(place - 0.16, *row["mae_interval"], color=canvas.INK, linewidth=1.4)
                axes.vlines(place + 0.28, *row["bias_interval"], color=canvas.VERMILION, linewidth=1.4)
        labels = [f"{row['name']}\nn = {row['images']:,}" for row in rows]
        canvas.label_ticks(axes, "x", labels)
        axes.set(xlabel="true age (years)", ylabel="years")
        _legend(drawn)
    return out


def _legend(drawn: Any) -> None:
    from matplotlib.lines import Line2D
    from matplotlib.patches import Patch

    handles = [
        Patch(color=canvas.BLUE, label="mean absolute error"),
        Line2D([], [], color=canvas.VERMILION, marker="o", linestyle="", label="bias: answer minus truth"),
    ]
    drawn.legend(handles=handles, loc="upper right", ncols=2, bbox_to_anchor=(0.995, 0.985))


def spread(rows: Sequence[int]) -> np.ndarray:
    """Return at most eight of these rows, evenly spread over their order, both ends among them.

    >>> spread(range(10, 30)).tolist()
    [10, 13, 15, 18, 21, 24, 26, 29]
    """
    chosen = np.asarray(rows, dtype=np.int64)
    places = np.linspace(0, len(chosen) - 1, min(FEW, len(chosen))).round().astype(int)
    return np.asarray(chosen[places])


def draw_year_curves(
    files: Sequence[Path],
    found: Predictions,
    probs: Mapping[str, np.ndarray],
    years: Years,
    out: Path,
    *,
    thumbnails: bool = True,
) -> Path:
    """Draw the probability of every year as a curve, an image a row, with its true age and median answers.

    Args:
        files: (N,) image files; one that cannot be read is shown as an empty frame with its name.
        found: the predictions of these images, for their true ages.
        probs: one or two results by name, each (N, K).
        years: what the classes stand for.
        out: the PNG to write.
        thumbnails: show the images beside their curves.

    Returns:
        `out`.
    """
    truth = true_years(found, years)
    subtitle = "black line: true age; dotted: median answer, which half of the probability lies below"
    height = 0.95 + ROW * len(files)
    title = f"Probabilities of the years: {canvas.count_text(len(files), 'image')}"
    with canvas.new_figure(out, height, title, subtitle) as drawn:
        grid = drawn.add_gridspec(len(files), 1 + thumbnails, width_ratios=(1, 9)[-1 - thumbnails :])
        for row, file in enumerate(files):
            if thumbnails:
                draw_thumbnail(drawn.add_subplot(grid[row, 0]), file)
            axes = drawn.add_subplot(grid[row, -1])
            for colour, one in zip(COLOURS, probs.values(), strict=False):
                axes.plot(years.ages, 100 * one[row], color=colour, linewidth=1.4)
                axes.axvline(float(years.median(one[row : row + 1])[0]), color=colour, linestyle=":")
            axes.axvline(truth[row], color=canvas.INK, linewidth=1.6)
            axes.set(xlim=(years.ages[0] - 0.5, years.ages[-1] + 0.5), ylim=(0, None), ylabel="%")
            axes.set_title(f"true age {truth[row]:g}", loc="right", fontsize=canvas.SMALL)
            if row < len(files) - 1:
                axes.set_xticklabels([])
        axes.set_xlabel("age (years)")
        _name_curves(drawn, list(probs))
    return out


def _name_curves(drawn: Any, names: Sequence[str]) -> None:
    from matplotlib.lines import Line2D

    handles = [
        Line2D([], [], color=colour, label=canvas.shorten(name, 30))
        for colour, name in zip(COLOURS, names, strict=False)
    ]
    drawn.legend(handles=handles, loc="upper right", ncols=2, bbox_to_anchor=(0.995, 0.999))
