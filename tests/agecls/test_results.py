"""Result folders: written by the contract, read back exactly, refused with a reason when wrong."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from agecls.measures import AGE_RESULT
from agecls.task import TASK
from finetune.errors import DataError
from finetune.experiments.records.predictions import Predictions
from finetune.experiments.result import Result
from finetune.images.manifest import Manifest
from finetune.runs.folder import read_json, write_json
from tests.agecls.age_predictions import age_predictions, with_columns
from tests.agecls.results_by_hand import make_result

GROUPS = ("0-2", "4-6", "8-12", "15-20")


def synthetic_predictions(seed: int = 0, images: int = 60, strength: float = 1.0) -> Predictions:
    """Three folds of subjects with four images each, two subjects an album; better with more `strength`."""
    rng = np.random.default_rng(seed)
    person = np.arange(images) // 4
    target = np.random.default_rng(99).integers(0, len(GROUPS), images)
    logits = rng.normal(size=(images, len(GROUPS))) + strength * np.eye(len(GROUPS))[target]
    probs = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
    return age_predictions(
        GROUPS,
        path=np.array([f"faces/{index:04}.jpg" for index in range(images)]),
        subject=np.array([f"s{index:03}" for index in person]),
        user=np.array([f"u{index // 2:03}" for index in person]),
        gender=np.array(["f", "m"])[person % 2],
        age=np.where(person % 3 == 0, np.nan, 20.0),
        fold=(person // 2) % 3,
        target=target,
        probs=probs.astype(np.float32),
    )


def write_result(
    folder: Path, predictions: Predictions, config: dict[str, Any] | None = None, **run: Any
) -> Path:
    """Write a result folder by the contract; `run` replaces values of run.json, None removes them."""
    folder.mkdir(parents=True)
    facts = {
        "kind": "age_cv",
        "class_names": list(predictions.class_names),
        "manifest": "1f" * 32,
        "policy": "core8",
        "split": "2e" * 32,
        "protocol": "fixed",
        "loss": {"name": "cel", "label_smoothing": 0.0, "class_weights": "none"},
        "backbone": "resnet18",
        "seed": 0,
        "device": {"asked": "auto", "used": "cpu", "name": "a CPU"},
        "versions": {"torch": "2.15.0"},
        "n": len(predictions),
        "data_root": str(folder),
    } | run
    facts = {name: value for name, value in facts.items() if value is not None}
    (folder / "run.json").write_text(json.dumps(facts), encoding="utf-8")
    predictions.write(folder / "predictions.parquet")
    if config is not None:
        (folder / "config.yaml").write_text(json.dumps(config), encoding="utf-8")
    return folder


def rewrite(file: Path, change: Any) -> None:
    """Replace a parquet file by what `change` makes of its columns."""
    columns = {name: column.to_numpy() for name, column in zip(*_columns(file), strict=True)}
    pq.write_table(pa.table(change(columns)), file)


def _columns(file: Path) -> tuple[list[str], list[Any]]:
    table = pq.read_table(file)
    return table.column_names, table.columns


def test_what_is_written_is_read_back_in_the_contracts_columns(tmp_path):
    written = synthetic_predictions()
    result = Result.load(write_result(tmp_path / "run", written), TASK.form)
    names, _ = _columns(result.folder / "predictions.parquet")
    assert names == [
        "path",
        "subject",
        "user",
        "gender",
        "age",
        "fold",
        "target",
        "predicted",
        *(f"prob_{k}" for k in range(4)),
    ]
    assert pq.read_schema(result.folder / "predictions.parquet").field("prob_0").type == pa.float32()
    rows = written.in_order()
    for name in ("path", "target", "probs"):
        np.testing.assert_array_equal(getattr(result.predictions, name), getattr(rows, name))
    for name in ("subject", "user", "gender", "age", "fold"):
        np.testing.assert_array_equal(result.predictions[name], rows[name])
    assert result.folds == [0, 1, 2]
    assert result.class_names == GROUPS


def test_rows_are_sorted_by_fold_then_path(tmp_path):
    shuffled = synthetic_predictions().select(np.random.default_rng(0).permutation(60))
    rows = Result.load(write_result(tmp_path / "run", shuffled), TASK.form).predictions
    keys = list(zip(rows.fold.tolist(), rows.path.tolist(), strict=True))
    assert keys == sorted(keys)


def test_predicted_correct_and_one_off_by_hand():
    probs = [[0.5, 0.5, 0, 0], [0.1, 0.2, 0.7, 0], [0, 0, 0, 1]]
    rows = synthetic_predictions(images=3)
    rows = replace(rows, target=np.array([0, 1, 0]), probs=np.array(probs))
    assert rows.preds.tolist() == [0, 2, 3]
    assert rows.correct.tolist() == [True, False, False]
    assert rows.one_off.tolist() == [True, True, False]


def test_log_odds_keep_their_digits_near_certainty():
    probs = np.array([[1 - 3e-20, 1e-20, 1e-20, 1e-20]])
    rows = replace(synthetic_predictions(images=1), probs=probs)
    assert rows.log_odds[0, 0] == pytest.approx(-np.log(3e-20))
    assert rows.log_odds[0, 1] == pytest.approx(np.log(1e-20))


def test_log_odds_of_a_flat_guess_and_of_zero():
    probs = np.array([[0.25, 0.25, 0.25, 0.25], [0.0, 1.0, 0.0, 0.0]])
    log_odds = replace(synthetic_predictions(images=2), probs=probs).log_odds
    np.testing.assert_allclose(log_odds[0], -np.log(3))
    assert np.isfinite(log_odds).all()


@pytest.mark.parametrize("missing", ["run.json", "predictions.parquet"])
def test_a_folder_that_is_no_result_is_refused_with_what_was_looked_for(tmp_path, missing):
    folder = write_result(tmp_path / "run", synthetic_predictions())
    (folder / missing).unlink()
    with pytest.raises(DataError, match=f"lacks {missing}.*run.json and predictions.parquet"):
        Result.load(folder, TASK.form)


def test_a_folder_that_is_not_there_is_refused(tmp_path):
    with pytest.raises(DataError, match="it does not exist"):
        Result.load(tmp_path / "nowhere", TASK.form)


def test_missing_columns_are_named_with_the_file(tmp_path):
    file = write_result(tmp_path / "run", synthetic_predictions()) / "predictions.parquet"
    rewrite(
        file, lambda columns: {name: columns[name] for name in columns if name not in ("subject", "prob_3")}
    )
    with pytest.raises(DataError, match=r"predictions.parquet lacks the columns subject, prob_3"):
        Result.load(file.parent, TASK.form)


def test_more_probabilities_than_class_names_are_refused(tmp_path):
    folder = write_result(tmp_path / "run", synthetic_predictions(), class_names=list(GROUPS[:3]))
    with pytest.raises(DataError, match="prob_3 beyond the 3 class names"):
        Result.load(folder, TASK.form)


@pytest.mark.parametrize("value", [0.9, np.nan, -3.0])
def test_probabilities_that_do_not_sum_to_one_are_refused_by_row(tmp_path, value):
    file = write_result(tmp_path / "run", synthetic_predictions()) / "predictions.parquet"

    def break_row(columns: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
        broken = columns["prob_1"].copy()
        broken[7] = value
        return columns | {"prob_1": broken}

    rewrite(file, break_row)
    with pytest.raises(DataError, match=r"predictions.parquet.*sum to 1:\n  row 7 \(faces"):
        Result.load(file.parent, TASK.form)


def test_a_target_outside_the_groups_is_refused_by_row(tmp_path):
    file = write_result(tmp_path / "run", synthetic_predictions()) / "predictions.parquet"
    rewrite(file, lambda columns: columns | {"target": np.where(np.arange(60) == 3, 4, columns["target"])})
    with pytest.raises(DataError, match=r"targets must lie in \[0, 3\]:\n  row 3 .*target 4"):
        Result.load(file.parent, TASK.form)


def test_empty_cells_are_refused(tmp_path):
    file = write_result(tmp_path / "run", synthetic_predictions()) / "predictions.parquet"
    rewrite(
        file, lambda columns: columns | {"subject": np.array([None, *columns["subject"][1:]], dtype=object)}
    )
    with pytest.raises(DataError, match="empty cells in subject"):
        Result.load(file.parent, TASK.form)


def test_a_damaged_file_and_an_unfinished_run_are_refused(tmp_path):
    folder = write_result(tmp_path / "half", synthetic_predictions(), n=61)
    with pytest.raises(DataError, match=r"61 test images, predictions\.parquet has 60"):
        Result.load(folder, TASK.form)
    (folder / "predictions.parquet").write_bytes(b"PAR1 broken")
    with pytest.raises(DataError, match="cannot be read as parquet"):
        Result.load(folder, TASK.form)


def test_other_kinds_of_run_and_broken_records_are_refused(tmp_path):
    other = write_result(tmp_path / "other", synthetic_predictions(), kind="fine_train")
    with pytest.raises(DataError, match="must be age_fold or age_cv, got 'fine_train'"):
        Result.load(other, TASK.form)
    nameless = write_result(tmp_path / "nameless", synthetic_predictions(), class_names=None)
    with pytest.raises(DataError, match="lacks class_names"):
        Result.load(nameless, TASK.form)
    (other / "run.json").write_text("{", encoding="utf-8")
    with pytest.raises(DataError, match="is no valid JSON"):
        Result.load(other, TASK.form)


def test_columns_of_unequal_length_are_refused():
    with pytest.raises(DataError, match="differ in length"):
        with_columns(synthetic_predictions(), user=np.array(["u"]))


def test_curves_manifest_and_configuration_are_read_where_they_are(tmp_path):
    folder = write_result(tmp_path / "run", synthetic_predictions(), config={"train": {"lr": 0.1}})
    bare = Result.load(folder, TASK.form)
    assert bare.manifest is None
    assert bare.curves == {}
    assert bare.config == {"train": {"lr": 0.1}}
    (folder / "fold1").mkdir()
    (folder / "fold1" / "metrics.jsonl").write_text('{"epoch": 0, "val_accuracy": null}\n', encoding="utf-8")
    manifest = Manifest(folder, GROUPS, {"path": np.array(["a.jpg"]), "label": np.array([2])})
    manifest.save(folder / "manifest.parquet")
    full = Result.load(folder, TASK.form)
    assert full.curves == {1: [{"epoch": 0, "val_accuracy": None}]}
    assert full.manifest is not None
    assert full.manifest.fingerprint == manifest.fingerprint


def test_the_loss_is_told_with_the_parameters_that_were_given(tmp_path):
    plain = Result.load(write_result(tmp_path / "cel", synthetic_predictions()), TASK.form)
    loss = {"name": "crl", "alpha": 1.5, "beta": 0, "label_smoothing": 0.0, "class_weights": "none"}
    told = Result.load(write_result(tmp_path / "crl", synthetic_predictions(), loss=loss), TASK.form)
    assert (plain.loss_text, told.loss_text) == ("cel", "crl (alpha 1.5, beta 0)")


@pytest.mark.parametrize(
    ("stored", "told"),
    [(1.0, r"run.json records .* 1\.0000 %, but predictions"), ("high", "not a number")],
)
def test_a_recorded_accuracy_that_is_not_the_predictions_is_refused(tmp_path, stored, told):
    exact = 100 * float(make_result(tmp_path / "run").predictions.correct.mean())
    file = tmp_path / "run" / "run.json"
    record = read_json(file)
    write_json(file, {**record, "scores": {"exact": exact}})
    assert Result.load(tmp_path / "run", AGE_RESULT).record.scores == {"exact": exact}
    write_json(file, {**record, "scores": {"exact": stored}})
    with pytest.raises(DataError, match=told):
        Result.load(tmp_path / "run", AGE_RESULT)
