"""Evaluating age runs: slices, cross-validations, and what counts as seen; the rest holds for every task."""

from __future__ import annotations

import hashlib
import json
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from agecls.config import AgeDataConfig, AgeEvaluateAgainConfig, EvaluateAgeConfig
from agecls.evaluation import evaluate_age_run, evaluation_scores, tell_slices
from agecls.task import TASK
from finetune.errors import DataError
from finetune.experiments.records.predictions import Predictions
from finetune.experiments.result import Result
from finetune.experiments.train import train_run
from tests.agecls.age_predictions import with_columns
from tests.agecls.tiny_ages import as_table, listed_rows, picture, single, tiny
from tests.finetune.experiments.made_tasks import ages
from tests.finetune.experiments.tiny_tasks import leave_out_pictures

TABLE = {"group_column": "group", "user_column": "user", "gender_column": "gender"}


def asked(tmp_path: Path, crops: str | None = None, out: bool = True, **data: object) -> EvaluateAgeConfig:
    return EvaluateAgeConfig(
        data=AgeDataConfig(**data),
        evaluate=AgeEvaluateAgainConfig(test_crops=crops),
        device="cpu",
        cache=str(tmp_path / "cache"),
        out=str(tmp_path / "out") if out else None,
    )


def written(tmp_path: Path, run: Path) -> Predictions:
    """Return the predictions that an evaluation of this run wrote."""
    names = Result.load(run, TASK.form).class_names
    file = tmp_path / "out" / "predictions.parquet"
    return Predictions.read(file, names, TASK.form.columns, may_be_empty=TASK.form.may_be_empty)


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
    stored = json.loads((tmp_path / "out" / "evaluation.json").read_text())
    assert (stored["exact"], stored["slices"]) == (summary["exact"], summary["slices"])


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
    together = written(tmp_path, pair[0])
    assert 100 * together.correct.mean() == pytest.approx(summary["exact"])
    single_probs = []
    for fold in range(5):
        evaluate_age_run(TASK, pair[0] / f"fold{fold}", asked(tmp_path, **others))
        single_probs.append(written(tmp_path, pair[0]).probs)
    assert np.ptp(single_probs, axis=0).max() > 1e-3, (
        "the folds' models must differ for the mean to mean anything"
    )
    assert together.probs == pytest.approx(np.mean(single_probs, axis=0), abs=1e-6)


def test_one_person_is_enough_to_be_predicted(pair, other_faces, tmp_path):
    row = listed_rows(other_faces)[0]
    (tmp_path / "one.csv").write_text(f"path,age,subject\n{picture(row)},30,p\n")
    summary = evaluate_age_run(
        TASK, pair[0] / "fold0", asked(tmp_path, table=str(tmp_path / "one.csv"), root=str(other_faces))
    )
    assert summary["n"] == 1


def test_other_crops_show_each_folds_images_to_its_own_model(pair, tmp_path):
    own = Result.load(pair[0], TASK.form).predictions.in_order()
    summary = evaluate_age_run(TASK, pair[0], asked(tmp_path, crops="ten"))
    assert (summary["n"], summary["test_crops"]) == (len(own), "ten")
    assert summary["data"] == "the run's own test images, shown again"
    again = written(tmp_path, pair[0])
    for name in ("subject", "user", "gender", "fold"):
        assert again[name].tolist() == own[name].tolist()
    assert again.path.tolist() == own.path.tolist()
    for fold in range(5):
        assert evaluate_age_run(TASK, pair[0] / f"fold{fold}", asked(tmp_path, crops="ten"))["n"]
        alone = written(tmp_path, pair[0])
        assert alone.probs == pytest.approx(again.select(again.fold == fold).probs, abs=1e-6)
    assert "as it was tested" in evaluate_age_run(TASK, pair[0], asked(tmp_path, crops="center"))["data"]


def test_a_fold_without_its_cross_validation_is_doubted_and_still_knows_its_list(
    pair, faces, others, tmp_path, capsys
):
    shutil.copytree(pair[0] / "fold0", tmp_path / "run")
    evaluate_age_run(TASK, tmp_path / "run", asked(tmp_path, **others))
    assert "holds no table of its images" in capsys.readouterr().out
    with pytest.raises(DataError, match="belong to the data set"):
        evaluate_age_run(TASK, tmp_path / "run", asked(tmp_path, root=str(faces)))


def test_copies_under_new_names_are_refused_unless_the_fold_tested_them(pair, faces, tmp_path):
    """A cross-validation's models together have seen every image, a fold's model all but its test images."""
    lines = ["path,age,subject"]
    for number, path in enumerate(Result.load(pair[0] / "fold0", TASK.form).predictions.path.tolist()):
        shutil.copy(faces / path, tmp_path / f"{number}.jpg")
        lines.append(f"{number}.jpg,30,p{number}")
    (tmp_path / "t.csv").write_text("\n".join(lines) + "\n")
    table, count = str(tmp_path / "t.csv"), len(lines) - 1
    kept = Result.load(pair[0], TASK.form).manifest
    assert kept is not None
    assert kept["sha256"][0] == hashlib.sha256(kept.file(0).read_bytes()).hexdigest()
    told = rf"was trained or validated on {count} of these {count} images \(equal bytes\)"
    for folder in (pair[0], pair[0] / "fold1"):
        with pytest.raises(DataError, match=told):
            evaluate_age_run(TASK, folder, asked(tmp_path, table=table))
    assert evaluate_age_run(TASK, pair[0] / "fold0", asked(tmp_path, table=table))["n"] == count


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


def test_a_run_on_everything_is_scored_on_other_data_only(faces, others, tmp_path, monkeypatch):
    leave_out_pictures(monkeypatch)
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


def test_slices_of_images_without_subjects_count_images_alone(capsys):
    found = ages(np.ones(240, dtype=bool))
    tell_slices(evaluation_scores(found))
    assert "by subject count" in capsys.readouterr().out
    scores = evaluation_scores(with_columns(found, subject=found.path))
    assert scores["slices"]["subject_count"] == []
    assert all("subjects" not in row for row in scores["slices"]["group"])
    tell_slices(scores)
    assert "subject" not in capsys.readouterr().out
