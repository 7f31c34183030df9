"""Which classes a model takes for each other: the most confused pairs, their images, and a heat map."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from finegrained.figures.class_heat_map import draw_class_heat_map
from finegrained.figures.image_grid import Line, Strip, Tile, answer_line, draw_grid, show_file
from finetune.figures import canvas
from finetune.images.class_names import display_name

PAIRS_DRAWN = 5
COLUMNS_DRAWN = 16  # of the heat map
SAMPLES = (
    "first class, recognised",
    "first taken for the second",
    "second taken for the first",
    "second class, recognised",
)


@dataclass(frozen=True)
class ConfusedPair:
    """Two classes that are taken for each other.

    Args:
        first: the class that comes first in official order.
        second: the other one.
        first_as_second: images of `first` that are predicted as `second`.
        second_as_first: the other way round.
        first_n: images of `first`.
        second_n: images of `second`.
    """

    first: int
    second: int
    first_as_second: int
    second_as_first: int
    first_n: int
    second_n: int

    @property
    def total(self) -> int:
        """Images of either class that are predicted as the other."""
        return self.first_as_second + self.second_as_first


def confused_pairs(confusion: np.ndarray, limit: int | None = None) -> list[ConfusedPair]:
    """Return the pairs of classes with images that are predicted as the other, most such images first.

    Args:
        confusion: int (K, K), rows true classes, columns predictions.
        limit: how many pairs at most; None for all.

    Equal counts stand in official order. Counts, not shares: a class with few images does not come first for
    a single mistake.

    >>> [(pair.first, pair.second, pair.total) for pair in confused_pairs(np.array([[5, 1], [2, 0]]))]
    [(0, 1, 3)]
    """
    counts = np.asarray(confusion)
    either = np.triu(counts + counts.T, k=1)
    firsts, seconds = np.nonzero(either)
    order = np.argsort(-either[firsts, seconds], kind="stable")[:limit]
    totals = counts.sum(axis=1)
    return [
        ConfusedPair(i, j, int(counts[i, j]), int(counts[j, i]), int(totals[i]), int(totals[j]))
        for i, j in zip(firsts[order].tolist(), seconds[order].tolist(), strict=True)
    ]


def pair_samples(probs: np.ndarray, target: np.ndarray, pair: ConfusedPair) -> tuple[int | None, ...]:
    """Return four rows to show of a pair, None where there is no such image.

    An image of `first` that is recognised, one of `first` taken for `second`, one of `second` taken for
    `first`, one of `second` that is recognised. Of the recognised it is the one of median probability (the
    lower of two middle ones), of the mistakes the one with the most probability for the wrong class.
    """
    preds = probs.argmax(axis=1)

    def sample(truth: int, said: int) -> int | None:
        rows = np.flatnonzero((target == truth) & (preds == said))
        order = rows[np.argsort(probs[rows, said], kind="stable")]
        if not len(rows):
            return None
        return int(order[(len(order) - 1) // 2] if truth == said else order[-1])

    i, j = pair.first, pair.second
    return sample(i, i), sample(i, j), sample(j, i), sample(j, j)


def draw_confused_pairs(
    files: Sequence[Path],
    probs: np.ndarray,
    target: np.ndarray,
    class_names: Sequence[str],
    pairs: Sequence[ConfusedPair],
    out: Path,
) -> Path:
    """Draw the pairs, each with a recognised and a confused image of both classes side by side.

    Args:
        files: (N,) image files in the order of the prediction table.
        probs: float (N, K).
        target: int (N,).
        class_names: the K classes.
        pairs: at least one, in the order to draw them.
        out: the PNG to write.

    Returns:
        `out`.
    """
    strips = [_pair_strip(files, probs, target, class_names, pair) for pair in pairs]
    title = f"Most confused pairs of classes: {canvas.count_text(len(target), 'test image')}"
    subtitle = (
        "pairs with the most images predicted as the other; recognised: the image of median probability,\n"
        "taken for the other: the most confident mistake; above: the true class, below: the prediction"
    )
    return draw_grid(out, title, subtitle, strips, columns=SAMPLES)


def _pair_strip(
    files: Sequence[Path],
    probs: np.ndarray,
    target: np.ndarray,
    class_names: Sequence[str],
    pair: ConfusedPair,
) -> Strip:
    names = [display_name(name) for name in class_names]
    tiles: list[Tile | None] = []
    for row in pair_samples(probs, target, pair):
        if row is None:
            tiles.append(None)
            continue
        said, truth = int(probs[row].argmax()), int(target[row])
        answer = answer_line(names[said], probs[row, said], said == truth)
        tiles.append(Tile(show_file(files[row]), (Line(names[truth], bold=True),), (answer,)))
    return Strip(
        tiles,
        heading=f"{names[pair.first]} and {names[pair.second]}",
        label=(
            f"{pair.first_as_second:,} of {canvas.count_text(pair.first_n, 'image')} of the first taken for "
            f"the second, {pair.second_as_first:,} of {pair.second_n:,} the other way round"
        ),
    )


def confused_classes(pairs: Sequence[ConfusedPair], limit: int = COLUMNS_DRAWN) -> list[int]:
    """Return the classes of the pairs, the most confused first, each once and at most `limit`.

    >>> pair = ConfusedPair(3, 7, 2, 2, 9, 9)
    >>> confused_classes([pair, ConfusedPair(1, 3, 1, 0, 9, 9)])
    [3, 7, 1]
    """
    found: dict[int, None] = {}
    for pair in pairs:
        new = [index for index in (pair.first, pair.second) if index not in found]
        if len(found) + len(new) > limit:
            break
        found |= dict.fromkeys(new)
    return list(found)


def draw_confused_heat_map(
    files: Sequence[Path],
    probs: np.ndarray,
    target: np.ndarray,
    class_names: Sequence[str],
    pairs: Sequence[ConfusedPair],
    out: Path,
    *,
    name: str,
) -> Path:
    """Draw the softmax heat map over the union of the most confused classes; arguments as above.

    `name` is what the result is called. Per class it shows the image of median probability of the true class
    (the lower of two middle ones). Up to 16 classes all have their column.
    """
    few = len(class_names) <= COLUMNS_DRAWN
    columns = list(range(len(class_names))) if few else confused_classes(pairs)
    of_pairs = "" if few else " of the most confused pairs"
    rows = [_median_row(probs, target, index) for index in columns if (target == index).any()]
    return draw_class_heat_map(
        [files[row] for row in rows],
        target[rows],
        {name: probs[rows]},
        class_names,
        columns,
        out,
        subtitle=f"per class{of_pairs}, the image of median probability of its class",
    )


def _median_row(probs: np.ndarray, target: np.ndarray, index: int) -> int:
    rows = np.flatnonzero(target == index)
    order = rows[np.argsort(probs[rows, index], kind="stable")]
    return int(order[(len(order) - 1) // 2])
