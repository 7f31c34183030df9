"""Which columns the heat maps of two results have."""

from __future__ import annotations

from pathlib import Path

from finegrained.figures.disagreements import telling_columns
from tests.finegrained.made_results import make_result


def test_columns_hold_truth_and_both_answers(tmp_path: Path):
    first, second = (
        make_result(tmp_path / name, 12, answers=at).predictions.in_order()
        for at, name in enumerate("ab", start=1)
    )
    rows = [3, 40]
    second.preds[rows] = [11, 10]
    columns = telling_columns(first, second, rows)
    said = {int(side[row]) for row in rows for side in (first.target, first.preds, second.preds)}
    assert {10, 11} <= said
    assert set(columns) == said
    assert len(columns) == len(said)
