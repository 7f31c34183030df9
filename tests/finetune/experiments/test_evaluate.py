"""Evaluating a finished run of either task: stored predictions, shown again, other data, and refusals."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import agecls.config
import agecls.task
import finegrained.config
import finegrained.task
from finetune.cli.options import load_config
from finetune.errors import DataError, ModelFileError, UsageError
from finetune.experiments.config import EvaluateConfig, EvaluateRunConfig
from finetune.experiments.evaluate import evaluate_run
from finetune.experiments.records.predictions import Predictions
from finetune.experiments.result import Result, model_files
from finetune.experiments.task import Task
from finetune.experiments.train import train_run
from finetune.images.manifest import Manifest
from finetune.models.bundle import load_bundle, save_bundle
from tests.agecls.tiny_ages import drawn_faces, single
from tests.agecls.tiny_ages import tiny as tiny_ages
from tests.finegrained.tiny_birds import birds, shown, trained
from tests.finegrained.tiny_birds import tiny as tiny_birds
from tests.finetune.experiments.tiny_tasks import leave_out_pictures


@dataclass
class Run:
    """A finished run of one task, and how it is evaluated."""

    task: Task
    folder: Path
    images: Path
    result: Result

    def config(self, crops: str | None = None, data: Any = None, **options: Any) -> EvaluateRunConfig:
        """Return an evaluation with these crops, of this data."""
        if self.task is finegrained.task.TASK:
            again = finegrained.config.EvaluateAgainConfig(test_crops=crops)  # type: ignore[arg-type]
            return shown(evaluate=again, data=data or finegrained.config.FineDataConfig(), **options)
        return agecls.config.EvaluateAgeConfig(
            data=data or agecls.config.AgeDataConfig(),
            evaluate=agecls.config.AgeEvaluateAgainConfig(test_crops=crops),  # type: ignore[arg-type]
            **({"device": "cpu", "cache": "none", "workers": 0} | options),
        )

    def evaluate(self, folder: Path | None = None, **options: Any) -> dict[str, Any]:
        """Evaluate it, or a copy of it in another folder."""
        return evaluate_run(self.task, folder or self.folder, self.config(**options))

    def table(self) -> Manifest:
        """Return its table of images."""
        assert self.result.manifest is not None
        return self.result.manifest

    def rows(self, tested: bool) -> np.ndarray:
        """Return the rows that it tested, or the others."""
        return np.flatnonzero(np.isin(self.table()["path"], self.result.predictions.path) == tested)

    def data(self, folder: Path, rows: np.ndarray, change: bytes = b"", **renamed: str) -> Any:
        """Copy these images under new names, with bytes added, and return them as data of the task."""
        folder.mkdir()
        lines = []
        for row in rows.tolist():
            content = self.table().file(row).read_bytes() + change
            (folder / f"{row}.jpg").write_bytes(content)
            name = self.table().class_names[self.table().label[row]]
            lines.append(f"{row}.jpg,{renamed.get(name, name)}\n")
        if self.task is finegrained.task.TASK:
            (folder / "t.csv").write_text("path,class_name\n" + "".join(lines))
            return finegrained.config.FineDataConfig(table=str(folder / "t.csv"))
        (folder / "t.csv").write_text("path,group\n" + "".join(lines))
        return agecls.config.AgeDataConfig(
            table=str(folder / "t.csv"), group_column="group", subject_column="none"
        )

    @contextmanager
    def hidden_images(self) -> Iterator[None]:
        """Move the images away for a while."""
        hidden = self.images.rename(self.images.parent / "hidden")
        try:
            yield
        finally:
            hidden.rename(self.images)


@pytest.fixture(scope="module", params=["age", "fine"])
def run(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Run:
    """Each task's run with a validation part, three epochs long."""
    root = tmp_path_factory.mktemp(request.param)
    if request.param == "age":
        images = drawn_faces(root / "faces")
        config: Any = single(tiny_ages(images, root / "run", protocol="rotate"), fold=1)
        config = replace(config, train=replace(config.train, epochs=3))
    else:
        images = birds(root / "CUB_200_2011")
        config = trained(tiny_birds(images, root / "run"), epochs=3)
    task = agecls.task.TASK if request.param == "age" else finegrained.task.TASK
    return trained_run(task, root / "run", images, config)


def trained_run(task: Task, folder: Path, images: Path, config: Any) -> Run:
    """Train, and draw no figures, which take most of a tiny run's time."""
    with pytest.MonkeyPatch.context() as patch:
        leave_out_pictures(patch)
        train_run(task, config)
    return Run(task, folder, images, Result.load(folder, task.form))


def written(folder: Path, run: Run) -> Predictions:
    """Return the predictions that an evaluation wrote."""
    task, names = run.task, run.result.class_names
    return Predictions.read(
        folder / "predictions.parquet", names, task.form.columns, may_be_empty=task.form.may_be_empty
    )


def headline(run: Run) -> str:
    return run.task.measures[0].key


