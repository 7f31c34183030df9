"""Evaluating fine-grained runs: labels by name, crops, and its own data named again; the rest is shared."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest

from finegrained.config import FineDataConfig
from finegrained.task import TASK
from finetune.errors import DataError, ModelFileError
from finetune.experiments.evaluate import evaluate_run
from finetune.experiments.records.predictions import Predictions
from finetune.experiments.result import Result, run_table
from tests.finegrained.tiny_birds import birds, run_whole, shown, tiny, trained


@pytest.fixture(scope="module")
def birds_folder(tmp_path_factory):
    return birds(tmp_path_factory.mktemp("birds") / "CUB_200_2011")


@pytest.fixture(scope="module")
def run(birds_folder, tmp_path_factory):
    folder = tmp_path_factory.mktemp("run") / "run"
    run_whole(trained(tiny(birds_folder, folder), epochs=3))
    return folder


def as_folders(run: Path, root: Path) -> Path:
    """Copy the test images into class folders without CUB's numbers' order: names reversed."""
    manifest = Result.load(run, TASK.form).manifest
    assert manifest is not None
    for row in np.flatnonzero(manifest["part"] == "test"):
        folder = root / manifest.class_names[manifest.label[row]]
        folder.mkdir(parents=True, exist_ok=True)
        shutil.copy(manifest.file(int(row)), folder)
    return root


def test_own_pictures_shown_again_give_the_stored_answers(run, birds_folder, tmp_path):
    config = shown(data=FineDataConfig(root=str(birds_folder), subset=True), out=str(tmp_path / "out"))
    summary = evaluate_run(TASK, run, config)
    own = Result.load(run, TASK.form)
    assert summary["data"] == "12 test images of the run's own data"
    again = Predictions.read(tmp_path / "out" / "predictions.parquet", own.class_names)
    assert np.array_equal(again.path, own.predictions.path)
    assert np.allclose(again.probs, own.predictions.probs, atol=1e-6)


def test_other_data_are_scored_by_class_name(run, tmp_path):
    """The same test images in class folders: the labels come from names, the answers stay the same."""
    root = as_folders(run, tmp_path / "folders")
    out = tmp_path / "out"
    summary = evaluate_run(TASK, run, shown(data=FineDataConfig(root=str(root)), out=str(out)))
    own = Result.load(run, TASK.form)
    assert summary["data"] == "12 test images of the run's own data"  # the same bytes, wherever they lie
    assert summary["top1"] == own.run["scores"]["top1"]


def test_data_of_some_of_the_classes_are_scored_and_the_others_have_no_samples(run, tmp_path, capsys):
    root, own = as_folders(run, tmp_path / "folders"), Result.load(run, TASK.form)
    gone = sorted(own.class_names)[:2]
    for name in gone:
        shutil.rmtree(root / name)
    kept = ~np.isin(own.predictions.target, [own.class_names.index(name) for name in gone])
    summary = evaluate_run(TASK, run, shown(data=FineDataConfig(root=str(root))))
    assert (summary["n"], summary["classes_tested"]) == (int(kept.sum()), len(own.class_names) - 2)
    assert summary["top1"] == 100 * own.predictions.correct[kept].mean()
    rows = {row["name"]: (row["n"], row["accuracy"]) for row in summary["per_class"]}
    assert [rows[name] for name in gone] == [(0, None)] * 2
    said = capsys.readouterr().out
    assert f"note: no samples of 2 of {len(own.class_names)} classes" in said
    assert all(name in said for name in gone)
    (root / sorted(path.name for path in root.iterdir())[0]).rename(root / "Dodo")
    with pytest.raises(ModelFileError, match=r"only in the data 1 \(Dodo\)"):
        evaluate_run(TASK, run, shown(data=FineDataConfig(root=str(root))))


def test_a_crop_that_differs_from_the_runs_is_told(run, birds_folder, capsys):
    data = FineDataConfig(root=str(birds_folder), subset=True, crop="box")
    evaluate_run(TASK, run, shown(data=data))
    assert "was trained with --data.crop image" in capsys.readouterr().out


def test_own_pictures_named_again_are_said_to_be_shown_again(run, birds_folder, capsys):
    evaluate_run(TASK, run, shown(data=FineDataConfig(root=str(birds_folder), subset=True)))
    assert "to choose weights or crops by their scores would be to train on them" in capsys.readouterr().out


def test_pictures_with_the_names_of_the_runs_own_and_other_contents_are_other_data(
    run, birds_folder, tmp_path
):
    root = tmp_path / "CUB_200_2011"
    shutil.copytree(birds_folder, root)
    for file in root.glob("images/*/*.jpg"):
        file.write_bytes(file.read_bytes() + b"\0")
    summary = evaluate_run(TASK, run, shown(data=FineDataConfig(root=str(root), subset=True)))
    assert summary["data"] == "12 test images of other data"
    tested = Result.load(run, TASK.form).predictions.path[0]
    table = run_table(run)
    assert table is not None
    shutil.copy(table.file(int(np.flatnonzero(table["part"] == "train")[0])), root / tested)
    with pytest.raises(DataError, match="on 1 of these 12 images"):
        evaluate_run(TASK, run, shown(data=FineDataConfig(root=str(root), subset=True)))


def test_a_run_without_its_table_is_not_shown_other_data(run, birds_folder, tmp_path):
    shutil.copytree(run, tmp_path / "run")
    (tmp_path / "run" / "manifest.parquet").unlink()
    with pytest.raises(DataError, match="the table of its images and their parts"):
        evaluate_run(TASK, tmp_path / "run", shown(data=FineDataConfig(root=str(birds_folder), subset=True)))
