"""`crl curves`: draw what each loss charges, and how hard it pushes, against the target's posterior."""

from __future__ import annotations

import csv
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from matplotlib.axes import Axes

    from core_losses import Curve

# Okabe and Ito's colours, told apart by every common kind of colour vision; dashes tell them apart in grey.
_STYLES: dict[str, dict[str, Any]] = {
    "cel": {"color": "#000000", "linestyle": "-"},
    "nllr": {"color": "#E69F00", "linestyle": (0, (5, 1.5))},
    "crl": {"color": "#D55E00", "linestyle": "-", "linewidth": 2.6},
    "focal": {"color": "#0072B2", "linestyle": (0, (6, 1.5, 1, 1.5))},
    "tce": {"color": "#009E73", "linestyle": (0, (1.5, 1.2))},
}


def draw_curves(
    out: Path,
    *,
    alpha: float = 1.5,
    beta: float = 1.0,
    gamma: float = 2.0,
    a: float = 0.8,
    points: int = 199,
) -> dict[str, Any]:
    """Draw loss and gradient of CE, NLLR, CRL, focal and TCE against p_c, with a table of the numbers.

    Args:
        out: folder for `curves.png` and `curves.csv`; made where it is missing.
        alpha, beta: the competing ratio loss's settings, >= 0.
        gamma: the focal loss's focus, >= 0.
        a: the tamed cross-entropy's bend, >= 0.
        points: how many posteriors, evenly spaced inside (0, 1).

    Returns:
        `png` and `csv`, the paths written, and `labels`, each loss's name with its settings.

    Raises:
        UsageError: for a negative setting or fewer than one point.
    """
    from core_losses import (
        posterior_curves,
        posterior_grid,
    )  # torch is imported here, so that --help stays quick
    from finetune.errors import UsageError

    try:
        curves = posterior_curves(posterior_grid(points), alpha=alpha, beta=beta, gamma=gamma, a=a)
    except ValueError as error:
        raise UsageError(str(error)) from error
    out.mkdir(parents=True, exist_ok=True)
    png, table = out / "curves.png", out / "curves.csv"
    _write_table(table, curves)
    _write_picture(png, curves)
    return {"png": png, "csv": table, "labels": {curve.name: curve.label for curve in curves}}


def _write_table(file: Path, curves: Sequence[Curve]) -> None:
    with file.open("w", newline="", encoding="utf-8") as stream:
        writer = csv.writer(stream)
        writer.writerow(["loss", "label", "p_c", "value", "gradient_dL_dz_c", "step_relative_to_ce"])
        for curve in curves:
            for row in zip(curve.p, curve.loss, curve.gradient, curve.step, strict=True):
                writer.writerow([curve.name, curve.label, *(format(float(number), ".10g") for number in row)])


def _write_picture(file: Path, curves: Sequence[Curve]) -> None:
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(10.5, 4.4), layout="constrained")
    FigureCanvasAgg(figure)
    losses, pushes = figure.subplots(1, 2)
    for curve in curves:
        style = {"linewidth": 1.8, **_STYLES[curve.name]}
        losses.plot(curve.p, curve.loss, label=curve.label, **style)
        pushes.plot(curve.p, -curve.gradient, label=curve.label, **style)
    _dress(losses, "What each loss charges", "$L$", (-3.0, 5.0))
    losses.axhline(0.0, color="0.6", linewidth=0.8, zorder=0)
    highest = max(1.0, *(float((-curve.gradient).max()) for curve in curves))
    _dress(
        pushes,
        "How hard it raises the target's logit",
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
