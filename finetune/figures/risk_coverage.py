"""Risk against coverage: how often the surest answers are wrong, for every part of the images."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np

from finetune.figures import canvas
from finetune.metrics.selective import RiskCoverage

COLOURS = (canvas.BLUE, canvas.VERMILION, canvas.MUTED)
POINTS = 1000  # drawn of a curve at most


def draw_risk_coverage(curves: Mapping[str, RiskCoverage], out: Path) -> Path:
    """Draw the error among the surest images against how many are answered; dotted, if all were answered.

    Args:
        curves: what is missed, in words ("exact accuracy"), and its curve, fractions; at most three.
        out: the PNG to write.

    Returns:
        `out`.
    """
    count = max((len(curve.risk) for curve in curves.values()), default=0)
    title = f"Risk and coverage, {canvas.count_text(count, 'image')}"
    subtitle = "only the surest images are answered; dotted: the error if all are"
    with canvas.new_figure(out, 3.8, title, subtitle, width=6.4) as figure:
        axes = figure.add_subplot()
        axes.grid(True, axis="y")
        for (name, curve), colour in zip(curves.items(), COLOURS, strict=False):
            if not len(curve.risk):
                continue
            rows = np.unique(np.linspace(0, len(curve.risk) - 1, POINTS).round().astype(int))
            marker = "o" if len(rows) == 1 else ""
            label = f"by {name}: area {100 * curve.area:.1f} %"
            x, y = 100 * curve.coverage[rows], 100 * curve.risk[rows]
            axes.plot(x, y, color=colour, linewidth=1.8, label=label, marker=marker, clip_on=False)
            axes.axhline(100 * curve.risk[-1], color=colour, linewidth=0.9, linestyle=(0, (1, 2)))
        axes.set(xlabel="images answered (%), the surest first", ylabel="wrong among them (%)", xlim=(0, 100))
        axes.set_ylim(bottom=0)
        if axes.has_data():
            axes.legend(loc="upper left", bbox_to_anchor=(0.0, 1.16), ncols=2, fontsize=canvas.SMALL)
        else:
            axes.text(0.5, 0.5, "no images", ha="center", transform=axes.transAxes, color=canvas.MUTED)
    return out
