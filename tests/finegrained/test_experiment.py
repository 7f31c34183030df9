"""What a fine-grained run has of its own: parts, presets, what its record tells of the images, box crops."""

from __future__ import annotations

import hashlib
import shutil
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from finegrained.config import FineConfig
from finegrained.scores import fine_scores
from finegrained.synthetic.datasets import write_lookalike_folders
from finegrained.task import TASK
from finetune.experiments.result import Result
from finetune.experiments.run import prepare_experiment
from finetune.experiments.train import train_run
from finetune.models.bundle import load_bundle
from finetune.models.heads.registry import head_options
from finetune.runs.folder import read_json
from finetune.training.config import HeadConfig
from tests.finegrained.tiny_birds import birds, run_whole, tiny, trained
from tests.finetune.experiments.tiny_tasks import leave_out_pictures


@pytest.fixture(scope="module")
def birds_folder(tmp_path_factory):
    return birds(tmp_path_factory.mktemp("birds") / "CUB_200_2011")


def quick(config: FineConfig) -> dict[str, Any]:
    """Run without a report and return the record."""
    record: dict[str, Any] = read_json(run_whole(config) / "run.json")
    return record


@pytest.fixture(scope="module")
def run(birds_folder, tmp_path_factory):
    folder = tmp_path_factory.mktemp("run") / "run"
    with pytest.MonkeyPatch.context() as patch:
        leave_out_pictures(patch)
        return folder, train_run(TASK, trained(tiny(birds_folder, folder, loss="crl"), epochs=2))


def test_the_parts_are_those_of_the_lists(birds_folder, tmp_path):
    experiment = prepare_experiment(TASK, tiny(birds_folder, tmp_path))
    manifest, split = experiment.data.manifest, experiment.split(0)
    assert set(manifest["split"][split.test].tolist()) == {"test"}
    told = TASK.describe(experiment.data, experiment.splits)
    assert told == "cub: 30 images of 3 classes: 14 train, 4 validation, 12 test"


def test_the_preset_is_filled_in_before_the_run(birds_folder, tmp_path, capsys):
    config = prepare_experiment(TASK, tiny(birds_folder, tmp_path, head="dcl")).config
    assert config.head.options == {**head_options("dcl"), "regions": 7, "gamma": 1.0}
    assert "dcl on cub: regions 7, gamma 1.0 (its preset" in capsys.readouterr().out


def test_the_record_tells_the_data_and_the_table_the_parts(run):
    folder, record = run
    result = Result.load(folder, TASK.form)
    assert (record["kind"], record["policy"], record["data_set"]) == ("fine_run", "cub", "cub")
    assert record["n"] == len(result.predictions) == 12
    assert record["n_train"] + record["n_validation"] == 18
    assert result.manifest is not None
    part = dict(zip(result.manifest["path"].tolist(), result.manifest["part"].tolist(), strict=True))
    assert {part[path] for path in result.predictions.path.tolist()} == {"test"}
    assert sorted(part.values()).count("validation") == record["n_validation"] > 0


def test_the_record_holds_the_scores_of_the_stored_predictions(run):
    folder, record = run
    found = Result.load(folder, TASK.form).predictions
    expected = fine_scores(found.probs, found.target, found.class_names)
    assert record["scores"]["top1"] == expected["top1"]
    assert record["scores"]["baseline"]["top1"] == pytest.approx(100 / 3)
    assert record["head_options"] == {"dropout": 0.0}


def test_the_record_tells_of_equal_and_dropped_pictures_and_of_contents(birds_folder, tmp_path, capsys):
    root = tmp_path / "CUB_200_2011"
    shutil.copytree(birds_folder, root)
    manifest = prepare_experiment(TASK, tiny(root, tmp_path / "none")).data.manifest
    train, test = (np.flatnonzero(manifest["split"] == part) for part in ("train", "test"))
    shutil.copy(manifest.file(int(train[0])), manifest.file(int(test[0])))
    manifest.file(int(train[3])).write_bytes(b"no image")
    manifest.file(int(train[4])).unlink()
    record = quick(tiny(root, tmp_path / "run", skip_bad=True, missing="drop", val_share=0.0))
    counts = record["counts"]
    assert counts["same_content"] == [[str(manifest["path"][row]) for row in (train[0], test[0])]]
    assert (counts["missing_images"], list(counts["bad_images"])) == (1, [str(manifest.file(int(train[3])))])
    told = capsys.readouterr().out
    assert "1 listed images are not there and are dropped" in told
    assert "1 images cannot be read and are dropped" in told
    kept = Result.load(tmp_path / "run", TASK.form).manifest
    assert kept is not None
    assert kept["sha256"][0] == hashlib.sha256(kept.file(0).read_bytes()).hexdigest()
    assert kept.fingerprint == record["manifest"]


def test_the_record_says_where_validation_and_test_come_from(run, tmp_path):
    assert run[1]["protocol"] == "validation 0.2 of train, test split scored once"
    write_lookalike_folders(tmp_path / "own", 2, 8, parts=("train", "val"), image_size=48)
    record = quick(tiny(tmp_path / "own", tmp_path / "run"))
    own = record["n_validation"]
    assert record["protocol"] == (
        f"validation the data's own part of {own}, held-out test part (0.2) scored once"
    )


def test_dcl_gets_its_preset_and_keeps_what_was_given(birds_folder, tmp_path):
    config = tiny(birds_folder, tmp_path / "run", head="dcl")
    config = replace(config, head=HeadConfig("dcl", options={"regions": 4}))
    record = quick(config)
    whole = {**head_options("dcl"), "regions": 4, "gamma": 1.0}
    assert len(whole) > 2
    assert (
        record["head_options"] == Result.load(tmp_path / "run", TASK.form).config["head"]["options"] == whole
    )
    assert load_bundle(tmp_path / "run" / "model.safetensors")[1]["head"]["options"] == whole


def test_a_box_crop_changes_what_the_network_sees(run, birds_folder, tmp_path):
    folder, _ = run
    record = quick(
        trained(tiny(birds_folder, tmp_path / "run", loss="crl", crop="box", box_margin=0.1), epochs=2)
    )
    assert record["crop"] == {"kind": "box", "margin": 0.1}
    whole, cut = (Result.load(place, TASK.form).predictions for place in (folder, tmp_path / "run"))
    assert np.array_equal(whole.path, cut.path)
    assert not np.array_equal(whole.probs, cut.probs)


def test_the_summary_names_the_interval_and_the_baseline(run, capsys):
    TASK.tell(run[1])
    line = capsys.readouterr().out.strip()
    assert line.startswith("last weights: top-1 ")
    assert "95 % Wilson interval" in line
    assert "12 test images" in line
    assert line.endswith("majority-class baseline 33.33 %")
