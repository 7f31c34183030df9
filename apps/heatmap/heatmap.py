"""Softmax heat maps of several models on the same images (the paper's Fig. 5): the numbers, and as CSV."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from finetune.errors import DataError, UsageError
from finetune.figures.canvas import distinct_short_names
from finetune.images.class_names import display_name
from finetune.runs.csv_file import csv_text

MAX_COLUMNS = 25  # classes up to which every class has a column
LEAST_COLUMNS = 12  # of a model beside others, where not every class has one
TOP = 5  # of an image's classes, that a column at most is given for, where it is read


@dataclass(frozen=True, eq=False)
class HeatMap:
    """What several models say of the same images.

    Args:
        rows: (N,) names of the images, N >= 1.
        class_names: the K classes in the models' order.
        tables: what each model is called -> its probabilities (N, K), in 0-1, rows summing to 1.
        targets: (N,) index of each image's true class, None where it is not known; None for none known.
        thumbnails: (N,) the crop that the network saw, uint8 (S, S, 3) RGB, None where there is none.
        top: of more than `MAX_COLUMNS` classes, how many of an image's most probable ones get a column at
            most; several models then share the page's width. None fills `MAX_COLUMNS` for every model.

    Raises:
        DataError: a probability is not a number from 0 to 1, or a row does not sum to 1.
        UsageError: no image, no model, or sizes that do not agree.
    """

    rows: tuple[str, ...]
    class_names: tuple[str, ...]
    tables: Mapping[str, np.ndarray]
    targets: tuple[int | None, ...] | None = None
    thumbnails: tuple[np.ndarray | None, ...] | None = None
    top: int | None = None

    def __post_init__(self) -> None:
        count, classes = len(self.rows), len(self.class_names)
        if not count or not self.tables:
            raise UsageError(f"a heat map needs an image and a model, got {count} and {len(self.tables)}")
        for title, table in self.tables.items():
            if table.shape != (count, classes):
                raise UsageError(f"{title}: probabilities must be ({count}, {classes}), got {table.shape}")
            _check_probabilities(title, table, self.rows)
        for name, found in (("targets", self.targets), ("thumbnails", self.thumbnails)):
            if found is not None and len(found) != count:
                raise UsageError(f"{name} must be one per image, {count}, got {len(found)}")
        wrong = [target for target in self.targets or () if target is not None and not 0 <= target < classes]
        if wrong:
            raise UsageError(f"true classes must lie in 0..{classes - 1}, got {wrong[0]}")

    def truth(self, row: int) -> int | None:
        """Return the index of an image's true class, None where it is not known."""
        return None if self.targets is None else self.targets[row]

    def thumbnail(self, row: int) -> np.ndarray | None:
        """Return the crop that the network saw of an image, None where it was not kept."""
        return None if self.thumbnails is None else self.thumbnails[row]

    @cached_property
    def names(self) -> tuple[str, ...]:
        """The classes' names for people, in the models' order."""
        return names_for_people(self.class_names)

    @cached_property
    def columns(self) -> tuple[int, ...]:
        """The classes that have a column, in the models' order: all of them up to `MAX_COLUMNS`.

        Of more classes it is the true ones and every model's k most probable ones for every image, with the
        largest k (up to `top`) that leaves room for "other". Where even k = 1 is too wide, it is shown all
        the same.
        """
        if len(self.class_names) <= MAX_COLUMNS:
            return tuple(range(len(self.class_names)))
        ranked = np.concatenate([np.argsort(-table, axis=1, kind="stable") for table in self.tables.values()])
        room = MAX_COLUMNS if self.top is None else max(MAX_COLUMNS // len(self.tables), LEAST_COLUMNS)
        chosen: set[int] = set()
        for best in range(1, MAX_COLUMNS if self.top is None else self.top + 1):
            wider = {target for target in self.targets or () if target is not None}
            wider |= set(ranked[:, :best].ravel().tolist())
            if chosen and len(wider) > room - 1:
                break
            chosen = wider
        return tuple(sorted(chosen))

    @property
    def hidden(self) -> int:
        """How many classes have no column of their own; their probabilities are summed up in a last one."""
        return len(self.class_names) - len(self.columns)

    @property
    def column_names(self) -> tuple[str, ...]:
        """The columns' names for people, "other (n)" last where n classes are summed up."""
        names = tuple(self.names[index] for index in self.columns)
        return (*names, f"other ({self.hidden})") if self.hidden else names

    def shown(self, title: str) -> np.ndarray:
        """Return a model's probabilities by the columns shown, float64 (N, C), rows summing to 1."""
        table = self.tables[title].astype(np.float64)
        part = table[:, self.columns]
        if self.hidden:
            rest = np.delete(table, self.columns, axis=1).sum(axis=1, keepdims=True)
            part = np.concatenate([part, rest], axis=1)
        return np.clip(part, 0, 1)

    def predicted(self, title: str) -> tuple[int, ...]:
        """Return the position of each image's predicted class among the columns shown."""
        return tuple(self.columns.index(int(best)) for best in self.tables[title].argmax(axis=1))

    @property
    def truths(self) -> tuple[int | None, ...]:
        """The position of each image's true class among the columns shown, None where it is not known."""
        known = [self.truth(row) for row in range(len(self.rows))]
        return tuple(None if target is None else self.columns.index(target) for target in known)


def heat_map(
    rows: Sequence[str],
    class_names: Sequence[str],
    tables: Mapping[str, np.ndarray],
    targets: Sequence[int | None] | None = None,
    thumbnails: Sequence[np.ndarray | None] | None = None,
    top: int | None = None,
) -> HeatMap:
    """Return the heat map of these sequences; arguments and errors are those of `HeatMap`.

    >>> found = heat_map(["a.jpg"], ["cat", "dog"], {"CRL": [[0.9, 0.1]]}, targets=[1])
    >>> found.column_names, found.shown("CRL").tolist(), found.predicted("CRL"), found.truths
    (('cat', 'dog'), [[0.9, 0.1]], (0,), (1,))
    """
    known = None if targets is None or all(target is None for target in targets) else tuple(targets)
    crops = None if thumbnails is None or all(crop is None for crop in thumbnails) else tuple(thumbnails)
    arrays = {title: np.asarray(table) for title, table in tables.items()}
    return HeatMap(tuple(rows), tuple(class_names), arrays, known, crops, top)


def _check_probabilities(title: str, table: np.ndarray, rows: Sequence[str]) -> None:
    table = table.astype(np.float64)
    with np.errstate(invalid="ignore"):
        good = ((table >= -1e-6) & (table <= 1 + 1e-3)).all(axis=1) & (abs(table.sum(axis=1) - 1) < 0.01)
    if not good.all():
        row = int(np.flatnonzero(~good)[0])
        raise DataError(
            f"{title} gives no probabilities for {rows[row]}: they must lie in 0-1 and sum to 1, got "
            f"{table[row].min():.4g} to {table[row].max():.4g} with the sum {table[row].sum():.4g}; "
            "export the model again, or use its fp32 file"
        )


def to_csv(found: HeatMap) -> str:
    """Return every probability as CSV (RFC 4180): a row per image and model, a column per class.

    The first columns are image, model, true class (empty where it is not known) and predicted class. The
    classes are called as the models call them; a name that a spreadsheet would run as a formula starts with
    an apostrophe.
    """
    header = ["image", "model", "true class", "predicted class", *found.class_names]
    rows: list[list[str]] = []
    for row, name in enumerate(found.rows):
        target = found.truth(row)
        truth = "" if target is None else found.class_names[target]
        for title, table in found.tables.items():
            words = (name, title, truth, found.class_names[int(table[row].argmax())])
            rows.append([*words, *(f"{value:.9g}" for value in table[row])])
    return csv_text(header, rows, "\r\n")


def names_for_people(class_names: Sequence[str]) -> tuple[str, ...]:
    """Return the class names as pages, figures and terminals show them; files for programs keep their own.

    A leading number such as "001." goes, underscores become spaces. Where that would leave a name empty or
    make two classes look the same, all keep the names that they have.

    >>> names_for_people(["001.Black_footed_Albatross", "25-32"])
    ('Black footed Albatross', '25-32')
    >>> names_for_people(["001.Gull", "002.Gull"])
    ('001.Gull', '002.Gull')
    """
    shown = tuple(display_name(name).strip() for name in class_names)
    return shown if all(shown) and len(set(shown)) == len(shown) else tuple(class_names)


def short_names(names: Sequence[str], limit: int) -> tuple[str, ...]:
    """Return the names cut to `limit` characters, different ones different (`canvas.distinct_short_names`).

    >>> short_names(["Silverado 1500 Regular Cab", "Silverado 2500HD Regular Cab", "Volt"], 18)
    ('… 1500 Regular Cab', '…500HD Regular Cab', 'Volt')
    """
    return tuple(distinct_short_names(names, limit))
