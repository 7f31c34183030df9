"""A configuration made concrete: data, split, presets and images, and runs that repeat to the last bit."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from finegrained.config import FineConfig
from finegrained.task import TASK
from finetune.errors import DataError, UsageError
from finetune.experiments.config import EvaluateConfig
from finetune.experiments.records.splits import Split
from finetune.experiments.result import Result
from finetune.experiments.run import check_run_place, prepare_experiment
from finetune.models.heads.registry import head_options
from tests.finegrained.tiny_birds import birds, run_whole, tiny, trained


@pytest.fixture(scope="module")
def birds_folder(tmp_path_factory):
    return birds(tmp_path_factory.mktemp("birds") / "CUB_200_2011")


def predictions(config: FineConfig) -> np.ndarray:
    """Run without a report and return the test probabilities."""
    return Result.load(run_whole(config), TASK.form).predictions.probs


def test_the_parts_are_disjoint_and_whole(birds_folder, tmp_path):
    experiment = prepare_experiment(TASK, tiny(birds_folder, tmp_path))
    manifest, split = experiment.data.manifest, experiment.split(0)
    rows = np.concatenate([split.train, split.val, split.test])
    assert sorted(rows.tolist()) == list(range(len(manifest)))
    assert set(manifest["split"][split.test].tolist()) == {"test"}
    told = TASK.describe(experiment.data, experiment.splits)
    assert told == "cub: 30 images of 3 classes: 14 train, 4 validation, 12 test"


def test_the_preset_is_filled_in_before_the_run(birds_folder, tmp_path, capsys):
    config = prepare_experiment(TASK, tiny(birds_folder, tmp_path, head="dcl")).config
    assert config.head.options == {**head_options("dcl"), "regions": 7, "gamma": 1.0}
    assert "dcl on cub: regions 7, gamma 1.0 (its preset" in capsys.readouterr().out


def test_a_test_picture_among_the_training_pictures_is_told_or_refused(tmp_path, capsys):
    root = birds(tmp_path / "CUB_200_2011", per_class=4)
    manifest = prepare_experiment(TASK, tiny(root, tmp_path)).data.manifest
    train, test = (np.flatnonzero(manifest["split"] == part)[0] for part in ("train", "test"))
    manifest.file(int(test)).write_bytes(manifest.file(int(train)).read_bytes())
    capsys.readouterr()
    prepare_experiment(TASK, tiny(root, tmp_path))
    assert "1 pairs of images in training and test are the same bytes" in capsys.readouterr().out
    with pytest.raises(DataError, match=r"--data\.same_content warn"):
        prepare_experiment(TASK, tiny(root, tmp_path, same_content="error"))


def test_part_names_cover_every_row():
    split = Split(np.array([0, 3]), np.array([1]), np.array([4]))
    assert split.part_names(6).tolist() == ["train", "validation", "unused", "train", "test", "unused"]


def test_a_run_without_a_place_or_in_anothers_is_refused(birds_folder, tmp_path):
    config = tiny(birds_folder, tmp_path)
    with pytest.raises(UsageError, match=r"give --run\.dir FOLDER"):
        check_run_place(replace(config, run=replace(config.run, dir="")))
    (tmp_path / "note.txt").write_text("mine")
    with pytest.raises(UsageError, match="not empty"):
        check_run_place(config)


def test_two_runs_of_one_seed_are_equal_and_another_seed_is_not(birds_folder, tmp_path):
    first = predictions(tiny(birds_folder, tmp_path / "a"))
    assert np.array_equal(first, predictions(tiny(birds_folder, tmp_path / "b")))
    assert not np.array_equal(first, predictions(trained(tiny(birds_folder, tmp_path / "c"), seed=1)))


def test_no_training_reaches_the_test_part(birds_folder, tmp_path):
    """Other test images change the test scores and no weight."""
    from finetune.models.bundle import load_bundle, weights_hash

    config = tiny(birds_folder, tmp_path / "a")
    predictions(config)
    other = birds(tmp_path / "CUB_200_2011")
    manifest = prepare_experiment(TASK, tiny(other, tmp_path / "b")).data.manifest
    black = manifest.file(int(np.flatnonzero(manifest["split"] == "test")[0]))
    for row in np.flatnonzero(manifest["split"] == "test"):
        manifest.file(int(row)).write_bytes(black.read_bytes())
    predictions(tiny(other, tmp_path / "b"))
    hashes = [weights_hash(load_bundle(tmp_path / name / "model.safetensors")[0]) for name in "ab"]
    assert hashes[0] == hashes[1]


@pytest.mark.parametrize("crops", ["flip", "ten", "cam"])
def test_pictures_are_tested_with_the_crops_asked_for(birds_folder, tmp_path, crops):
    config = tiny(birds_folder, tmp_path / "a")
    other = replace(tiny(birds_folder, tmp_path / "b"), evaluate=EvaluateConfig(test_crops=crops))
    center, several = predictions(config), predictions(other)
    assert center.shape == several.shape
    assert not np.array_equal(center, several)
    assert Result.load(tmp_path / "b", TASK.form).run["test_crops"] == crops
