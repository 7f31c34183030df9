"""Evaluating again: stored predictions, other crops and weights, other data moved by name, and refusals."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest

from finegrained.config import FineDataConfig
from finegrained.evaluation import evaluate_run, labels_by_name, model_file, trained_table
from finegrained.task import TASK
from finetune.errors import DataError, ModelFileError, UsageError
from finetune.experiments.config import EvaluateAgainConfig
from finetune.experiments.predictions import Predictions
from finetune.experiments.result import Result
from finetune.images.manifest import Manifest
from finetune.models.bundle import load_bundle, save_bundle
from tests.finegrained.tiny_birds import birds, run_whole, shown, tiny, trained


@pytest.fixture(scope="module")
def birds_folder(tmp_path_factory):
    return birds(tmp_path_factory.mktemp("birds") / "CUB_200_2011")


@pytest.fixture(scope="module")
def run(birds_folder, tmp_path_factory):
    folder = tmp_path_factory.mktemp("run") / "run"
    run_whole(trained(tiny(birds_folder, folder), epochs=3))
    return folder


def as_folders(run: Path, root: Path, part: str) -> Path:
    """Copy a part's pictures into class folders without CUB's numbers' order: names reversed."""
    manifest = Result.load(run, TASK.form).manifest
    assert manifest is not None
    for row in np.flatnonzero(manifest["part"] == part):
        folder = root / manifest.class_names[manifest.label[row]]
        folder.mkdir(parents=True, exist_ok=True)
        shutil.copy(manifest.file(int(row)), folder)
    return root


def test_without_data_the_stored_predictions_are_scored(run, birds_folder, tmp_path):
    hidden = birds_folder.rename(birds_folder.parent / "hidden")  # no picture is opened
    try:
        summary = evaluate_run(run, shown(out=str(tmp_path / "out")))
    finally:
        hidden.rename(birds_folder)
    own = Result.load(run, TASK.form)
    assert summary["top1"] == own.run["scores"]["top1"]
    assert "as it was tested" in summary["data"]
    assert json.loads((tmp_path / "out" / "evaluation.json").read_text())["top1"] == summary["top1"]
    again = Predictions.read(tmp_path / "out" / "predictions.parquet", own.class_names)
    assert np.array_equal(again.probs, own.predictions.probs)


def test_own_pictures_shown_again_give_the_stored_answers(run, birds_folder, tmp_path):
    config = shown(data=FineDataConfig(root=str(birds_folder), subset=True), out=str(tmp_path / "out"))
    summary = evaluate_run(run, config)
    own = Result.load(run, TASK.form)
    assert summary["data"] == "12 test pictures of the run's own data"
    again = Predictions.read(tmp_path / "out" / "predictions.parquet", own.class_names)
    assert np.array_equal(again.path, own.predictions.path)
    assert np.allclose(again.probs, own.predictions.probs, atol=1e-6)


def test_other_crops_show_the_own_test_pictures_again(run, capsys):
    summary = evaluate_run(run, shown(evaluate=EvaluateAgainConfig(test_crops="flip")))
    assert (summary["n"], summary["test_crops"]) == (12, "flip")
    assert "to choose weights or crops by their scores would be to train on them" in capsys.readouterr().out


def test_the_other_weights_answer_from_their_own_file(run, tmp_path):
    """The file beside the selected weights is emptied: then every class is as probable as any other."""
    shutil.copytree(run, tmp_path / "run")
    file = model_file(tmp_path / "run", "other")
    assert file.name == "model-best.safetensors"
    state, facts = load_bundle(file)
    save_bundle(file, {name: 0 * value for name, value in state.items()}, facts)
    evaluate_run(tmp_path / "run", shown(weights="other", out=str(tmp_path / "out")))
    found = Predictions.read(
        tmp_path / "out" / "predictions.parquet", Result.load(run, TASK.form).class_names
    )
    assert np.allclose(found.probs, 1 / 3)


def test_pictures_that_moved_away_are_asked_for(run, birds_folder):
    hidden = birds_folder.rename(birds_folder.parent / "hidden")
    try:
        with pytest.raises(DataError, match=r"which is not there: say where they are by --data\.root"):
            evaluate_run(run, shown(evaluate=EvaluateAgainConfig(test_crops="ten")))
    finally:
        hidden.rename(birds_folder)


