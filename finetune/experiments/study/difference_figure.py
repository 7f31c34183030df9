"""Every arm's paired difference to cross-entropy with its interval, one line each."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from finetune.experiments.study.conclusion import all_alike, interval_words, p_text, signed
from finetune.experiments.study.titles import short_titles
from finetune.figures import canvas

if TYPE_CHECKING:
    from matplotlib.axes import Axes

ROW, TITLE_WIDTH = 0.3, 2.9  # inches; a title may have two lines
FAR = 6.0  # medians of the reach beyond which a line is cut off
Row = tuple[str, Mapping[str, Any]]


def draw_differences(summary: Mapping[str, Any], out: Path) -> Path | None:
    """Draw the mean difference of each arm to cross-entropy in the first measure, with its interval.

    Blue lines are differences that the Holm-adjusted paired t-test shows; grey ones are not shown. A line
    that would flatten all the others is cut off, with a triangle; its numbers stand beside it all the same.

    Args:
        summary: of `summarise_study`.
        out: the PNG to write.

    Returns:
        `out`, or None where no arm has an interval (a single seed).
    """
    measure = summary["measures"][0]
    found = [(row["title"], row["measures"][measure["key"]]["difference"]) for row in summary["arms"]]
    rows: list[Row] = [(title, one) for title, one in found if one is not None and one["interval"]]
    if not rows:
        return None
    label, level = measure["label"].removesuffix("(%)").strip(), 100 * summary["level"]
    title = f"Difference from CE in {label}, in points"
    subtitle = (
        f"mean over paired seeds, its {level:g} % interval, the Holm-adjusted p of the paired t-test\n"
        "blue: shown; grey: not shown"
    )
    limit = _reach(rows)
    if any(abs(end) > limit for _, found in rows for end in found["interval"]):
        subtitle += "; triangles: beyond the axis"
    with canvas.new_figure(out, 1.45 + ROW * len(rows), title, subtitle, 9.0) as figure:
        axes = figure.subplots()
        _draw_rows(axes, rows, limit)
        axes.set_xlabel("lower than CE  |  higher than CE", color=canvas.MUTED, size=canvas.SMALL)
    return out


def _reach(rows: Sequence[Row]) -> float:
    """Return how far the axis goes each way; arms without any difference do not shorten it."""
    reach = np.array([max(abs(end) for end in found["interval"]) for _, found in rows])
    reach = reach[reach > 0]
    return min(float(reach.max()), FAR * float(np.median(reach))) if reach.size else 1.0


def _draw_rows(axes: Axes, rows: Sequence[Row], limit: float) -> None:
    axes.axvline(0, color=canvas.INK, linewidth=0.9)
    for y, (_, found) in enumerate(rows):
        colour = canvas.BLUE if found["shown"] else canvas.MUTED
        low, high = (float(np.clip(end, -limit, limit)) for end in found["interval"])
        axes.plot([low, high], [y, y], color=colour, linewidth=1.8, solid_capstyle="butt")
        if abs(found["mean"]) <= limit:
            axes.plot(found["mean"], y, "o", color=colour, markersize=5)
        for side in {float(np.sign(end)) for end in found["interval"] if abs(end) > limit}:
            mark = "<" if side < 0 else ">"
            axes.plot(limit * side, y, mark, color=colour, markersize=6, clip_on=False)
        axes.text(
            1.02,
            y,
            _numbers(found),
            transform=axes.get_yaxis_transform(),
            va="center",
            size=canvas.SMALL,
            color=canvas.INK if found["shown"] else canvas.MUTED,
        )
    titles = short_titles([title for title, _ in rows], TITLE_WIDTH, canvas.SMALL)
    canvas.label_ticks(axes, "y", titles, size=canvas.SMALL)
    axes.set(ylim=(len(rows) - 0.4, -0.6), xlim=(-1.05 * limit, 1.05 * limit))
    axes.spines["left"].set_visible(False)
    axes.grid(True, axis="x")


def _numbers(found: Mapping[str, Any]) -> str:
    if all_alike(found):
        return f"{signed(found['mean'])}, the same for all seeds"
    return f"{signed(found['mean'])} ({interval_words(found)}), p {p_text(found['p_t_holm'])}"
