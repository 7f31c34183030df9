"""A study of losses over the runs of any task: paired, resumed to the same table, and never of two minds."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from finetune.errors import DataError, DivergedError, InterruptedRunError, UsageError
from finetune.experiments.result import Result
from finetune.experiments.study import runs
from finetune.experiments.study.runs import study_losses
from finetune.runs.folder import read_json_lines
from finetune.runs.lock import FolderLock
from finetune.training.config import HeadConfig, LossConfig
from tests.finetune.experiments.tiny_tasks import MAINLY_FINE, TinyTask, again, leave_out_pictures

MAINLY = pytest.mark.parametrize("tiny", MAINLY_FINE, indirect=True)


@pytest.fixture(autouse=True)
def no_pictures(monkeypatch):
    """Draw no images, which take most of a tiny run's time."""
    leave_out_pictures(monkeypatch)


def trained_cells(monkeypatch: pytest.MonkeyPatch, stop_at: int = 0) -> list[str]:
    """Return a list that names every cell as it is trained; the `stop_at`th one is interrupted."""
    names: list[str] = []
    train = runs.train_cell

    def watched(experiment, plan):
        names.append(f"{plan.arm.name} {plan.seed}")
        if len(names) == stop_at:
            raise InterruptedRunError("stopped")
        train(experiment, plan)

    monkeypatch.setattr(runs, "train_cell", watched)
    return names


def table_of(summary: dict[str, Any]) -> list[Any]:
    """Return what a study's table tells, without its minutes."""
    return [{key: value for key, value in row.items() if key != "seconds"} for row in summary["arms"]]


@pytest.fixture(scope="module")
def whole(tiny: TinyTask, tmp_path_factory) -> tuple[Path, dict[str, Any]]:
    """A study that nobody disturbed: cross-entropy, CRL and the focal loss that is cross-entropy."""
    with pytest.MonkeyPatch.context() as patch:
        leave_out_pictures(patch)
        folder = tmp_path_factory.mktemp("study") / "study"
        summary = study_losses(tiny.task, tiny.study(folder, ("crl", "focal:gamma=0")))
    return folder, summary


def test_every_cell_is_an_ordinary_run_and_the_report_joins_them(tiny, whole):
    folder, summary = whole
    assert [row["name"] for row in summary["arms"]] == ["cel", "crl", "focal-gamma0"]
    for row in summary["arms"]:
        stored = [
            Result.load(folder / "cells" / row["name"] / f"seed-{seed}", tiny.task.form) for seed in (0, 1)
        ]
        scores = [100 * float(result.predictions.correct.mean()) for result in stored]
        assert list(row["measures"]["accuracy"]["values"].values()) == pytest.approx(scores)
        assert [result.run["seed"] for result in stored] == [0, 1]
        top5 = row["measures"].get("top5")
        assert tiny.task.name == "age" or top5["mean"] is None  # of three classes
        assert row["measures"]["macro_f1"]["n"] == 2
    told = json.loads((folder / "report.json").read_text())
    assert told["arms"] == summary["arms"]
    page = (folder / "report.md").read_text()
    assert "CRL (alpha 1.5, beta 1)" in page
    assert r"test\_resnet" in page
    assert "reported by others" not in page  # no published score is on drawn images


def test_seeds_are_paired_across_losses(tiny, whole):
    folder, _ = whole
    for seed in (0, 1):
        cel, crl, same = (
            Result.load(folder / "cells" / arm / f"seed-{seed}", tiny.task.form).predictions
            for arm in ("cel", "crl", "focal-gamma0")
        )
        assert np.array_equal(cel.probs, same.probs)  # the same first weights, batches and augmentations
        assert not np.array_equal(cel.probs, crl.probs)


def test_a_finished_cell_loses_its_checkpoints_and_keeps_its_weights(whole):
    folder, _ = whole
    assert not list(folder.rglob("checkpoints"))
    assert len(list(folder.rglob("model.safetensors"))) == 6


