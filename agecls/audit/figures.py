"""The figures of an age audit: rates by challenge age, their trade-off, pass rates by age, errors by cell."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from finetune.experiments.sections import FIGURES, figure
from finetune.figures import canvas
from finetune.figures.markdown import Picture

if TYPE_CHECKING:
    from matplotlib.axes import Axes

Scored = Mapping[str, Any]
MARKED = (18, 21, 25, 30, 35)  # challenge ages that the trade-off names


def draw_figures(scored: Scored, out: Path) -> list[Picture]:
    """Draw what the audit has numbers for under `out`; return the figures with titles and captions."""
    made = []
    minors, adults = scored["minors"]["images"], scored["adults"]["images"]
    if minors and adults:
        draw_challenge(scored, out / FIGURES / "challenge.png")
        made.append(figure("challenge", "Rates by challenge age", _BANDS.format(**_words(scored))))
        draw_trade_off(scored, out / FIGURES / "trade_off.png")
        made.append(
            figure("trade_off", "Trade-off", "Each point is a challenge age; lines are 95 % intervals.")
        )
    if scored["pass_rates"]:
        draw_pass_rates(scored, out / FIGURES / "pass_rate.png")
        made.append(figure("pass_rate", "Pass rate by age", "Ages without an image have no point."))
    if scored["errors"]["cells"]:
        draw_cells(scored, out / FIGURES / "cells.png")
        made.append(
            figure("cells", "Error by age and sex", "Cells below ten images are hollow: not averaged.")
        )
    return made


_BANDS = "Minors are {minors}, adults {adults}. Intervals resample whole {unit}."


def _words(scored: Scored) -> dict[str, str]:
    bands = {name: "{}-{}".format(*scored[f"{name[:-1]}_band"]) for name in ("minors", "adults")}
    return {**bands, "unit": scored["unit"]}


def draw_challenge(scored: Scored, out: Path) -> Path:
    """Draw FPR and burden (percent) against the challenge age, with their intervals."""
    rows = scored["challenge_ages"]
    ages = np.array([row["challenge"] for row in rows])
    title = f"Who is taken for the challenge age or older: {scored['name']}"
    subtitle = f"{_of(scored, 'minors')}; {_of(scored, 'adults')}; bands are 95 % intervals"
    with canvas.new_figure(out, 4.4, title, subtitle) as drawing:
        axes = drawing.add_subplot()
        _band(axes, ages, [row["fpr"] for row in rows], canvas.VERMILION, "minors at or above it (FPR)")
        _band(axes, ages, [row["burden"] for row in rows], canvas.BLUE, "adults below it (burden)")
        axes.axvline(scored["headline"], color=canvas.MUTED, linewidth=0.9, linestyle=(0, (4, 3)))
        axes.set(xlabel="challenge age (years)", ylabel="% of images", ylim=(0, 100))
        axes.set_xlim(ages[0] - 0.5, ages[-1] + 0.5)
        axes.grid(visible=True)
        axes.legend(loc="upper center")
    return out


def _of(scored: Scored, who: str) -> str:
    band, found = scored[f"{who[:-1]}_band"], scored[who]
    people = f" of {found['units']} people" if scored["unit"] == "people" else ""
    return f"{who} {band[0]}-{band[1]}: {canvas.count_text(found['images'], 'image')}{people}"


def _band(axes: Axes, x: np.ndarray, rates: Sequence[Scored], colour: str, label: str) -> None:
    middle, low, high = (np.array([rate[key] for rate in rates], float) for key in ("percent", "low", "high"))
    axes.fill_between(x, low, high, color=colour, alpha=0.18, linewidth=0)
    axes.plot(x, middle, color=colour, linewidth=1.8, marker="o", markersize=3.5, label=label)


def draw_trade_off(scored: Scored, out: Path) -> Path:
    """Draw FPR against burden, a point per challenge age."""
    rows = scored["challenge_ages"]
    x = [row["burden"]["percent"] for row in rows]
    y = [row["fpr"]["percent"] for row in rows]
    with canvas.new_figure(
        out, 4.6, f"What a challenge age costs: {scored['name']}", _of(scored, "minors")
    ) as f:
        axes = f.add_subplot()
        for row in rows:
            if row["challenge"] in (*MARKED, scored["headline"]):
                _cross(axes, row)
        axes.plot(x, y, color=canvas.BLUE, linewidth=1.6, marker="o", markersize=4)
        adults, minors = ("{}-{}".format(*scored[key]) for key in ("adult_band", "minor_band"))
        axes.set(
            xlabel=f"burden: % of adults ({adults}) below it",
            ylabel=f"FPR: % of minors ({minors}) at or above it",
        )
        axes.set_xlim(left=-2)
        axes.set_ylim(bottom=-2)
        axes.grid(visible=True, axis="both")
    return out


def _cross(axes: Axes, row: Scored) -> None:
    """Draw a point's two intervals and its challenge age beside it."""
    fpr, burden = row["fpr"], row["burden"]
    style: dict[str, Any] = {"color": canvas.MUTED, "linewidth": 1.0}
    axes.plot([burden["low"], burden["high"]], [fpr["percent"]] * 2, **style)
    axes.plot([burden["percent"]] * 2, [fpr["low"], fpr["high"]], **style)
    axes.annotate(
        str(row["challenge"]), (burden["percent"], fpr["percent"]), (5, 5), textcoords="offset points"
    )


