"""The matrix of mean errors over data sets: trained on one, tested on another."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from agecls.audit.answers import Answers
from finetune.errors import DataError, listing
from finetune.images.tables import missing_columns, read_table

COLUMNS = ("trained_on", "tested_on", "answers")
TABLE = "table"  # an exported model's images

Reader = Callable[[Path, str | None], Answers]


def cross_matrix(file: Path, read: Reader) -> dict[str, Any]:
    """Return the mean absolute errors (years) of the answers that a list names, and how they compare.

    The list is a CSV with columns trained_on, tested_on and answers (paths start from its folder), and table
    for exported models. `ratio` is the mean error off the diagonal over that on it.

    Raises DataError for a list with missing columns, or one place of the matrix twice.
    """
    listed = read_table(file)
    if absent := [name for name in COLUMNS if name not in listed.header]:
        raise DataError(missing_columns(listed, absent))
    cells: dict[tuple[str, str], dict[str, Any]] = {}
    for _, row in listed.rows:
        told = dict(zip(listed.header, row, strict=True))
        place = (told["trained_on"], told["tested_on"])
        if place in cells:
            raise DataError(f"{file}: these stand there twice:\n{listing([' on '.join(place)])}")
        shown = told.get(TABLE) or None
        answers = read(file.parent / told["answers"], None if shown is None else str(file.parent / shown))
        error = float(np.abs(answers.predicted - answers.age).mean())
        cells[place] = {"trained_on": place[0], "tested_on": place[1], "images": len(answers), "mae": error}
    return {"cells": list(cells.values()), **off_over_on({place: one["mae"] for place, one in cells.items()})}


def off_over_on(errors: dict[tuple[str, str], float]) -> dict[str, Any]:
    """Return the mean error on and off the diagonal, and off over on; None where one of them is missing.

    >>> off_over_on({("a", "a"): 2.0, ("a", "b"): 5.0, ("b", "b"): 3.0})["ratio"]
    2.0
    """
    same = [error for (trained, tested), error in errors.items() if trained == tested]
    other = [error for (trained, tested), error in errors.items() if trained != tested]
    on, off = (float(np.mean(part)) if part else None for part in (same, other))
    return {"diagonal": on, "off_diagonal": off, "ratio": off / on if on and off is not None else None}
