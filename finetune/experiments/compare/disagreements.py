"""The figures of a comparison: where two results disagree, drawn as each task draws its images."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np

from finetune.experiments.records.predictions import Predictions
from finetune.experiments.result import Result
from finetune.experiments.sections import DATA_NOTE, FIGURES, NO_PEOPLE, figure
from finetune.figures.markdown import Picture
from finetune.figures.selection import choose_telling

Draw = Callable[[Sequence[Path], Predictions, Predictions, Path], object]


def draw_both(
    a: Result, b: Result, out: Path, *, gallery: Draw | None, heat_maps: Draw, picked: str, telling: str
) -> list[Picture]:
    """Draw the gallery of disagreements and the heat maps of the most telling images under `out`.

    A figure that would be empty, as the heat maps of two results that are correct nowhere, is left out.

    Args:
        a, b: two results of the same images.
        out: the folder of the comparison.
        gallery: image files (N,), both predictions of them, the PNG to write -> the figure; None for none.
        heat_maps: the same of the most telling images alone.
        picked, telling: how the images of either figure were chosen.
    """
    first, second = a.predictions.in_order(), b.predictions.in_order()
    files = a.image_files(first.path)
    made = []
    if gallery is not None:
        gallery(files, first, second, out / FIGURES / "disagreements.png")
        made.append(figure("disagreements", "Where the two disagree", f"{picked} {DATA_NOTE}"))
    rows = choose_telling(first.target, first.probs, second.probs)
    if rows:
        told = np.array(rows)
        shown = [files[row] for row in rows]
        heat_maps(shown, first.select(told), second.select(told), out / FIGURES / "heat_maps.png")
        note = DATA_NOTE if gallery is not None else NO_PEOPLE.format(option="crl age compare --thumbnails")
        made.append(figure("heat_maps", "Softmax heat maps", f"{telling} {note}"))
    return made