def test_an_interrupted_study_goes_on_to_the_same_table(tiny, tmp_path, monkeypatch, whole):
    config = tiny.study(tmp_path / "study", ("crl", "focal:gamma=0"))
    first = trained_cells(monkeypatch, stop_at=3)
    with pytest.raises(InterruptedRunError):
        study_losses(tiny.task, config)
    monkeypatch.undo()
    leave_out_pictures(monkeypatch)
    rest = trained_cells(monkeypatch)
    found = study_losses(tiny.task, again(config))
    assert first[:2] + rest == ["cel 0", "crl 0", "focal-gamma0 0", "cel 1", "crl 1", "focal-gamma0 1"]
    assert table_of(found) == table_of(whole[1])


@MAINLY
def test_more_seeds_and_losses_leave_finished_cells_alone(tiny, tmp_path, monkeypatch):
    config = tiny.study(tmp_path / "study", ("cel",), seeds=1)
    study_losses(tiny.task, config)
    names = trained_cells(monkeypatch)
    found = study_losses(tiny.task, again(config, seeds=2, losses=("nllr",)))
    assert names == ["nllr 0", "cel 1", "nllr 1"]
    assert [row["n"] for row in found["arms"]] == [2, 2]
    with pytest.raises(UsageError, match=r"train\.epochs: 1 -> 2"):
        study_losses(tiny.task, again(config, train=replace(config.train, epochs=2)))
    with pytest.raises(UsageError, match="not empty"):
        study_losses(tiny.task, config)


def test_a_cell_of_other_data_or_settings_is_refused(tiny, tmp_path):
    config = tiny.study(tmp_path / "study", ("cel",), seeds=1)
    study_losses(tiny.task, config)
    cell = tmp_path / "study" / "cells" / "cel" / "seed-0"
    allowed = replace(config.run, resume="auto", allow_change=("train.epochs",))
    with pytest.raises(DataError, match=r"other settings(.|\n)*train\.epochs: 1 -> 2(.|\n)*remove"):
        study_losses(tiny.task, replace(config, run=allowed, train=replace(config.train, epochs=2)))
    record = json.loads((cell / "run.json").read_text())
    (cell / "run.json").write_text(json.dumps(record | {"pictures": "others"}))
    with pytest.raises(DataError, match="pictures: others -> "):
        study_losses(tiny.task, replace(config, run=allowed))


@MAINLY
def test_the_matched_control_learns_at_its_partners_rate(tiny, tmp_path):
    changes = {"controls": True, "label_smoothing": 0.0, "seeds": 1}
    config = tiny.study(tmp_path / "study", **changes)
    found = study_losses(tiny.task, config)
    names = ["cel", "crl", "focal", "cel-lr-mean-crl"]
    assert [row["name"] for row in found["arms"]] == names
    cells = tmp_path / "study" / "cells"
    (row,) = read_json_lines(cells / "crl" / "seed-0" / "metrics.jsonl")
    factor = row["train_gradient_factor"]
    assert 1 < factor < 5 / 3
    rate = json.loads((cells / "cel-lr-mean-crl" / "seed-0" / "run.json").read_text())["train"]["lr"]
    assert rate == pytest.approx(factor * config.train.lr)
    assert found["arms"][3]["lr_factor"] == pytest.approx(factor)
    assert found["arms"][1]["gradient_ratio"] == pytest.approx(row["train_grad"] / row["train_grad_ce"])
    row["train_gradient_factor"] = 1.5
    (cells / "crl" / "seed-0" / "metrics.jsonl").write_text(json.dumps(row) + "\n")
    with pytest.raises(DataError, match=r"it should be 1\.5 times, as crl with this seed now says.*remove"):
        study_losses(tiny.task, again(config))


