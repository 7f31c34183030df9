"""Epochs count from 1, in files as on the console; what earlier versions wrote counts from 0.

Rows come in order and begin with the first epoch, so the first row tells how its file counts. run.json names
its schema.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

RECORD_SCHEMA = 2  # of run.json; 1, which is not named there, counts best_epoch from 0


def counted_from_one(rows: Iterable[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Return the rows of a run's epochs, in order, with `epoch` counted from 1.

    >>> counted_from_one([{"epoch": 0}, {"epoch": 1}]), counted_from_one([{"epoch": 1}, {"epoch": 2}])
    ([{'epoch': 1}, {'epoch': 2}], [{'epoch': 1}, {'epoch': 2}])
    """
    found = [dict(row) for row in rows]
    if found and found[0].get("epoch") == 0:
        return [{**row, "epoch": row["epoch"] + 1} for row in found]
    return found


def record_today(content: Mapping[str, Any]) -> dict[str, Any]:
    """Return what a run.json holds, with `best_epoch` counted from 1 and the schema that says so.

    >>> record_today({"best_epoch": 0})
    {'best_epoch': 1, 'schema': 2}
    >>> record_today({"best_epoch": 1, "schema": 2})
    {'best_epoch': 1, 'schema': 2}
    """
    best = content.get("best_epoch")
    if "schema" in content or best is None:
        return {**content, "schema": RECORD_SCHEMA}
    return {**content, "best_epoch": best + 1, "schema": RECORD_SCHEMA}
