"""A run from images to report: parts, both sets of weights, one test, and what goes on after a stop."""

from __future__ import annotations

import hashlib
import json
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from finegrained.config import FineConfig
from finegrained.scores import fine_scores
from finegrained.synthetic.datasets import write_lookalike_folders
from finegrained.task import TASK
from finetune.cli.options import load_config
from finetune.errors import UsageError
from finetune.experiments.result import Result
from finetune.experiments.run import is_finished, prepare_experiment
from finetune.experiments.train import train_run
from finetune.models.bundle import load_bundle, save_bundle, weights_hash
from finetune.models.heads.registry import head_options
from finetune.runs.folder import read_json
from finetune.training.config import HeadConfig, RunConfig
from finetune.training.learner import load_classifier
from tests.finegrained.tiny_birds import birds, run_whole, tiny, trained


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
    record = train_run(TASK, trained(tiny(birds_folder, folder, loss="crl"), epochs=2))
    return folder, record


def test_a_run_is_complete_and_tested_on_the_test_part_alone(run):
    folder, record = run
    result = Result.load(folder, TASK.form)
    assert (record["kind"], record["policy"], record["data_set"]) == ("fine_run", "cub", "cub")
    assert record["n"] == len(result.predictions) == 12
    assert record["n_train"] + record["n_validation"] == 18
    parts = [record["counts"][part] for part in ("train", "val", "test")]
    assert parts == [record["n_train"], record["n_validation"], record["n"]]
    assert result.manifest is not None
    assert result.manifest.fingerprint == record["manifest"]
    part = dict(zip(result.manifest["path"].tolist(), result.manifest["part"].tolist(), strict=True))
    assert {part[path] for path in result.predictions.path.tolist()} == {"test"}
    assert sorted(part.values()).count("validation") == record["n_validation"] > 0


def test_the_record_holds_the_scores_of_the_stored_predictions(run):
    folder, record = run
    found = Result.load(folder, TASK.form).predictions
    expected = fine_scores(found.probs, found.target, found.class_names)
    assert record["scores"]["top1"] == expected["top1"]
    assert record["scores"]["top1"] == pytest.approx(100 * found.correct.mean())
    assert record["scores"]["baseline"]["top1"] == pytest.approx(100 / 3)
    assert record["head_options"] == {"dropout": 0.0}
    assert record["test_crops"] == "center"


def test_both_the_last_and_the_best_weights_are_kept_and_one_is_tested(run):
    folder, record = run
    last, facts = load_bundle(folder / "model.safetensors")
    best, other = load_bundle(folder / "model-best.safetensors")
    assert (record["selected"], facts["weights"], other["weights"]) == ("last", "last", "best")
    assert facts["scores"]["top1"] == record["scores"]["top1"]
    assert other["scores"] == {}
    assert facts["class_names"] == other["class_names"] == record["class_names"]
    if record["best_epoch"] == record["epochs_run"] - 1:
        assert weights_hash(last) == weights_hash(best)


def test_the_report_is_written(run):
    folder, _ = run
    assert (folder / "report.md").is_file()
    assert json.loads((folder / "report.json").read_text())["head"] == "linear"


def test_selecting_the_best_keeps_the_last_beside_it(birds_folder, tmp_path):
    record = quick(trained(tiny(birds_folder, tmp_path / "run"), select="best"))
    assert record["selected"] == "best"
    assert (tmp_path / "run" / "model-last.safetensors").is_file()
    assert not (tmp_path / "run" / "model-best.safetensors").exists()


def test_without_validation_all_training_pictures_are_trained_on(birds_folder, tmp_path):
    record = quick(tiny(birds_folder, tmp_path / "run", val_share=0.0))
    assert (record["n_train"], record["n_validation"]) == (18, 0)
    assert list((tmp_path / "run").glob("model-*.safetensors")) == []


