"""`crl curves`: draw each loss's value and gradient magnitude against the target's posterior."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import cycle
from pathlib import Path
from typing import TYPE_CHECKING, Any

from finetune.runs.csv_file import CsvWriter

if TYPE_CHECKING:
    from matplotlib.axes import Axes

    from core_losses import Curve

# Okabe and Ito's colours, told apart by every common kind of colour vision; dashes tell them apart in grey.
_STYLES: tuple[dict[str, Any], ...] = (
    {"color": "#000000", "linestyle": "-"},
    {"color": "#E69F00", "linestyle": (0, (5, 1.5))},
    {"color": "#D55E00", "linestyle": "-", "linewidth": 2.6},
    {"color": "#0072B2", "linestyle": (0, (6, 1.5, 1, 1.5))},
    {"color": "#009E73", "linestyle": (0, (1.5, 1.2))},
    {"color": "#CC79A7", "linestyle": (0, (8, 2))},
    {"color": "#56B4E9", "linestyle": (0, (3, 1.2))},
)


def draw_curves(
    out: Path, *, losses: Sequence[str] = (), points: int = 199, options: Mapping[str, Any] | None = None
) -> dict[str, Any]:
    """Draw loss and gradient of losses of p_c alone against p_c, with a table of the numbers.

    Args:
        out: folder for `curves.png` and `curves.csv`; made where it is missing.
        losses: words NAME or NAME:OPTION=VALUE; empty takes every loss that has such a curve.
        points: how many posteriors, evenly spaced inside (0, 1).
        options: settings by name, >= 0, for every loss that takes them where its word does not.

    Returns:
        `png` and `csv`, the paths written, and `labels`, each loss's name with its settings.

    Raises:
        UsageError: for an unknown loss, one without such a curve, a setting that no loss takes or that is
            negative, or fewer than one point.
    """
    from core_losses import (
        posterior_curves,
        posterior_grid,
    )  # torch is imported here, so that --help stays quick
    from finetune.cli.words import split_word
    from finetune.errors import UsageError
    from finetune.training.loss_choice import known_name

    try:
        words = [split_word(word, "losses") for word in losses]
        chosen = [(known_name(name), own) for name, own in words] or None
        curves = posterior_curves(posterior_grid(points), chosen, **(options or {}))
    except ValueError as error:
        raise UsageError(str(error)) from error
    out.mkdir(parents=True, exist_ok=True)
    png, table = out / "curves.png", out / "curves.csv"
    _write_table(table, curves)
    _write_picture(png, curves)
    names = [curve.name for curve in curves]
    labels = {curve.name if names.count(curve.name) == 1 else curve.label: curve.label for curve in curves}
    return {"png": png, "csv": table, "labels": labels}


def _write_table(file: Path, curves: Sequence[Curve]) -> None:
    with file.open("w", newline="", encoding="utf-8") as stream:
        writer = CsvWriter(stream, "\r\n")
        writer.row(["loss", "label", "p_c", "value", "gradient_dL_dz_c", "step_relative_to_ce"])
        for curve in curves:
            for row in zip(curve.p, curve.loss, curve.gradient, curve.step, strict=True):
                writer.row([curve.name, curve.label, *(format(float(number), ".10g") for number in row)])


def _write_picture(file: Path, curves: Sequence[Curve]) -> None:
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(10.5, 4.4), layout="constrained")
    FigureCanvasAgg(figure)
    losses, pushes = figure.subplots(1, 2)
    for curve, own in zip(curves, cycle(_STYLES), strict=False):
        style = {"linewidth": 1.8, **own}
        losses.plot(curve.p, curve.loss, label=curve.label, **style)
        pushes.plot(curve.p, -curve.gradient, label=curve.label, **style)
    _dress(losses, "What each loss charges", "$L$", (-3.0, 5.0))
    losses.axhline(0.0, color="0.6", linewidth=0.8, zorder=0)
    highest = max(1.0, *(float((-curve.gradient).max()) for curve in curves))
    _dress(
        pushes,
        "Gradient magnitude on the target's logit",
        "$-\\partial L\\,/\\,\\partial z_c$",
        (0.0, 1.1 * highest),
    )
    figure.legend(
        *losses.get_legend_handles_labels(), loc="outside lower center", ncols=len(curves), frameon=False
    )
    figure.savefig(file, dpi=160)


def _dress(axes: Axes, title: str, ylabel: str, ylim: tuple[float, float]) -> None:
    axes.set_title(title, loc="left", fontsize=12)
    axes.set_xlabel("$p_c$, posterior of the target class")
    axes.set_ylabel(ylabel)
    axes.set_xlim(0.0, 1.0)
    axes.set_ylim(*ylim)
    axes.spines[["top", "right"]].set_visible(False)
    axes.grid(color="0.92", linewidth=0.8)
    axes.set_axisbelow(True)
