from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from agecls.config import AgeEvaluateConfig
from agecls.cross_validation import cross_validate, fold_folder, is_finished
from agecls.task import TASK
from finetune.errors import DataError, ModelFileError, UsageError
from finetune.experiments.result import Result
from finetune.experiments.train import train_run
from finetune.models.bundle import load_bundle
from finetune.runs.folder import read_config, read_json
from tests.agecls.tiny_ages import as_table, content, resumed, same_predictions, single, tiny, words
from tests.finetune.experiments.tiny_tasks import leave_out_pictures

PROMISED = {
    *("exact_mean", "exact_sd", "exact_per_fold", "exact_pooled"),
    *("one_off_mean", "one_off_sd", "one_off_per_fold", "one_off_pooled"),
    *("n", "subjects", "policy", "manifest", "split"),
}


def report_of(folder: Path) -> dict:
    return json.loads((folder / "report.json").read_text())


def scores_of(folder: Path) -> dict:
    """Everything in a report that follows from data and weights, nothing that follows from the clock."""
    left_out = ("command", "minutes", "pictures")
    return {name: value for name, value in report_of(folder).items() if name not in left_out}


@pytest.fixture
def plain(pair, monkeypatch):
    """No figures in what a test makes itself; `pair`, made before, has its own."""
    leave_out_pictures(monkeypatch)


def test_report_holds_what_is_promised_and_its_scores_follow_from_the_predictions(pair):
    report, result = report_of(pair[0]), Result.load(pair[0], TASK.form)
    found = result.predictions
    assert set(report) >= PROMISED
    right = found.probs.argmax(1) == found.target
    near = np.abs(found.probs.argmax(1) - found.target) <= 1
    for name, hits in (("exact", right), ("one_off", near)):
        per_fold = [100 * hits[found.fold == fold].mean() for fold in range(5)]
        assert report[f"{name}_per_fold"] == pytest.approx(per_fold)
        assert report[f"{name}_mean"] == pytest.approx(np.mean(per_fold))
        assert report[f"{name}_sd"] == pytest.approx(np.std(per_fold, ddof=1))
        assert report[f"{name}_pooled"] == pytest.approx(100 * hits.mean())
    assert report["n"] == len(found) == len(set(found.path))
    assert report["subjects"] == len(set(found["subject"]))
    assert report["policy"] == "core8"


def test_result_folder_is_whole(pair):
    cel, _ = pair
    names = {"config.yaml", "run.json", "manifest.parquet", "predictions.parquet", "report.md", "report.json"}
    assert names <= {file.name for file in cel.iterdir()}
    fold_names = {"config.yaml", "run.json", "metrics.jsonl", "model.safetensors", "predictions.parquet"}
    for fold in range(5):
        assert fold_names <= {file.name for file in fold_folder(cel, fold).iterdir()}
    pictures = report_of(cel)["pictures"]
    assert len(pictures) >= 4
    assert all((cel / name).stat().st_size > 1000 for name in pictures)
    assert all(name in (cel / "report.md").read_text() for name in pictures)


def test_few_subjects_are_warned_of_by_the_whole_and_not_by_its_folds(pair):
    subjects = len(set(Result.load(pair[0], TASK.form).predictions["subject"].tolist()))
    told = [text for text in report_of(pair[0])["warnings"] if "fewer than 30" in text]
    assert len(told) == (subjects < 30)
    assert all(f"of {subjects} subjects" in text for text in told)
    assert "fewer than 30" not in (fold_folder(pair[0], 0) / "run.json").read_text()


def test_two_losses_share_data_and_split_and_differ_in_answers(pair):
    cel, crl = (report_of(folder) for folder in pair)
    assert [cel[name] for name in ("manifest", "split", "n")] == [
        crl[name] for name in ("manifest", "split", "n")
    ]
    assert not same_predictions(*pair)


def test_finished_folds_are_never_run_again_and_the_whole_equals_one_call(faces, pair, tmp_path):
    config = tiny(faces, tmp_path / "run")
    first = cross_validate(TASK, replace(config, folds=(2, 0)))
    assert (first["finished"], first["remaining"]) == ([0, 2], [1, 3, 4])
    assert not (tmp_path / "run" / "report.json").exists()
    before = {fold: content(fold_folder(tmp_path / "run", fold)) for fold in (0, 2)}
    report = cross_validate(TASK, resumed(config))
    assert {fold: content(fold_folder(tmp_path / "run", fold)) for fold in (0, 2)} == before
    assert same_predictions(tmp_path / "run", pair[0])
    assert scores_of(tmp_path / "run") == scores_of(pair[0])
    assert report["pictures"] == report_of(pair[0])["pictures"]
    assert report["exact_mean"] == report_of(pair[0])["exact_mean"]


