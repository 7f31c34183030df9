"""The common part of predictions.parquet: what is written comes back, and what is wrong is refused by row."""

from __future__ import annotations

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from finetune.errors import DataError
from finetune.experiments.records.predictions import (
    Predictions,
    check_predictions,
    log_odds,
    read_predictions,
    write_predictions,
)

PROBS = np.array([[0.75, 0.25], [0.5, 0.5], [0.0, 1.0]])
NEGATIVE = np.array([[0, 0], [0, 0], [-0.1, 0.1]])
FOUR = ("a", "b", "c", "d")
COLUMNS = {"path": np.array(["a.jpg", "b.jpg", "c.jpg"]), "target": np.array([0, 1, 1])}


def test_what_is_written_comes_back(tmp_path):
    write_predictions(tmp_path / "p.parquet", COLUMNS, PROBS)
    columns, probs = read_predictions(tmp_path / "p.parquet", ("path", "target"), 2)
    assert columns["path"].tolist() == ["a.jpg", "b.jpg", "c.jpg"]
    assert columns["target"].tolist() == [0, 1, 1]
    assert np.array_equal(probs, PROBS.astype(np.float32))


@pytest.mark.parametrize(
    ("target", "probs", "told"),
    [
        ([0, 2, 1], PROBS, r"targets must lie in \[0, 1\]:\n *row 1 \(b\.jpg\): target 2"),
        ([0, -1, 1], PROBS, r"row 1 \(b\.jpg\): target -1"),
        ([0, 1, 1], PROBS * 1.01, r"row 0 \(a\.jpg\): sum 1\.01"),
        ([0, 1, 1], PROBS + NEGATIVE, r"row 2 \(c\.jpg\): sum 1, smallest -0\.1"),
        ([0, 1, 1], np.where(PROBS == 1, np.nan, PROBS), r"row 2 \(c\.jpg\): sum nan"),
        ([0, 1], PROBS, "differ in length: .*'target': 2"),
        ([0, 1, 1], PROBS[:, :1], r"shape \(N, 2\), got \(3, 1\)"),
    ],
)
def test_wrong_predictions_are_refused_by_row(target, probs, told):
    with pytest.raises(DataError, match=told):
        check_predictions({**COLUMNS, "target": np.array(target)}, np.asarray(probs), 2)


def test_float32_rounding_is_no_error():
    check_predictions(COLUMNS, PROBS * (1 + 1e-6), 2)


def test_a_file_of_another_number_of_classes_is_refused(tmp_path):
    file = tmp_path / "p.parquet"
    write_predictions(file, COLUMNS, PROBS)
    with pytest.raises(DataError, match=r"p\.parquet lacks the columns prob_2"):
        read_predictions(file, ("path", "target"), 3)
    with pytest.raises(DataError, match="has prob_1 beyond the 1 class names"):
        read_predictions(file, ("path", "target"), 1)


def test_empty_cells_are_refused_except_where_they_may_be(tmp_path):
    file = tmp_path / "p.parquet"
    table = {"path": ["a", None], "target": [0, 1], "prob_0": [0.5, 0.5], "prob_1": [0.5, 0.5]}
    pq.write_table(pa.table(table), file)
    with pytest.raises(DataError, match="empty cells in path"):
        read_predictions(file, ("path", "target"), 2)
    columns, _ = read_predictions(file, ("path", "target"), 2, may_be_empty=("path",))
    assert columns["path"][1] is None


def test_a_file_that_is_no_parquet_is_refused_by_name(tmp_path):
    (tmp_path / "p.parquet").write_text("no parquet")
    with pytest.raises(DataError, match=r"p\.parquet cannot be read as parquet"):
        read_predictions(tmp_path / "p.parquet", ("path", "target"), 2)


def test_log_odds_keep_the_digits_of_a_probability_near_one():
    probs = np.array([[1.0, 1e-20], [0.5, 0.5]])
    odds = log_odds(probs)
    assert odds[0, 0] == pytest.approx(20 * np.log(10))
    assert odds[1].tolist() == [0.0, 0.0]


def test_predicted_correct_and_one_off_by_hand():
    probs = np.array([[0.5, 0.5, 0, 0], [0.1, 0.2, 0.7, 0], [0, 0, 0, 1]])
    rows = Predictions(FOUR, np.array(["a", "b", "c"]), np.array([0, 1, 0]), probs)
    assert rows.preds.tolist() == [0, 2, 3]
    assert rows.correct.tolist() == [True, False, False]
    assert rows.one_off.tolist() == [True, True, False]
    assert rows.select(np.array([2])).path.tolist() == ["c"]


def test_the_log_odds_of_predictions_near_certainty_of_a_flat_guess_and_of_zero():
    near = [1 - 3e-20, 1e-20, 1e-20, 1e-20]
    probs = np.array([near, [0.25, 0.25, 0.25, 0.25], [0.0, 1.0, 0.0, 0.0], [0.7, 0.2, 0.1, 0.0]])
    odds = Predictions(FOUR, np.array(list("abcd")), np.arange(4), probs).log_odds
    assert odds[0, 0] == pytest.approx(-np.log(3e-20))
    assert odds[0, 1] == pytest.approx(np.log(1e-20))
    np.testing.assert_allclose(odds[1], -np.log(3))
    assert odds[3, 0] == pytest.approx(np.log(0.7 / 0.3))
    assert np.isfinite(odds).all()


def test_predictions_of_another_class_or_length_cannot_be_made():
    probs = np.full((1, 4), 0.25)
    with pytest.raises(DataError, match=r"targets must lie in \[0, 3\]"):
        Predictions(FOUR, np.array(["a"]), np.array([4]), probs)
    with pytest.raises(DataError, match="differ in length"):
        Predictions(FOUR, np.array(["a"]), np.array([3]), probs, {"user": np.array(["u", "v"])})


def test_the_file_names_its_classes_and_says_what_was_predicted(tmp_path):
    import json

    import pyarrow.parquet as pq

    names = ("robin", "Zaunkönig", "wren")
    probs = np.array([[0.2, 0.7, 0.1], [0.5, 0.2, 0.3]])
    found = Predictions(names, np.array(["b.jpg", "a.jpg"]), np.array([2, 0]), probs)
    file = tmp_path / "predictions.parquet"
    found.write(file)
    table = pq.read_table(file)
    assert table["path"].to_pylist() == ["a.jpg", "b.jpg"]
    assert table["predicted"].to_pylist() == [0, 1]
    assert json.loads(table.schema.metadata[b"class_names"]) == list(names)
    again = Predictions.read(file, names)
    assert (again.preds == found.in_order().preds).all()
    pq.write_table(
        table.drop_columns(["predicted"]).replace_schema_metadata(None), file
    )  # an earlier release's
    assert (Predictions.read(file, names).preds == again.preds).all()