@MAINLY
def test_cells_that_diverge_do_not_end_the_study_at_the_first(tiny, tmp_path, capsys):
    config = tiny.study(tmp_path / "study", seeds=1)
    with pytest.raises(DivergedError, match="every cell diverged"):
        study_losses(tiny.task, replace(config, train=replace(config.train, lr=1e30)))
    told = capsys.readouterr().out
    assert "cell 1 of 2: cel, seed 0 diverged and stays unfinished" in told
    assert "cell 2 of 2: crl, seed 0 diverged and stays unfinished" in told


@MAINLY
def test_a_margin_head_is_an_arm(tiny, tmp_path):
    config = tiny.study(tmp_path / "study", ("arcface:margin=0.3",), seeds=1)
    study_losses(tiny.task, config)
    run = json.loads((tmp_path / "study/cells/arcface-margin0.3/seed-0/run.json").read_text())
    assert (run["head"], run["head_options"]["margin"], run["loss"]["name"]) == ("arcface", 0.3, "cel")


@MAINLY
def test_a_cell_at_work_elsewhere_is_left_alone(tiny, tmp_path, monkeypatch, capsys):
    config = tiny.study(tmp_path / "study", seeds=1)
    place = tmp_path / "study" / "cells" / "crl" / ".seed-0"
    place.mkdir(parents=True)
    (tmp_path / "study" / "config.yaml").write_text("{}")
    monkeypatch.setattr("finetune.experiments.study.runs.claim_study", lambda *_, **__: None)
    names = trained_cells(monkeypatch)
    lock = FolderLock(place)
    found = study_losses(tiny.task, again(config))
    lock.release()
    assert names == ["cel 0"]
    told = capsys.readouterr().out
    assert "cell 1 of 2: cel, seed 0" in told
    assert "cell 2 of 2: crl, seed 0: another process is at work on it" in told
    assert [row["n"] for row in found["arms"]] == [1, 0]
    study_losses(tiny.task, again(config))
    assert names == ["cel 0", "crl 0"]


def test_a_study_that_fails_at_once_leaves_no_claim(tiny, tmp_path):
    config = tiny.study(tmp_path / "study")
    lost = replace(config, model=replace(config.model, weights=str(tmp_path / "lost.pth")))
    with pytest.raises(Exception, match=r"lost\.pth"):
        study_losses(tiny.task, lost)
    assert not [file for file in (tmp_path / "study").rglob("*") if file.name != ".lock"]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda c: {"losses": ("arcface",), "head": HeadConfig("bilinear")}, "--head.name linear"),
        (lambda c: {"losses": ("arcface",), "head": HeadConfig(options={"dropout": 0.5})}, "has no dropout"),
        (lambda c: {"controls": True, "train": replace(c.train, mixup=0.2)}, "--lr_match"),
        (lambda c: {"losses": ("arcface",), "train": replace(c.train, mixup=0.2)}, "one class"),
        (lambda c: {"train": replace(c.train, seed=3)}, "--first_seed 3"),
        (lambda c: {"run": replace(c.run, dir="")}, r"--run\.dir"),
    ],
)
def test_what_cannot_be_compared_is_refused_before_the_first_cell(
    tiny, tmp_path, change: Callable[[Any], dict[str, Any]], message
):
    config = tiny.study(tmp_path / "study")
    with pytest.raises(UsageError, match=message):
        study_losses(tiny.task, replace(config, **change(config)))
    assert not (tmp_path / "study").exists()


@MAINLY
def test_the_loss_of_a_recipe_gives_way_and_its_branches_stay(tiny, tmp_path, capsys):
    loss = LossConfig("crl", {"alpha": 2.0}, class_weights="inverse")
    config = tiny.study(tmp_path / "study", ("cel",), seeds=1)
    study_losses(tiny.task, replace(config, loss=loss))
    assert "loss.name crl, loss.options.alpha 2.0 of the configuration is not used" in capsys.readouterr().out
    run = json.loads((tmp_path / "study/cells/cel/seed-0/run.json").read_text())
    assert (run["loss"]["name"], run["loss"]["class_weights"]) == ("cel", "inverse")
