from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from agecls.config import AgeDataConfig, AgeEvaluateAgainConfig, AgeEvaluateConfig, EvaluateAgeConfig
from agecls.evaluation import evaluate_age_run
from agecls.task import TASK
from finetune.errors import DataError, ModelFileError, UsageError
from finetune.experiments.predictions import Predictions
from finetune.experiments.result import Result, model_files
from finetune.experiments.train import train_run
from tests.agecls.tiny_ages import as_table, listed_rows, picture, single, tiny

TABLE = {"group_column": "group", "user_column": "user", "gender_column": "gender"}


def asked(tmp_path: Path, crops: str | None = None, out: bool = True, **data: object) -> EvaluateAgeConfig:
    return EvaluateAgeConfig(
        data=AgeDataConfig(**data),
        evaluate=AgeEvaluateAgainConfig(test_crops=crops),
        device="cpu",
        cache=str(tmp_path / "cache"),
        out=str(tmp_path / "out") if out else None,
    )


@pytest.fixture
def others(other_faces, tmp_path) -> dict[str, object]:
    """Options that name other people's faces, as a table."""
    return {"table": str(as_table(other_faces, tmp_path / "others.csv")), "root": str(other_faces), **TABLE}


def test_own_predictions_are_scored_as_in_the_report(pair, tmp_path):
    summary = evaluate_age_run(TASK, pair[0], asked(tmp_path))
    report = json.loads((pair[0] / "report.json").read_text())
    assert summary["exact"] == pytest.approx(report["exact_pooled"])
    assert summary["one_off"] == pytest.approx(report["one_off_pooled"])
    assert summary["n"] == report["n"]
    assert json.loads((tmp_path / "out" / "evaluation.json").read_text())["exact"] == summary["exact"]


def test_slices_cover_every_image_and_small_cells_have_counts_only(pair, tmp_path):
    summary = evaluate_age_run(TASK, pair[0], asked(tmp_path, out=False))
    assert set(summary["slices"]) == {"group", "gender", "subject_count"}
    for rows in summary["slices"].values():
        assert sum(row["images"] for row in rows) == summary["n"]
        assert all(row["exact"] is None for row in rows if row["subjects"] < 30)
    assert not (tmp_path / "out").exists()


def test_another_table_is_predicted_by_all_folds_together(pair, others, other_faces, tmp_path):
    summary = evaluate_age_run(TASK, pair[0], asked(tmp_path, **others))
    assert summary["n"] == len(listed_rows(other_faces))
    names = Result.load(pair[0], TASK.form).class_names
    together = Predictions.read(tmp_path / "out" / "predictions.parquet", names)
    assert 100 * together.correct.mean() == pytest.approx(summary["exact"])
    single_probs = []
    for fold in range(5):
        evaluate_age_run(TASK, pair[0] / f"fold{fold}", asked(tmp_path, **others))
        single_probs.append(Predictions.read(tmp_path / "out" / "predictions.parquet", names).probs)
    assert np.ptp(single_probs, axis=0).max() > 1e-3, (
        "the folds' models must differ for the mean to mean anything"
    )
    assert together.probs == pytest.approx(np.mean(single_probs, axis=0), abs=1e-6)


def test_more_crops_give_other_probabilities_of_the_same_images(pair, others, tmp_path):
    names = Result.load(pair[0], TASK.form).class_names
    found = {}
    for crops in ("center", "flip", "ten"):
        evaluate_age_run(TASK, pair[0] / "fold0", asked(tmp_path, crops=crops, **others))
        found[crops] = Predictions.read(tmp_path / "out" / "predictions.parquet", names)
    assert all((one.path == found["center"].path).all() for one in found.values())
    assert not np.array_equal(found["flip"].probs, found["center"].probs)
    assert not np.array_equal(found["ten"].probs, found["flip"].probs)


def test_one_person_is_enough_to_be_predicted(pair, other_faces, tmp_path):
    row = listed_rows(other_faces)[0]
    (tmp_path / "one.csv").write_text(f"path,age,subject\n{picture(row)},30,p\n")
    summary = evaluate_age_run(
        TASK, pair[0] / "fold0", asked(tmp_path, table=str(tmp_path / "one.csv"), root=str(other_faces))
    )
    assert summary["n"] == 1