@pytest.mark.usefixtures("plain")
def test_a_call_without_report_leaves_the_report_to_another(faces, pair, tmp_path):
    shutil.copytree(pair[0], tmp_path / "run")
    (tmp_path / "run" / "report.json").unlink()
    config = resumed(tiny(faces, tmp_path / "run"))
    assert cross_validate(TASK, replace(config, report=False))["remaining"] == []
    assert not (tmp_path / "run" / "report.json").exists()
    cross_validate(TASK, config)
    assert scores_of(tmp_path / "run") == scores_of(pair[0])


def test_non_empty_folder_is_refused(faces, pair, tmp_path):
    (tmp_path / "notes.txt").write_text("mine")
    with pytest.raises(UsageError, match="not empty"):
        cross_validate(TASK, tiny(faces, tmp_path))
    with pytest.raises(UsageError, match=r"--run\.resume auto"):
        cross_validate(TASK, tiny(faces, pair[0]))
    assert [file.name for file in tmp_path.iterdir()] == ["notes.txt"]


def test_changed_configuration_is_refused_with_the_difference(faces, pair, tmp_path):
    shutil.copytree(pair[0], tmp_path / "run")
    before = content(tmp_path / "run")
    with pytest.raises(UsageError, match=r"loss\.name: cel -> crl"):
        cross_validate(TASK, resumed(tiny(faces, tmp_path / "run", "crl")))
    assert content(tmp_path / "run") == before


def test_folds_of_changed_data_are_not_joined(faces, pair, tmp_path):
    shutil.copytree(pair[0], tmp_path / "run")
    shutil.copytree(faces, tmp_path / "faces")
    file = tmp_path / "faces" / "fold_1_data.txt"
    file.write_text("".join(file.read_text().splitlines(keepends=True)[:-1]))
    config = tiny(faces, tmp_path / "run")
    (tmp_path / "run" / "config.yaml").write_text(
        (tmp_path / "run" / "config.yaml").read_text().replace(str(faces), str(tmp_path / "faces"))
    )
    moved = replace(config, data=replace(config.data, root=str(tmp_path / "faces")))
    with pytest.raises(DataError, match=r"the data changed since .*fold0"):
        cross_validate(TASK, resumed(moved))


def test_an_unknown_fold_is_refused_before_anything_is_written(faces, tmp_path):
    with pytest.raises(UsageError, match=r"--folds 5,7: there are folds \[0, 1, 2, 3, 4\]"):
        cross_validate(TASK, replace(tiny(faces, tmp_path / "run"), folds=(7, 1, 5)))
    assert not (tmp_path / "run").exists()


def test_a_cross_validation_under_torchrun_is_refused(faces, tmp_path, monkeypatch):
    monkeypatch.setenv("WORLD_SIZE", "2")
    with pytest.raises(UsageError, match="without torchrun"):
        cross_validate(TASK, tiny(faces, tmp_path / "run"))


@pytest.mark.usefixtures("plain")
def test_folds_keep_the_numbers_of_the_table(faces, tmp_path):
    table = as_table(faces, tmp_path / "faces.csv", first_fold=1)
    columns = {"group_column": "group", "user_column": "user", "fold_column": "fold"}
    config = tiny(faces, tmp_path / "run", table=str(table), **columns)
    report = cross_validate(TASK, config)
    assert report["folds"] == [1, 2, 3, 4, 5]
    found = Result.load(tmp_path / "run", TASK.form).predictions
    official = {row.split(",")[0]: int(row.split(",")[-1]) for row in table.read_text().splitlines()[1:]}
    assert dict(zip(found.path.tolist(), found.fold.tolist(), strict=True)) == official


def test_train_on_a_fold_equals_the_fold_of_the_cross_validation(faces, pair, tmp_path):
    train_run(TASK, single(tiny(faces, tmp_path / "alone"), fold=3))
    weights, facts = load_bundle(tmp_path / "alone" / "model.safetensors")
    expected, expected_facts = load_bundle(pair[0] / "fold3" / "model.safetensors")
    assert weights.keys() == expected.keys()
    assert all((weights[name] == expected[name]).all() for name in weights)
    assert facts["split"] == expected_facts["split"]
    assert same_predictions(tmp_path / "alone", pair[0] / "fold3")


def test_ten_crops_and_their_mirrors_change_the_answers_only(faces, pair, tmp_path):
    expected = Result.load(pair[0] / "fold0", TASK.form).predictions
    weights, _ = load_bundle(pair[0] / "fold0" / "model.safetensors")
    for crops in ("flip", "ten"):
        config = replace(
            tiny(faces, tmp_path / crops), evaluate=AgeEvaluateConfig(test_crops=crops), folds=(0,)
        )
        cross_validate(TASK, config)
        found = Result.load(tmp_path / crops / "fold0", TASK.form)
        assert found.run["test_crops"] == crops
        assert (found.predictions.path == expected.path).all()
        assert not np.array_equal(found.predictions.probs, expected.probs)
        same, _ = load_bundle(tmp_path / crops / "fold0" / "model.safetensors")
        assert all((same[name] == weights[name]).all() for name in weights)


