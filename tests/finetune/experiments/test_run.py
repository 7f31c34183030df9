"""A run of either task, from a configuration to a run folder, and runs that repeat to the last bit."""

from __future__ import annotations

import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from finetune.cli.options import load_config
from finetune.errors import DataError, UsageError
from finetune.experiments.config import EvaluateConfig
from finetune.experiments.result import Result
from finetune.experiments.run import check_run_place, is_finished, prepare_experiment, run_split
from finetune.experiments.train import train_run
from finetune.images.cache.source import BadImagesError
from finetune.models.bundle import load_bundle, save_bundle, weights_hash
from finetune.runs.folder import read_config, read_json, read_json_lines
from finetune.training.config import LossConfig
from finetune.training.learner import load_classifier
from finetune.training.optimization.distributed import World
from tests.finetune.experiments.tiny_tasks import TinyTask, again, leave_out_pictures

Run = tuple[Path, dict[str, Any]]
OPTIONS = {"dropout": 0.0}


@pytest.fixture(autouse=True)
def no_pictures(monkeypatch: pytest.MonkeyPatch) -> None:
    """Draw no figures, which take most of a tiny run's time."""
    leave_out_pictures(monkeypatch)


def config_of(tiny: TinyTask, folder: Path, root: Path | None = None, **train: Any) -> Any:
    """Return a run of two epochs with a validation part; `root` is where else its images are."""
    config = tiny.run(folder)
    changes: dict[str, Any] = {"protocol": "rotate"} if tiny.task.name == "age" else {}
    changes |= {} if root is None else {"root": str(root)}
    return replace(
        config,
        data=replace(config.data, **changes),
        loss=LossConfig(name="crl"),
        train=replace(config.train, **({"epochs": 2} | train)),
    )


def whole(tiny: TinyTask, config: Any) -> Result:
    """Train and test without a report and return the result."""
    experiment = prepare_experiment(tiny.task, config)
    run_split(experiment, experiment.split(0), Path(config.run.dir), World())
    return Result.load(Path(config.run.dir), tiny.task.form)


def copied(tiny: TinyTask, folder: Path) -> Path:
    """Copy the task's images into a folder, where a test may change them."""
    return Path(shutil.copytree(tiny.root, folder / tiny.root.name))


def parts(tiny: TinyTask, config: Any) -> tuple[list[Path], list[Path]]:
    """Return the files that a run trains and tests on."""
    experiment = prepare_experiment(tiny.task, config)
    split, manifest = experiment.split(0), experiment.data.manifest
    return tuple([manifest.file(int(row)) for row in rows] for rows in (split.train, split.test))  # type: ignore[return-value]


@pytest.fixture(scope="module")
def run(tiny: TinyTask, tmp_path_factory: pytest.TempPathFactory) -> Run:
    """A finished run with its report, and its record."""
    folder = tmp_path_factory.mktemp("run") / "run"
    with pytest.MonkeyPatch.context() as patch:
        leave_out_pictures(patch)
        return folder, train_run(tiny.task, config_of(tiny, folder))


def test_a_run_without_a_place_or_in_anothers_is_refused(tiny: TinyTask, tmp_path: Path):
    config = tiny.run(tmp_path)
    nowhere = replace(config, run=replace(config.run, dir=""))
    for start in (check_run_place, lambda config: train_run(tiny.task, config)):
        with pytest.raises(UsageError, match=r"give --run\.dir FOLDER"):
            start(nowhere)
    (tmp_path / "note.txt").write_text("mine")
    with pytest.raises(UsageError, match="not empty"):
        check_run_place(config)


def test_the_parts_are_disjoint_and_whole(tiny: TinyTask, tmp_path: Path):
    experiment = prepare_experiment(tiny.task, config_of(tiny, tmp_path))
    split = experiment.split(0)
    assert all(len(part) for part in (split.train, split.val, split.test))
    rows = np.concatenate([split.train, split.val, split.test])
    assert sorted(rows.tolist()) == list(range(len(experiment.data.manifest)))