def test_other_data_are_scored_by_class_name(run, tmp_path):
    """The same test pictures in class folders: the labels come from names, the answers stay the same."""
    root = as_folders(run, tmp_path / "folders", "test")
    out = tmp_path / "out"
    summary = evaluate_run(run, shown(data=FineDataConfig(root=str(root)), out=str(out)))
    own = Result.load(run, TASK.form)
    assert summary["data"] == "12 pictures of other data"
    assert summary["top1"] == own.run["scores"]["top1"]


def test_pictures_of_training_are_refused_by_their_bytes(run, tmp_path):
    root = as_folders(run, tmp_path / "folders", "train")
    with pytest.raises(DataError, match=r"was trained or validated on 14 of these 14 pictures"):
        evaluate_run(run, shown(data=FineDataConfig(root=str(root))))


def test_other_classes_are_refused_with_both_lists(run, tmp_path):
    root = as_folders(run, tmp_path / "folders", "test")
    names = sorted(folder.name for folder in root.iterdir())
    (root / names[0]).rename(root / "A stranger")
    with pytest.raises(ModelFileError, match=r"only in the data: A stranger"):
        evaluate_run(run, shown(data=FineDataConfig(root=str(root))))


def test_labels_are_moved_by_name_with_a_slash_read_as_a_dash():
    columns = {"path": np.array(["1", "2", "3"]), "label": np.array([0, 1, 2])}
    manifest = Manifest(Path(), ("A", "B", "Ram C-V"), columns)
    assert labels_by_name(manifest, ("Ram C/V", "B", "A")).tolist() == [2, 1, 0]
    with pytest.raises(ModelFileError, match=r"only in the model: C"):
        labels_by_name(manifest, ("C", "B", "A"))


def test_a_run_with_one_set_of_weights_has_no_others(run, tmp_path):
    shutil.copytree(run, tmp_path / "run")
    (tmp_path / "run" / "model-best.safetensors").unlink()
    with pytest.raises(ModelFileError, match="there is none"):
        evaluate_run(tmp_path / "run", shown(weights="other"))


def test_a_crop_that_differs_from_the_runs_is_told(run, birds_folder, capsys):
    data = FineDataConfig(root=str(birds_folder), subset=True, crop="box")
    evaluate_run(run, shown(data=data))
    assert "was trained with --data.crop image" in capsys.readouterr().out


def test_a_runs_own_folder_is_no_place_for_an_evaluation(run):
    before = (run / "predictions.parquet").read_bytes()
    with pytest.raises(UsageError, match=r"is a run's own folder.*name another folder"):
        evaluate_run(run, shown(out=str(run)))
    assert (run / "predictions.parquet").read_bytes() == before


def test_pictures_of_training_are_refused_although_the_runs_own_are_gone(run, birds_folder, tmp_path):
    """The run kept the contents' hashes, so that nothing need be left of its pictures."""
    root = as_folders(run, tmp_path / "folders", "train")
    hidden = birds_folder.rename(birds_folder.parent / "hidden")
    try:
        with pytest.raises(DataError, match=r"was trained or validated on 14 of these 14 pictures"):
            evaluate_run(run, shown(data=FineDataConfig(root=str(root))))
    finally:
        hidden.rename(birds_folder)


def test_own_pictures_named_again_are_said_to_be_shown_again(run, birds_folder, capsys):
    evaluate_run(run, shown(data=FineDataConfig(root=str(birds_folder), subset=True)))
    assert "to choose weights or crops by their scores would be to train on them" in capsys.readouterr().out


def test_pictures_with_the_names_of_the_runs_own_and_other_contents_are_other_data(
    run, birds_folder, tmp_path
):
    root = tmp_path / "CUB_200_2011"
    shutil.copytree(birds_folder, root)
    for file in root.glob("images/*/*.jpg"):
        file.write_bytes(file.read_bytes() + b"\0")
    summary = evaluate_run(run, shown(data=FineDataConfig(root=str(root), subset=True)))
    assert summary["data"] == "12 test pictures of other data"
    tested = Result.load(run, TASK.form).predictions.path[0]
    seen = np.flatnonzero(trained_table(Result.load(run, TASK.form))["part"] == "train")[0]
    shutil.copy(trained_table(Result.load(run, TASK.form)).file(int(seen)), root / tested)
    with pytest.raises(DataError, match="on 1 of these 12 pictures"):
        evaluate_run(run, shown(data=FineDataConfig(root=str(root), subset=True)))
