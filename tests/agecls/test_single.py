"""A single age run: its fold, all folds, and subjects that are not known."""

from __future__ import annotations

import csv
import json
import re
import shutil
from pathlib import Path

import pytest

from agecls.config import EvaluateAgeConfig
from agecls.evaluation import evaluate_age_run
from agecls.task import TASK
from finetune.errors import DataError, UsageError
from finetune.experiments.result import Result
from finetune.experiments.train import train_run
from finetune.figures.markdown import escape
from finetune.images.manifest import Manifest
from finetune.models.bundle import load_bundle
from tests.agecls.tiny_ages import as_table, listed_rows, resumed, single, tiny
from tests.finetune.experiments.tiny_tasks import leave_out_pictures


@pytest.fixture(autouse=True)
def no_pictures(monkeypatch):
    """Draw no figures, which take most of a tiny run's time."""
    leave_out_pictures(monkeypatch)


pytestmark = pytest.mark.usefixtures("undrawn")


def test_a_single_run_is_tested_once_on_its_own_fold(faces, tmp_path):
    record = train_run(TASK, single(tiny(faces, tmp_path / "run"), fold=2))
    own = [row for row in listed_rows(faces) if row["fold"] == "2"]
    assert (record["kind"], record["fold"], record["n"]) == ("age_fold", 2, len(own))
    result = Result.load(tmp_path / "run", TASK.form)
    assert set(result.predictions["subject"]) == {row["face_id"] for row in own}
    assert record["scores"]["exact"] == pytest.approx(100 * result.predictions.correct.mean())
    few = f"the test images are of {len({row['face_id'] for row in own})} subjects, fewer than 30"
    assert any(text.startswith(few) for text in record["warnings"])
    assert few in (tmp_path / "run" / "report.md").read_text()
    saved = Manifest.load(tmp_path / "run" / "manifest.parquet", faces)
    assert saved.fingerprint == record["manifest"]


def test_fold_minus_one_trains_on_everything_and_tests_on_nothing(faces, tmp_path):
    record = train_run(TASK, single(tiny(faces, tmp_path / "run"), fold=-1))
    assert (record["n"], record["n_train"], record["scores"]) == (0, len(listed_rows(faces)), {})
    assert len(Result.load(tmp_path / "run", TASK.form).predictions) == 0
    _, facts = load_bundle(tmp_path / "run" / "model.safetensors")
    assert facts["class_names"] == ["0-2", "4-6", "8-12", "15-20", "25-32", "38-43", "48-53", "60+"]


def test_an_unknown_fold_is_refused_before_the_folder_is_made(faces, tmp_path):
    with pytest.raises(UsageError, match=r"--data\.fold 5: there are folds \[0, 1, 2, 3, 4\], or -1"):
        train_run(TASK, single(tiny(faces, tmp_path / "run"), fold=5))
    assert not (tmp_path / "run").exists()


def test_a_run_does_not_go_on_with_another_fold(faces, tmp_path):
    config = tiny(faces, tmp_path / "run")
    train_run(TASK, single(config, fold=0))
    with pytest.raises(UsageError, match=r"data\.fold: 0 -> 1"):
        train_run(TASK, single(resumed(config), fold=1))


def test_training_on_one_group_alone_is_refused_with_counts(faces, tmp_path):
    file = as_table(faces, tmp_path / "t.csv")
    header, *rows = file.read_text().splitlines()
    file.write_text("\n".join([header, *(row for row in rows if ",25-32," in row)]))
    columns = {"group_column": "group", "user_column": "user", "fold_column": "fold"}
    config = tiny(faces, tmp_path / "run", table=str(file), **columns)
    with pytest.raises(DataError, match=r"training needs images of two classes, found .*0-2: 0"):
        train_run(TASK, single(config, fold=0))


def test_warnings_reach_record_report_and_page_and_unknown_subjects_are_not_vouched_for(
    faces, tmp_path, capsys
):
    own = tmp_path / "faces"
    shutil.copytree(faces, own)
    file = as_table(own, own / "t.csv")
    _, *rows = list(csv.reader(file.read_text().splitlines()))
    tested = next(row[0] for row in rows if row[-1] == "0")
    trained = next(row[0] for row in rows if row[-1] == "3")
    shutil.copy(own / trained, own / tested)
    columns = {"group_column": "group", "subject_column": "none", "fold_column": "fold"}
    record = train_run(TASK, single(tiny(own, tmp_path / "run", table=str(file), **columns), fold=0))
    twin = next(text for text in record["warnings"] if "equal image in training" in text)
    assert Path(trained).name in twin
    assert Path(tested).name in twin
    written, report = (
        json.loads((tmp_path / "run" / name).read_text()) for name in ("run.json", "report.json")
    )
    assert written["warnings"] == report["warnings"] == list(record["warnings"])
    assert written["shared_people"] is None
    told = {"subjects": None, "users": None, "subjects_known": False}
    for place in (written["counts"], report["counts"]):
        assert {key: place[key] for key in told} == told
    assert (written["subjects"], report["subjects"], report["users"]) == (None, None, None)
    assert (report["effective_subjects"], report["subjects_in_several_folds"]) == (None, None)
    page = (tmp_path / "run" / "report.md").read_text()
    assert "No subject is in both" not in page
    assert "**Subjects are not known**" in page
    assert escape(twin) in page.split("## Warnings", 1)[1].split("\n## ", 1)[0]
    said = capsys.readouterr().out
    assert f"{len(rows)} images, subjects not known" in said
    assert not re.search(r"\d subjects", said)
    assert not re.search(r"(?<!than )(?<!from )\b\d+ subjects", page)
    assert "images resampled)" in page
    assert "subjects" not in TASK.card(tmp_path / "run", None, tested=True)["metrics"]
    assert "| subjects |" not in page
    facts = TASK.card(tmp_path / "run", None, tested=True)["card"]
    assert not any(
        "subjects" in cell for cell in (*facts["groups"], facts["false_adult"], facts["false_minor"])
    )
    assert any("fewer than 30 images each" in line for line in facts["not_measured"])
    result = Result.load(tmp_path / "run", TASK.form)
    assert (TASK.resampling(result.predictions).unit, TASK.tested(result.predictions)) == ("image", {})
    assert (result.record.subjects, report["intervals"]["unit"]) == (None, "image")
    evaluate_age_run(TASK, tmp_path / "run", EvaluateAgeConfig())
    assert "subject" not in capsys.readouterr().out
    card = TASK.card(tmp_path / "run", None, tested=True)["card"]["data"]
    assert (card["subjects_known"], card["shared_people"]) == (False, None)
    assert (card["subjects"], card["users"]) == (None, None)