def test_a_finished_run_is_refused_and_left_as_it_is_when_asked(run, birds_folder, capsys):
    folder, first = run
    config = trained(tiny(birds_folder, folder, loss="crl"), epochs=2)
    with pytest.raises(UsageError, match="not empty"):
        train_run(TASK, config)
    again = replace(config, run=replace(config.run, resume="auto"))
    with pytest.raises(UsageError, match=r"loss\.name: crl -> cel"):
        train_run(TASK, replace(again, loss=replace(again.loss, name="cel")))
    before = {file: file.stat().st_mtime_ns for file in folder.rglob("*") if file.is_file()}
    capsys.readouterr()
    assert train_run(TASK, again)["scores"] == first["scores"]
    told = capsys.readouterr().out
    assert "is finished: nothing is trained and nothing is tested again" in told
    assert str(folder / "report.md") in told
    assert {file: file.stat().st_mtime_ns for file in folder.rglob("*") if file.is_file()} == before


def test_a_finished_run_writes_a_lost_report_and_goes_on_for_more_epochs(birds_folder, tmp_path):
    config = tiny(birds_folder, tmp_path / "run")
    train_run(TASK, config)
    (tmp_path / "run/report.md").unlink()
    again = replace(config, run=replace(config.run, resume="auto"))
    train_run(TASK, again)
    assert (tmp_path / "run/report.md").is_file()
    stored = tmp_path / "run/report.json"
    own = json.loads(stored.read_text())
    stored.write_text(json.dumps({**own, "minutes": -1.0}))  # as if left by a shorter training
    assert train_run(TASK, again)["minutes"] == json.loads(stored.read_text())["minutes"] == own["minutes"]
    more = replace(again, run=replace(again.run, allow_change=("train.epochs",)))
    assert train_run(TASK, trained(more, epochs=2))["epochs_run"] == 2


def test_a_finished_run_on_pictures_that_changed_is_not_taken_for_finished(birds_folder, tmp_path):
    root = tmp_path / "CUB_200_2011"
    shutil.copytree(birds_folder, root)
    config = tiny(root, tmp_path / "run")
    quick(config)
    again = replace(config, run=replace(config.run, resume="auto"))
    experiment = prepare_experiment(TASK, again)
    assert is_finished(experiment, experiment.split(0), tmp_path / "run")
    picture = next(root.glob("images/*/*.jpg"))
    picture.write_bytes(picture.read_bytes() + b"\0")
    experiment = prepare_experiment(TASK, again)
    assert not is_finished(experiment, experiment.split(0), tmp_path / "run")


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


def test_a_runs_configuration_runs_again_as_it_is(run, tmp_path):
    folder, record = run
    config = load_config(FineConfig, folder / "config.yaml")
    assert config.head.options == {"dropout": 0.0}
    again = replace(config, run=replace(config.run, dir=str(tmp_path / "again")))
    assert quick(again)["scores"] == record["scores"]
    assert (
        Result.load(tmp_path / "again", TASK.form).config["head"]
        == Result.load(folder, TASK.form).config["head"]
    )


def test_a_model_with_some_of_its_options_still_loads(run, tmp_path):
    state, facts = load_bundle(run[0] / "model.safetensors")
    save_bundle(tmp_path / "old.safetensors", state, facts | {"head": {"name": "linear", "options": {}}})
    core, _, _ = load_classifier(tmp_path / "old.safetensors")
    assert weights_hash(core.state_dict()) == weights_hash(state)


def test_a_box_crop_changes_what_the_network_sees(run, birds_folder, tmp_path):
    folder, _ = run
    record = quick(
        trained(tiny(birds_folder, tmp_path / "run", loss="crl", crop="box", box_margin=0.1), epochs=2)
    )
    assert record["crop"] == {"kind": "box", "margin": 0.1}
    whole, cut = (Result.load(place, TASK.form).predictions for place in (folder, tmp_path / "run"))
    assert np.array_equal(whole.path, cut.path)
    assert not np.array_equal(whole.probs, cut.probs)


def test_a_run_needs_a_place(birds_folder):
    with pytest.raises(UsageError, match=r"give --run\.dir FOLDER"):
        train_run(TASK, replace(tiny(birds_folder, Path()), run=RunConfig(workers=0, cache="none")))


def test_the_summary_names_the_interval_and_the_baseline(run, capsys):
    TASK.tell(run[1])
    line = capsys.readouterr().out.strip()
    assert line.startswith("last weights: top-1 ")
    assert "95 % Wilson interval" in line
    assert "12 test images" in line
    assert line.endswith("majority-class baseline 33.33 %")