def draw_pass_rates(scored: Scored, out: Path) -> Path:
    """Draw for each true age how many images are taken for the headline challenge age or older."""
    rows = scored["pass_rates"]
    age = np.array([row["true_age"] for row in rows])
    middle, low, high = (np.array([row[key] for row in rows], float) for key in ("percent", "low", "high"))
    title = f"Taken for {scored['headline']} or older, by true age: {scored['name']}"
    subtitle = f"lines are 95 % intervals over {scored['unit']}; the legal age is dashed"
    with canvas.new_figure(out, 4.2, title, subtitle) as drawing:
        axes = drawing.add_subplot()
        young = age < scored["legal"]
        for rows_of, colour in ((young, canvas.VERMILION), (~young, canvas.BLUE)):
            axes.vlines(age[rows_of], low[rows_of], high[rows_of], color=colour, alpha=0.45, linewidth=2.5)
            axes.plot(age[rows_of], middle[rows_of], color=colour, linewidth=0, marker="o", markersize=4.5)
        axes.axvline(scored["legal"] - 0.5, color=canvas.MUTED, linewidth=0.9, linestyle=(0, (4, 3)))
        axes.set(xlabel="true age (completed years)", ylabel="% of images", ylim=(-3, 103))
        axes.grid(visible=True)
    return out


def draw_cells(scored: Scored, out: Path) -> Path:
    """Draw the mean absolute error of each cell of sex and integer age; hollow where it is not averaged."""
    cells = scored["errors"]["cells"]
    found = scored["errors"]["mae_cells"]
    value = "n/a" if found["mean"] is None else f"{found['mean']:.2f} years"
    title = f"Mean absolute error by age: {value} over {found['cells']} cells"
    colours = {"f": canvas.VERMILION, "m": canvas.BLUE, "": canvas.BLUE}
    names = {"f": "female", "m": "male", "": "all (no sex recorded)"}
    with canvas.new_figure(out, 4.0, title, f"{scored['name']}; the number is the cell's images") as drawing:
        axes = drawing.add_subplot()
        for sex in dict.fromkeys(cell["sex"] for cell in cells):
            own = [cell for cell in cells if cell["sex"] == sex]
            x, y = [cell["age"] for cell in own], [cell["mae"] for cell in own]
            axes.plot(x, y, color=colours[sex], linewidth=1.2, alpha=0.6)
            faces = [colours[sex] if cell["averaged"] else canvas.PAPER for cell in own]
            axes.scatter(x, y, s=30, facecolors=faces, edgecolors=colours[sex], zorder=3, label=names[sex])
            for cell in own:
                lower = any(other["age"] == cell["age"] and other["mae"] > cell["mae"] for other in cells)
                axes.annotate(
                    str(cell["images"]),
                    (cell["age"], cell["mae"]),
                    (0, -12 if lower else 6),
                    textcoords="offset points",
                    ha="center",
                    size=canvas.SMALL - 1,
                    color=canvas.MUTED,
                )
        axes.set(xlabel="true age (completed years)", ylabel="mean absolute error (years)")
        axes.set_ylim(bottom=0)
        axes.margins(y=0.15)
        axes.grid(visible=True)
        axes.legend(loc="lower right")
    return out