def test_pixels_do_not_depend_on_the_cache(tiny: TinyTask, tmp_path: Path):
    config = tiny.run(tmp_path / "run")
    cached, direct = (
        prepare_experiment(tiny.task, replace(config, run=replace(config.run, cache=place))).source
        for place in (str(tmp_path / "cache"), "none")
    )
    assert len(cached) == len(direct) == tiny.images
    assert all(np.array_equal(cached[row], direct[row]) for row in range(len(cached)))


def test_every_option_of_the_head_is_kept(tiny: TinyTask, run: Run, tmp_path: Path):
    assert prepare_experiment(tiny.task, config_of(tiny, tmp_path)).config.head.options == OPTIONS
    assert read_config(run[0] / "config.yaml")["head"]["options"] == OPTIONS
    head = load_bundle(run[0] / "model.safetensors")[1]["head"]
    assert head == {"name": "linear", "taps": [], "options": OPTIONS}


def test_a_run_is_complete_and_tested_on_the_test_part_alone(tiny: TinyTask, run: Run):
    folder, record = run
    result = Result.load(folder, tiny.task.form)
    assert record["n"] + record["n_train"] + record["n_validation"] == tiny.images
    counts = record["counts"]
    if "train" in counts:  # an age run's table has folds, no parts
        counted = [counts[part] for part in ("train", "val", "test")]
        assert counted == [record["n_train"], record["n_validation"], record["n"]]
    assert record["n"] == len(result.predictions)
    assert record["n_validation"] > 0
    tested = parts(tiny, load_config(tiny.task.config_type, folder / "config.yaml"))[1]
    assert sorted(result.image_files(result.predictions.path)) == sorted(tested)
    assert result.manifest is not None
    assert result.manifest.fingerprint == record["manifest"]


def test_a_record_tells_what_is_needed_to_judge_a_run(tiny: TinyTask, run: Run):
    record = read_json(run[0] / "run.json")
    assert {"command", "versions", "minutes", "preprocess", "counts", "precision", "processes"} <= set(record)
    assert {"protocol", "policy"} <= set(record)
    assert record["kind"] == tiny.task.form.kinds[0]
    loss = record["loss"]
    assert (loss["name"], loss["alpha"], loss["beta"]) == ("crl", 1.5, 1.0), "defaults are told too"
    assert record["device"]["asked"] == record["device"]["used"] == "cpu"
    assert record["pretraining"]["kind"] == "none"
    assert record["test_crops"] == "center"


def test_the_record_holds_the_score_of_the_stored_predictions(tiny: TinyTask, run: Run):
    found = Result.load(run[0], tiny.task.form).predictions
    assert run[1]["scores"][tiny.task.measures[0].key] == pytest.approx(100 * found.correct.mean())


def test_both_the_last_and_the_best_weights_are_kept_and_one_is_tested(tiny: TinyTask, run: Run):
    folder, record = run
    last, facts = load_bundle(folder / "model.safetensors")
    best, other = load_bundle(folder / "model-best.safetensors")
    headline = tiny.task.measures[0].key
    assert (record["selected"], facts["weights"], other["weights"]) == ("last", "last", "best")
    assert facts["scores"][headline] == record["scores"][headline]
    assert other["scores"] == {}
    assert facts["class_names"] == other["class_names"] == record["class_names"]
    if record["best_epoch"] == record["epochs_run"]:
        assert weights_hash(last) == weights_hash(best)


def test_report_and_metrics_are_written(tiny: TinyTask, run: Run):
    folder, _ = run
    assert (folder / "report.md").is_file()
    assert read_json(folder / "report.json")["head"] == "linear"
    rows = read_json_lines(folder / "metrics.jsonl")
    assert [row["epoch"] for row in rows] == [1, 2]
    own = {"val_one_off"} if tiny.task.ordered else set()
    for row in rows:
        assert {"train_loss", "train_accuracy", "val_accuracy", "lr_head"} | own <= row.keys()