def test_without_data_the_stored_predictions_are_scored(run: Run, tmp_path: Path):
    with run.hidden_images():  # no image is opened
        summary = run.evaluate(out=str(tmp_path / "out"))
    assert run.result.record.scores is not None
    assert summary[headline(run)] == pytest.approx(run.result.record.scores[headline(run)])
    assert summary["data"] == "the run's own test images, as it was tested"
    assert (summary["weights"], summary["test_crops"]) == ("selected", "center")
    stored = json.loads((tmp_path / "out" / "evaluation.json").read_text())
    assert (stored["run"], stored["n"]) == (str(run.folder), len(run.result.predictions))
    assert stored[headline(run)] == summary[headline(run)]
    again = written(tmp_path / "out", run)
    assert np.array_equal(again.probs, run.result.predictions.in_order().probs)


def test_nothing_is_written_unless_a_folder_is_named(run: Run, tmp_path: Path):
    before = sorted(run.folder.iterdir())
    run.evaluate()
    assert (sorted(run.folder.iterdir()), list(tmp_path.iterdir())) == (before, [])


def test_other_crops_show_the_own_test_images_again(run: Run, tmp_path: Path, capsys):
    summary = run.evaluate(crops="flip", out=str(tmp_path / "out"))
    own = run.result.predictions.in_order()
    assert (summary["n"], summary["test_crops"]) == (len(own), "flip")
    assert summary["data"] == "the run's own test images, shown again"
    told = capsys.readouterr().out
    assert "to choose weights or crops by their scores would be to train on them" in told
    assert "shown again (flip crops, selected weights)" in told
    again = written(tmp_path / "out", run)
    assert np.array_equal(again.path, own.path)
    assert np.abs(again.probs - own.probs).max() > 1e-4


def test_own_images_shown_again_give_the_stored_answers(run: Run, tmp_path: Path):
    """The other weights are made the selected ones: then they say what the run said."""
    shutil.copytree(run.folder, tmp_path / "run")
    (other,) = model_files(tmp_path / "run", "other")
    shutil.copy(tmp_path / "run" / "model.safetensors", other)
    summary = run.evaluate(tmp_path / "run", weights="other", out=str(tmp_path / "out"))
    again, own = written(tmp_path / "out", run), run.result.predictions.in_order()
    assert (summary["weights"], again.path.tolist()) == ("other", own.path.tolist())
    assert again.probs == pytest.approx(own.probs, abs=1e-6)
    for name in run.task.form.columns:
        assert again[name].tolist() == pytest.approx(own[name].tolist(), nan_ok=True)


def test_the_other_weights_answer_from_their_own_file(run: Run, tmp_path: Path):
    """The file beside the selected weights is emptied: then every class is as probable as any other."""
    shutil.copytree(run.folder, tmp_path / "run")
    (file,) = model_files(tmp_path / "run", "other")
    assert file.name == "model-best.safetensors"
    state, facts = load_bundle(file)
    save_bundle(file, {name: 0 * value for name, value in state.items()}, facts)
    run.evaluate(tmp_path / "run", weights="other", out=str(tmp_path / "out"))
    assert np.allclose(written(tmp_path / "out", run).probs, 1 / len(run.result.class_names))


def test_a_run_with_one_set_of_weights_has_no_others(run: Run, tmp_path: Path):
    shutil.copytree(run.folder, tmp_path / "run")
    (tmp_path / "run" / "model-best.safetensors").unlink()
    with pytest.raises(ModelFileError, match="there is none"):
        run.evaluate(tmp_path / "run", weights="other")


def test_images_that_moved_away_are_asked_for(run: Run):
    with run.hidden_images(), pytest.raises(DataError, match=r"which is not there: say where they are by"):
        run.evaluate(crops="ten")


def test_without_its_table_a_run_cannot_show_its_images_again(run: Run, tmp_path: Path):
    shutil.copytree(run.folder, tmp_path / "run")
    (tmp_path / "run" / "manifest.parquet").unlink()
    with pytest.raises(DataError, match=r"holds no manifest\.parquet, the table of its images"):
        run.evaluate(tmp_path / "run", crops="ten")
    table = run.table().select(np.arange(1))
    table.save(tmp_path / "run" / "manifest.parquet")
    with pytest.raises(DataError, match=r"manifest\.parquet lacks images that were tested"):
        run.evaluate(tmp_path / "run", crops="ten")


def test_test_images_listed_again_are_the_runs_own(run: Run, tmp_path: Path, capsys):
    rows = run.rows(tested=True)
    summary = run.evaluate(data=run.data(tmp_path / "data", rows))
    assert summary["data"] == f"{len(rows)} test images of the run's own data"
    assert "would be to train on them" in capsys.readouterr().out


def test_other_images_of_the_same_classes_are_scored(run: Run, tmp_path: Path):
    """The test images with other bytes and names: the answers stay the same."""
    data = run.data(tmp_path / "data", run.rows(tested=True), change=b"\0")
    summary = run.evaluate(data=data, out=str(tmp_path / "out"))
    assert summary["data"] == f"{len(run.result.predictions)} images of other data"
    assert run.result.record.scores is not None
    assert summary[headline(run)] == pytest.approx(run.result.record.scores[headline(run)])
    found, own = written(tmp_path / "out", run), run.result.predictions.in_order()
    rows = np.argsort([int(Path(path).stem) for path in found.path])
    order = np.argsort([run.table()["path"].tolist().index(path) for path in own.path])
    assert found.probs[rows] == pytest.approx(own.probs[order], abs=1e-6)