def test_other_crops_than_the_runs_own_need_the_pictures(pair, tmp_path):
    with pytest.raises(UsageError, match="tested with center crops"):
        evaluate_age_run(TASK, pair[0], asked(tmp_path, crops="ten"))
    assert evaluate_age_run(TASK, pair[0], asked(tmp_path, crops="center"))["n"]


def test_centre_crops_are_refused_for_a_run_that_was_tested_with_ten(faces, tmp_path):
    config = single(tiny(faces, tmp_path / "run"))
    train_run(TASK, replace(config, evaluate=AgeEvaluateConfig(test_crops="ten")))
    assert evaluate_age_run(TASK, tmp_path / "run", asked(tmp_path))["n"]
    with pytest.raises(UsageError, match="tested with ten crops"):
        evaluate_age_run(TASK, tmp_path / "run", asked(tmp_path, crops="center"))


def test_training_images_are_refused_however_they_are_listed(pair, faces, tmp_path):
    with pytest.raises(DataError, match="belong to the data set"):
        evaluate_age_run(TASK, pair[0], asked(tmp_path, root=str(faces)))
    table = as_table(faces, tmp_path / "same.csv")
    with pytest.raises(DataError, match=f"{len(listed_rows(faces))} of"):
        evaluate_age_run(TASK, pair[0], asked(tmp_path, table=str(table), root=str(faces), **TABLE))
    lines = table.read_text().splitlines()
    table.write_text("\n".join([lines[0], lines[5]]))
    with pytest.raises(DataError, match="1 of 1 images"):
        evaluate_age_run(TASK, pair[0], asked(tmp_path, table=str(table), root=str(faces), **TABLE))


def test_a_copy_of_the_training_images_is_refused(pair, faces, tmp_path):
    shutil.copytree(faces, tmp_path / "copy")
    with pytest.raises(DataError, match="belong to the data set"):
        evaluate_age_run(TASK, pair[0], asked(tmp_path, root=str(tmp_path / "copy")))


def test_other_groups_than_the_models_are_refused(pair, other_faces, tmp_path):
    row = listed_rows(other_faces)[0]
    (tmp_path / "one.csv").write_text(f"path,age,subject\n{picture(row)},30,p\n")
    data = {"table": str(tmp_path / "one.csv"), "root": str(other_faces), "groups": "0-20,21-40,41+"}
    with pytest.raises(ModelFileError, match="21-40"):
        evaluate_age_run(TASK, pair[0], asked(tmp_path, **data))


def test_a_folder_without_a_finished_model_is_refused(pair, others, tmp_path):
    with pytest.raises(ModelFileError, match=r"no model\.safetensors"):
        evaluate_age_run(TASK, tmp_path, asked(tmp_path, **others))
    shutil.copytree(pair[0], tmp_path / "half")
    (tmp_path / "half" / "run.json").unlink()
    with pytest.raises(ModelFileError, match="not finished"):
        model_files(tmp_path / "half")
    with pytest.raises(DataError, match=r"lacks run\.json"):
        evaluate_age_run(TASK, tmp_path / "half", asked(tmp_path))


def test_a_damaged_model_is_named(pair, others, tmp_path):
    shutil.copytree(pair[0] / "fold0", tmp_path / "run")
    file = tmp_path / "run" / "model.safetensors"
    data = bytearray(file.read_bytes())
    data[-100] ^= 1
    file.write_bytes(data)
    with pytest.raises(ModelFileError, match=r"model\.safetensors"):
        evaluate_age_run(TASK, tmp_path / "run", asked(tmp_path, **others))


def test_a_run_on_everything_is_scored_on_other_data_only(faces, others, tmp_path):
    train_run(TASK, single(tiny(faces, tmp_path / "all"), fold=-1))
    with pytest.raises(DataError, match="tested no image"):
        evaluate_age_run(TASK, tmp_path / "all", asked(tmp_path))
    config = asked(tmp_path, **others)
    assert (
        evaluate_age_run(TASK, tmp_path / "all", config)["n"]
        == evaluate_age_run(TASK, tmp_path / "all", replace(config, out=None))["n"]
    )
    table = as_table(faces, tmp_path / "same.csv")
    with pytest.raises(DataError, match="belong to the data set"):
        evaluate_age_run(TASK, tmp_path / "all", asked(tmp_path, table=str(table), root=str(faces), **TABLE))