def test_selecting_the_best_keeps_the_last_beside_it(tiny: TinyTask, tmp_path: Path):
    found = whole(tiny, config_of(tiny, tmp_path / "run", epochs=1, select="best"))
    assert found.record.selected == "best"
    assert (tmp_path / "run" / "model-last.safetensors").is_file()
    assert not (tmp_path / "run" / "model-best.safetensors").exists()


def test_without_validation_all_other_images_are_trained_on(tiny: TinyTask, tmp_path: Path):
    config = config_of(tiny, tmp_path / "run", epochs=1)
    without = {"age": {"protocol": "fixed"}, "fine": {"val_share": 0.0}}[tiny.task.name]
    record = whole(tiny, replace(config, data=replace(config.data, **without))).run
    assert (record["n_train"], record["n_validation"]) == (tiny.images - record["n"], 0)
    assert list((tmp_path / "run").glob("model-*.safetensors")) == []


def test_a_finished_run_is_refused_and_left_as_it_is_when_asked(
    tiny: TinyTask, run: Run, capsys: pytest.CaptureFixture[str]
):
    folder, first = run
    config = config_of(tiny, folder)
    with pytest.raises(UsageError, match="not empty"):
        train_run(tiny.task, config)
    with pytest.raises(UsageError, match=r"loss\.name: crl -> cel"):
        train_run(tiny.task, again(config, loss=LossConfig(name="cel")))
    before = {file: file.stat().st_mtime_ns for file in folder.rglob("*") if file.is_file()}
    capsys.readouterr()
    assert train_run(tiny.task, again(config))["scores"] == first["scores"]
    told = capsys.readouterr().out
    assert "is finished: nothing is trained and nothing is tested again" in told
    assert str(folder / "report.md") in told
    assert {file: file.stat().st_mtime_ns for file in folder.rglob("*") if file.is_file()} == before


def test_a_finished_run_writes_a_lost_report_and_goes_on_for_more_epochs(tiny: TinyTask, tmp_path: Path):
    config = config_of(tiny, tmp_path / "run", epochs=1)
    train_run(tiny.task, config)
    (tmp_path / "run/report.md").unlink()
    train_run(tiny.task, again(config))
    assert (tmp_path / "run/report.md").is_file()
    stored = tmp_path / "run/report.json"
    own = stored.read_text()
    stored.write_text(own.replace('"minutes": ', '"minutes": -1'))  # as if left by a shorter training
    minutes = read_json(tmp_path / "run/run.json")["minutes"]
    assert read_json(stored)["minutes"] != minutes
    assert train_run(tiny.task, again(config))["minutes"] == read_json(stored)["minutes"] == minutes
    more = config_of(tiny, tmp_path / "run", epochs=2)
    more = replace(more, run=replace(more.run, resume="auto", allow_change=("train.epochs",)))
    assert train_run(tiny.task, more)["epochs_run"] == 2


def test_a_finished_run_on_images_that_changed_is_not_taken_for_finished(tiny: TinyTask, tmp_path: Path):
    config = config_of(tiny, tmp_path / "run", copied(tiny, tmp_path), epochs=1)
    whole(tiny, config)
    trained, _ = parts(tiny, again(config))
    for finished in (True, False):
        experiment = prepare_experiment(tiny.task, again(config))
        assert is_finished(experiment, experiment.split(0), tmp_path / "run") == finished
        trained[0].write_bytes(trained[0].read_bytes() + b"\0")


def test_a_runs_configuration_runs_again_as_it_is(tiny: TinyTask, run: Run, tmp_path: Path):
    folder, record = run
    config = load_config(tiny.task.config_type, folder / "config.yaml")
    second = whole(tiny, replace(config, run=replace(config.run, dir=str(tmp_path / "again"))))
    first = Result.load(folder, tiny.task.form)
    assert second.run["scores"] == record["scores"]
    assert second.config["head"] == first.config["head"]
    assert np.array_equal(first.predictions.probs, second.predictions.probs)


