"""Softmax heat maps where there are too many classes to show: some columns, and one for all the others."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from finetune.figures import canvas
from finetune.figures.gallery import draw_thumbnail
from finetune.figures.heat_map import MARKS, Panel, RowLabels, draw_heat_map_figure
from finetune.images.class_names import display_name

REST = "all other classes"


def columns_of(probs: np.ndarray, columns: Sequence[int]) -> tuple[np.ndarray, list[int]]:
    """Return the probabilities (n, C) of some classes, and the column that each image is predicted as.

    Where `columns` are not all classes, a last column holds the probability of all others; a prediction
    outside the columns counts as that one.

    Args:
        probs: float (n, K).
        columns: the C' classes that get a column, each once.

    >>> table, predicted = columns_of(np.array([[0.1, 0.2, 0.7], [0.6, 0.3, 0.1]]), [1, 0])
    >>> table.round(2).tolist(), predicted
    ([[0.2, 0.1, 0.7], [0.3, 0.6, 0.1]], [2, 1])
    """
    chosen = list(columns)
    table = probs[:, chosen]
    if len(chosen) < probs.shape[1]:
        others = np.delete(probs, chosen, axis=1).sum(axis=1)
        table = np.column_stack([table, others])
    place = {column: position for position, column in enumerate(chosen)}
    return table, [place.get(int(index), len(chosen)) for index in probs.argmax(axis=1)]


def draw_class_heat_map(
    files: Sequence[Path],
    target: np.ndarray,
    probs: Mapping[str, np.ndarray],
    class_names: Sequence[str],
    columns: Sequence[int],
    out: Path,
    *,
    subtitle: str,
) -> Path:
    """Draw a row per image, a column per chosen class and one for the rest, a map per result.

    Args:
        files: (n,) the images to show at the left.
        target: (n,) their true classes, outlined where they have a column.
        probs: what each result is called -> its (n, K) probabilities.
        class_names: the K classes.
        columns: the classes that get a column, in the order of the columns.
        out: the PNG to write.
        subtitle: how images and columns were chosen.

    Returns:
        `out`.
    """
    tables = {name: columns_of(table, columns) for name, table in probs.items()}
    rest = len(columns) < len(class_names)
    place = {column: position for position, column in enumerate(columns)}
    names = [display_name(class_names[index]) for index in columns] + [REST] * rest
    marks = MARKS.format(true="true class", predicted="predicted class")
    return draw_heat_map_figure(
        out,
        title=f"Softmax probabilities: {canvas.count_text(len(files), 'image')}",
        subtitle=f"{subtitle}\n{marks}",
        panels=[Panel(name, table, predicted) for name, (table, predicted) in tables.items()],
        columns=names,
        truths=[place.get(int(index)) for index in target],
        rows=RowLabels(
            heading="true class",
            names=[display_name(class_names[index]) for index in target],
            notes=[""] * len(files),
            draw=lambda axes, row: draw_thumbnail(axes, files[row], canvas.SMALL - 4),
        ),
        rest=rest,
    )