def test_more_crops_give_other_probabilities_of_the_same_images(run: Run, tmp_path: Path):
    data, found = run.data(tmp_path / "data", run.rows(tested=True), change=b"\0"), {}
    for crops in ("center", "flip", "ten"):
        run.evaluate(data=data, crops=crops, out=str(tmp_path / crops))
        found[crops] = written(tmp_path / crops, run)
    assert all((one.path == found["center"].path).all() for one in found.values())
    assert not np.array_equal(found["flip"].probs, found["center"].probs)
    assert not np.array_equal(found["ten"].probs, found["flip"].probs)


def test_a_run_that_was_tested_with_ten_crops_is_shown_its_centres_again(run: Run, tmp_path: Path):
    config = load_config(run.task.config_type, run.folder / "config.yaml")
    config = replace(config, run=replace(config.run, dir=str(tmp_path / "run")))
    config = replace(config, evaluate=EvaluateConfig(test_crops="ten"))
    other = trained_run(run.task, tmp_path / "run", run.images, config)
    stored = other.evaluate(out=str(tmp_path / "ten"))
    assert (stored["test_crops"], "as it was tested" in stored["data"]) == ("ten", True)
    again = other.evaluate(crops="center", out=str(tmp_path / "center"))
    assert (again["test_crops"], "shown again" in again["data"]) == ("center", True)
    ten, center = (written(tmp_path / name, other).probs for name in ("ten", "center"))
    assert np.abs(center - ten).max() > 1e-4


def test_the_images_it_learned_from_are_refused_by_their_bytes(run: Run, tmp_path: Path):
    data = run.data(tmp_path / "data", run.rows(tested=False))
    count = len(run.rows(tested=False))
    told = rf"was trained or validated on {count} of these {count} images \(equal bytes\)"
    with pytest.raises(DataError, match=told):
        run.evaluate(data=data)
    with run.hidden_images(), pytest.raises(DataError, match=told):  # the run kept their hashes
        run.evaluate(data=data)
    mixed = np.append(run.rows(tested=True), run.rows(tested=False)[:1])
    with pytest.raises(DataError, match=rf"on 1 of these {len(mixed)} images"):
        run.evaluate(data=run.data(tmp_path / "mixed", mixed))


def test_other_classes_are_refused_with_both_lists(run: Run, tmp_path: Path):
    names = run.result.class_names
    if run.task.ordered:
        data = replace(run.data(tmp_path / "data", np.arange(2), b"\0"), groups="0-20,21-40,41+")
        told = rf"(?s)only in the model: .*{names[0]}.*only in the data: .*21-40"
    else:
        data = run.data(tmp_path / "data", np.arange(30), b"\0", **{names[0]: "A stranger"})
        told = rf"only in the data 1 \(A stranger\); only in the model 1 \({names[0]}\)"
    with pytest.raises(ModelFileError, match=told):
        run.evaluate(data=data)


def test_a_runs_own_folder_is_no_place_for_an_evaluation(run: Run):
    before = (run.folder / "predictions.parquet").read_bytes()
    with pytest.raises(UsageError, match=r"is a run's own folder.*name another folder"):
        run.evaluate(out=str(run.folder))
    assert (run.folder / "predictions.parquet").read_bytes() == before


def test_a_folder_without_a_finished_model_is_refused(run: Run, tmp_path: Path):
    data = run.data(tmp_path / "data", run.rows(tested=True)[:1], change=b"\0")
    with pytest.raises(ModelFileError, match=r"no model\.safetensors"):
        run.evaluate(tmp_path, data=data)
    shutil.copytree(run.folder, tmp_path / "half")
    (tmp_path / "half" / "run.json").unlink()
    with pytest.raises(ModelFileError, match="not finished"):
        model_files(tmp_path / "half")
    with pytest.raises(DataError, match=r"lacks run\.json"):
        run.evaluate(tmp_path / "half")


def test_a_damaged_model_is_named(run: Run, tmp_path: Path):
    shutil.copytree(run.folder, tmp_path / "run")
    file = tmp_path / "run" / "model.safetensors"
    data = bytearray(file.read_bytes())
    data[-100] ^= 1
    file.write_bytes(data)
    with pytest.raises(ModelFileError, match=r"model\.safetensors"):
        run.evaluate(tmp_path / "run", data=run.data(tmp_path / "data", run.rows(tested=True), b"\0"))


def test_a_model_of_other_classes_than_its_run_is_named(run: Run, tmp_path: Path):
    shutil.copytree(run.folder, tmp_path / "run")
    file = tmp_path / "run" / "model.safetensors"
    state, facts = load_bundle(file)
    save_bundle(file, state, {**facts, "class_names": [*facts["class_names"][:-1], "a stranger"]})
    with pytest.raises(ModelFileError, match=r"model\.safetensors knows(.|\n)*a stranger"):
        run.evaluate(tmp_path / "run", crops="ten")