def test_another_seed_gives_other_predictions(tiny: TinyTask, run: Run, tmp_path: Path):
    first = Result.load(run[0], tiny.task.form).predictions
    assert not np.array_equal(
        first.probs, whole(tiny, config_of(tiny, tmp_path / "run", seed=1)).predictions.probs
    )


def test_no_training_reaches_the_test_part(tiny: TinyTask, run: Run, tmp_path: Path):
    """Other test images change the test scores and no weight."""
    config = config_of(tiny, tmp_path / "run", copied(tiny, tmp_path))
    _, tested = parts(tiny, config)
    for file in tested:
        file.write_bytes(tested[0].read_bytes())
    other = whole(tiny, config)
    models = [folder / "model.safetensors" for folder in (run[0], other.folder)]
    assert weights_hash(load_bundle(models[0])[0]) == weights_hash(load_bundle(models[1])[0])
    assert np.ptp(other.predictions.probs, axis=0).max() < 1e-6  # all are of one image


@pytest.mark.parametrize("crops", ["flip", "ten", "cam"])
def test_images_are_tested_with_the_crops_asked_for(tiny: TinyTask, run: Run, tmp_path: Path, crops: Any):
    config = replace(config_of(tiny, tmp_path / "run"), evaluate=EvaluateConfig(test_crops=crops))
    center, several = Result.load(run[0], tiny.task.form), whole(tiny, config)
    assert center.predictions.probs.shape == several.predictions.probs.shape
    assert not np.array_equal(center.predictions.probs, several.predictions.probs)
    assert several.run["test_crops"] == crops


def test_a_model_with_some_of_its_options_still_loads(run: Run, tmp_path: Path):
    state, facts = load_bundle(run[0] / "model.safetensors")
    save_bundle(tmp_path / "old.safetensors", state, facts | {"head": {"name": "linear", "options": {}}})
    core, _, _ = load_classifier(tmp_path / "old.safetensors")
    assert weights_hash(core.state_dict()) == weights_hash(state)


def test_a_test_image_among_the_training_images_is_told_or_refused(
    tiny: TinyTask, tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    config = config_of(tiny, tmp_path / "run", copied(tiny, tmp_path))
    trained, tested = parts(tiny, config)
    tested[0].write_bytes(trained[0].read_bytes())
    capsys.readouterr()
    prepare_experiment(tiny.task, config)
    assert "1 pairs of images in training and test are the same bytes" in capsys.readouterr().out
    with pytest.raises(DataError, match=r"--data\.same_content warn"):
        prepare_experiment(tiny.task, replace(config, data=replace(config.data, same_content="error")))


@pytest.mark.parametrize("cache", ["none", "cache"])
def test_an_unreadable_image_stops_the_run_or_is_left_out_and_recorded(
    tiny: TinyTask, tmp_path: Path, cache: str
):
    config = config_of(tiny, tmp_path / "run", copied(tiny, tmp_path), epochs=1)
    broken = parts(tiny, config)[0][0]
    broken.write_text("<html></html>")
    place = cache if cache == "none" else str(tmp_path / cache)
    config = replace(config, run=replace(config.run, cache=place))
    with pytest.raises(BadImagesError, match=rf"(?s)1 of \d+ .*{broken.name}.*--data.skip_bad true"):
        prepare_experiment(tiny.task, config)
    assert issubclass(BadImagesError, DataError)
    record = whole(tiny, replace(config, data=replace(config.data, skip_bad=True))).run
    assert [Path(file).name for file in record["counts"]["bad_images"]] == [broken.name]
    assert record["n"] + record["n_train"] + record["n_validation"] == tiny.images - 1