@pytest.mark.parametrize("protocol", ["grouped", "rotate"])
def test_validation_people_are_nobody_elses(faces, tmp_path, protocol):
    config = tiny(faces, tmp_path / "run", protocol=protocol)
    config = replace(config, train=replace(config.train, epochs=2, select="best", patience=1), folds=(4,))
    cross_validate(TASK, config)
    rows = [json.loads(line) for line in (tmp_path / "run/fold4/metrics.jsonl").read_text().splitlines()]
    assert all(0 <= row["val_accuracy"] <= row["val_one_off"] <= 1 for row in rows)
    record = Result.load(tmp_path / "run" / "fold4", TASK.form).run
    assert record["n"] + record["n_train"] + record["n_validation"] == len({*record_paths(faces)})
    assert record["best_epoch"] == max(rows, key=lambda row: row["val_accuracy"])["epoch"]


def record_paths(faces: Path) -> list[str]:
    return [file.as_posix() for file in (faces / "aligned").rglob("*.jpg")]


@pytest.mark.usefixtures("plain")
def test_killed_in_fold_2_and_resumed_equals_the_unbroken_result(faces, pair, tmp_path):
    folder = tmp_path / "run"
    command = [sys.executable, "-m", "agecls", "cv", *words(tiny(faces, folder))]
    with (tmp_path / "log").open("w") as log:
        process = subprocess.Popen(command, stdout=log, stderr=log)
    while process.poll() is None and not (folder / "fold2" / "config.yaml").exists():
        time.sleep(0.002)
    os.kill(process.pid, signal.SIGKILL)
    assert process.wait() == -signal.SIGKILL, (tmp_path / "log").read_text()
    assert [fold for fold in range(5) if is_finished(fold_folder(folder, fold))] == [0, 1]
    before = {fold: content(fold_folder(folder, fold)) for fold in (0, 1)}
    cross_validate(TASK, resumed(tiny(faces, folder)))
    assert {fold: content(fold_folder(folder, fold)) for fold in (0, 1)} == before
    assert scores_of(folder) == scores_of(pair[0])
    assert same_predictions(folder, pair[0])


def test_folds_trained_with_different_settings_are_not_joined(faces, tmp_path):
    config = replace(tiny(faces, tmp_path / "run"), folds=(0, 1, 2, 3))
    cross_validate(TASK, config)
    changed = replace(config, folds=(), train=replace(config.train, lr=0.5))
    run = replace(changed.run, resume="auto", allow_change=("train.lr",))
    with pytest.raises(DataError, match=r"trained differently:\n  train.lr: 0.05 -> 0.5"):
        cross_validate(TASK, replace(changed, run=run))


def test_pictures_that_were_replaced_are_noticed(faces, tmp_path):
    own = tmp_path / "faces"
    shutil.copytree(faces, own)
    config = replace(tiny(own, tmp_path / "run"), folds=(0,))
    cross_validate(TASK, config)
    one, other, *_ = sorted(own.rglob("*.jpg"))
    shutil.copyfile(other, one)
    with pytest.raises(DataError, match=r"the data changed.*\n  pictures: "):
        cross_validate(TASK, resumed(config, folds=()))


def test_a_start_that_is_refused_leaves_the_folder_to_the_corrected_command(faces, tmp_path):
    config = replace(tiny(faces, tmp_path / "run"), folds=(0,))
    missing = replace(config, model=replace(config.model, weights=str(tmp_path / "nowhere.pth")))
    with pytest.raises(ModelFileError, match="nowhere"):
        cross_validate(TASK, missing)
    assert cross_validate(TASK, config)["finished"] == [0]


def test_folds_keep_every_option_and_tell_how_they_were_made(pair):
    for folder in (pair[1], pair[1] / "fold2"):
        assert read_config(folder / "config.yaml")["head"]["options"] == {"dropout": 0.0}
    facts = load_bundle(pair[1] / "fold2" / "model.safetensors")[1]
    assert facts["head"] == {"name": "linear", "taps": [], "options": {"dropout": 0.0}}
    record = read_json(pair[1] / "fold2" / "run.json")
    assert (record["loss"]["name"], record["loss"]["alpha"], record["loss"]["beta"]) == ("crl", 1.5, 1.0)
    assert (record["protocol"], record["policy"], record["test_crops"]) == ("fixed", "core8", "center")
