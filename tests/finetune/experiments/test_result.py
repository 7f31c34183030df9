"""Result folders of either task: written by the contract, read back exactly, refused with a reason."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from finetune.errors import DataError
from finetune.experiments.records.predictions import Predictions
from finetune.experiments.result import Result
from finetune.images.manifest import Manifest
from tests.finetune.experiments.made_tasks import MadeTask

LOSS = {"name": "crl", "alpha": 1.5, "beta": 0, "label_smoothing": 0.0, "class_weights": "none"}
CEL: dict[str, Any] = {"name": "cel", "alpha": None, "beta": None}
Columns = dict[str, np.ndarray]


def load(made: MadeTask, folder: Path) -> Result:
    """Read a result folder of the task."""
    return Result.load(folder, made.task.form)


def some(made: MadeTask) -> Predictions:
    """Return predictions of which about 60 % are right."""
    return made.predictions(made.answers(0.6))


def rewritten(made: MadeTask, folder: Path, change: Callable[[Columns], Columns]) -> Path:
    """Write a result and replace its predictions by what `change` makes of their columns."""
    file = made.write(folder, some(made)) / "predictions.parquet"
    table = pq.read_table(file)
    columns = {name: table[name].to_numpy() for name in table.column_names}
    pq.write_table(pa.table(change(columns)), file)
    return folder


def test_what_is_written_is_read_back_in_the_contracts_columns(made: MadeTask, tmp_path: Path):
    written = some(made)
    result = load(made, made.write(tmp_path / "run", written))
    schema = pq.read_schema(result.folder / "predictions.parquet")
    probs = [f"prob_{k}" for k in range(len(made.names))]
    own = {"age": ["subject", "user", "gender", "age", "fold"], "fine": []}[made.task.name]
    assert schema.names == ["path", *own, "target", "predicted", *probs]
    assert schema.field("prob_0").type == pa.float32()
    rows = written.in_order()
    for name in ("path", "target"):
        np.testing.assert_array_equal(getattr(result.predictions, name), getattr(rows, name))
    np.testing.assert_array_equal(result.predictions.probs, rows.probs.astype(np.float32))
    for name in own:
        np.testing.assert_array_equal(result.predictions[name], rows[name])
    assert result.folds == {"age": [0, 1, 2], "fine": [0]}[made.task.name]
    assert result.class_names == made.names


def test_rows_are_sorted_by_fold_then_path(made: MadeTask, tmp_path: Path):
    mixed = some(made).select(np.random.default_rng(0).permutation(made.images))
    rows = load(made, made.write(tmp_path / "run", mixed)).predictions
    keys = list(zip(rows.fold.tolist(), rows.path.tolist(), strict=True))
    assert keys == sorted(keys)
    assert rows.path.tolist() != mixed.path.tolist()


@pytest.mark.parametrize(
    "missing", [["run.json"], ["predictions.parquet"], ["run.json", "predictions.parquet"]]
)
def test_a_folder_that_is_no_result_is_refused_with_what_was_looked_for(
    made: MadeTask, tmp_path: Path, missing: list[str]
):
    folder = made.write(tmp_path / "run", some(made))
    for name in missing:
        (folder / name).unlink()
    with pytest.raises(DataError, match=f"lacks {' and '.join(missing)}.*run.json and predictions.parquet"):
        load(made, folder)


def test_a_folder_that_is_not_there_is_refused(made: MadeTask, tmp_path: Path):
    with pytest.raises(DataError, match="it does not exist"):
        load(made, tmp_path / "nowhere")


def test_missing_columns_are_named_with_the_file(made: MadeTask, tmp_path: Path):
    gone = ((*made.task.form.columns, "target")[0], f"prob_{len(made.names) - 1}")
    folder = rewritten(
        made, tmp_path / "run", lambda columns: {n: columns[n] for n in columns if n not in gone}
    )
    with pytest.raises(DataError, match=rf"predictions\.parquet lacks the columns {', '.join(gone)}"):
        load(made, folder)


def test_more_probabilities_than_class_names_are_refused(made: MadeTask, tmp_path: Path):
    folder = made.write(tmp_path / "run", some(made), class_names=list(made.names[:3]))
    with pytest.raises(DataError, match=r"has prob_3.* beyond the 3 class names"):
        load(made, folder)


@pytest.mark.parametrize("value", [0.9, np.nan, -3.0])
def test_probabilities_that_do_not_sum_to_one_are_refused_by_row(
    made: MadeTask, tmp_path: Path, value: float
):
    def break_row(columns: Columns) -> Columns:
        row = np.arange(made.images) == 7
        return columns | {"prob_1": np.where(row, value, columns["prob_1"])}

    folder = rewritten(made, tmp_path / "run", break_row)
    path = load(made, made.write(tmp_path / "whole", some(made))).predictions.path[7]
    with pytest.raises(DataError, match=rf"predictions\.parquet.*sum to 1:\n  row 7 \({path}\)"):
        load(made, folder)


def test_a_target_outside_the_classes_is_refused_by_row(made: MadeTask, tmp_path: Path):
    count = len(made.names)

    def break_row(columns: Columns) -> Columns:
        return columns | {"target": np.where(np.arange(made.images) == 3, count, columns["target"])}

    folder = rewritten(made, tmp_path / "run", break_row)
    with pytest.raises(
        DataError, match=rf"targets must lie in \[0, {count - 1}\]:\n  row 3 .*target {count}"
    ):
        load(made, folder)


def test_empty_cells_are_refused(made: MadeTask, tmp_path: Path):
    for name in ("path", *made.task.form.columns[:1]):

        def empty(columns: Columns, name: str = name) -> Columns:
            return columns | {name: np.array([None, *columns[name][1:]], dtype=object)}

        with pytest.raises(DataError, match=f"empty cells in {name}"):
            load(made, rewritten(made, tmp_path / name, empty))


def test_a_damaged_file_and_an_unfinished_run_are_refused(made: MadeTask, tmp_path: Path):
    folder = made.write(tmp_path / "half", some(made), n=made.images + 1)
    told = rf"records {made.images + 1} test images, predictions\.parquet has {made.images}"
    with pytest.raises(DataError, match=told):
        load(made, folder)
    (folder / "predictions.parquet").write_bytes(b"PAR1 broken")
    with pytest.raises(DataError, match="cannot be read as parquet"):
        load(made, folder)


def test_other_kinds_of_run_and_broken_records_are_refused(made: MadeTask, tmp_path: Path):
    own = {"age": "age_fold or age_cv", "fine": "fine_run"}[made.task.name]
    other = {"age": "fine_run", "fine": "age_cv"}[made.task.name]
    for number, (kind, got) in enumerate(((other, other), ("fine_train", "fine_train"), (None, ""))):
        folder = made.write(tmp_path / f"other{number}", some(made), kind=kind)
        with pytest.raises(DataError, match=f"\"kind\" must be {own}, got '{got}'"):
            load(made, folder)
    with pytest.raises(DataError, match="lacks class_names"):
        load(made, made.write(tmp_path / "nameless", some(made), class_names=None))
    (folder / "run.json").write_text("{", encoding="utf-8")
    with pytest.raises(DataError, match="is no valid JSON"):
        load(made, folder)


def test_what_may_be_absent_is_empty(made: MadeTask, tmp_path: Path):
    bare = load(made, made.write(tmp_path / "run", some(made)))
    assert (bare.curves, bare.history, bare.manifest, bare.config) == ({}, [], None, {})


def test_curves_manifest_and_configuration_are_read_where_they_are(made: MadeTask, tmp_path: Path):
    folder = made.write(tmp_path / "run", some(made), data_root=str(tmp_path / "run"))
    (folder / "config.yaml").write_text("train: {lr: 0.1, epochs: 2}\n")
    fold, place = {"age": (1, folder / "fold1"), "fine": (0, folder)}[made.task.name]
    place.mkdir(exist_ok=True)
    (place / "metrics.jsonl").write_text('{"epoch": 1, "val_accuracy": null}\n{"epoch": 2}\n')
    manifest = Manifest(folder, made.names, {"path": np.array(["a.jpg"]), "label": np.array([2])})
    manifest.save(folder / "manifest.parquet")
    full = load(made, folder)
    assert full.config == {"train": {"lr": 0.1, "epochs": 2}}
    assert full.curves == {fold: [{"epoch": 1, "val_accuracy": None}, {"epoch": 2}]}
    assert full.history == full.curves[fold]
    assert full.manifest is not None
    assert full.manifest.fingerprint == manifest.fingerprint
    assert full.manifest.file(0) == folder / "a.jpg"


def test_title_and_loss_are_told_with_the_parameters_that_were_given(made: MadeTask):
    plain, told = (made.result(made.answers(0.6), loss=loss, head="dcl") for loss in (LOSS | CEL, LOSS))
    assert (plain.loss_text, told.loss_text) == ("cel", "crl (alpha 1.5, beta 0)")
    assert told.title == "dcl on resnet18 with crl (alpha 1.5, beta 0)"


@pytest.mark.parametrize(
    ("stored", "told"),
    [
        (75.0, None),
        (None, None),
        (74.0, r"run\.json records {} 74\.0000 %, but predictions\.parquet gives 75\.0000 %"),
        (100.0, r"{} 100\.0000 %, but predictions\.parquet gives 75\.0000 %"),
        ("high", "not a number"),
    ],
)
def test_a_recorded_accuracy_that_is_not_the_predictions_is_refused(
    made: MadeTask, tmp_path: Path, stored: object, told: str | None
):
    scores = {made.headline: stored}
    folder = made.write(tmp_path / "run", np.arange(made.images) % 4 > 0, scores=scores)
    if told is None:
        assert load(made, folder).record.scores == scores
        return
    with pytest.raises(DataError, match=told.format(made.label)):
        load(made, folder)


def test_equally_probable_classes_may_count_either_way(made: MadeTask, tmp_path: Path):
    """Of two best classes the first is predicted; the run, with more digits, may have predicted the other."""
    rows = made.predictions(np.ones(made.images, dtype=bool))
    probs = rows.probs.copy()
    probs[1] = 0.5 * (np.eye(len(made.names))[0] + np.eye(len(made.names))[rows.target[1]])
    tied = replace(rows, probs=probs)
    assert not tied.correct[1]
    folder = made.write(tmp_path / "run", tied, scores={made.headline: 100.0})
    assert len(load(made, folder).predictions) == made.images
