"""A study of losses over fine-grained runs: paired, resumed to the same table, and never of two minds."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from finegrained import study
from finegrained.config import FineConfig, FineStudyConfig
from finegrained.results import FineResult
from finetune.errors import DataError, DivergedError, InterruptedRunError, UsageError
from finetune.runs.folder import read_json_lines
from finetune.runs.lock import FolderLock
from finetune.training.config import HeadConfig, LossConfig
from tests.finegrained.tiny_birds import birds, fine, tiny


@pytest.fixture(scope="module")
def birds_folder(tmp_path_factory):
    return birds(tmp_path_factory.mktemp("birds") / "CUB_200_2011")


def leave_out_pictures(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let the reports of the cells and of the study have no pictures."""
    monkeypatch.setattr("finegrained.report.draw_pictures", lambda *_: [])
    monkeypatch.setattr("finegrained.report.draw_model_pictures", lambda *_: ([], []))
    monkeypatch.setattr("finetune.experiments.study.report.draw_study", lambda *_: {})


@pytest.fixture(autouse=True)
def no_pictures(monkeypatch):
    """Draw no pictures, which take most of a tiny run's time."""
    leave_out_pictures(monkeypatch)


def tiny_study(
    root: Path, folder: Path, losses: tuple[str, ...] = ("crl",), **changes: Any
) -> FineStudyConfig:
    """Return a study of tiny runs: cross-entropy and `losses`, two seeds, no controls."""
    run = tiny(root, folder)
    parts = {item.name: getattr(run, item.name) for item in fields(FineConfig)}
    chosen = {"losses": losses, "seeds": 2, "controls": False} | changes
    return FineStudyConfig(**(parts | chosen))


def again(config: FineStudyConfig, **changes: Any) -> FineStudyConfig:
    """Return the configuration that goes on with what lies in its folder."""
    return replace(config, run=replace(config.run, resume="auto"), **changes)


def trained_cells(monkeypatch: pytest.MonkeyPatch, stop_at: int = 0) -> list[str]:
    """Return a list that names every cell as it is trained; the `stop_at`th one is interrupted."""
    names: list[str] = []
    train = study.train_cell

    def watched(experiment, plan):
        names.append(f"{plan.arm.name} {plan.seed}")
        if len(names) == stop_at:
            raise InterruptedRunError("stopped")
        train(experiment, plan)

    monkeypatch.setattr(study, "train_cell", watched)
    return names


def table_of(summary: dict[str, Any]) -> list[Any]:
    """Return what a study's table tells, without its minutes."""
    return [{key: value for key, value in row.items() if key != "seconds"} for row in summary["arms"]]


@pytest.fixture(scope="module")
def whole(birds_folder, tmp_path_factory) -> tuple[Path, dict[str, Any]]:
    """A study that nobody disturbed: cross-entropy, CRL and the focal loss that is cross-entropy."""
    with pytest.MonkeyPatch.context() as patch:
        leave_out_pictures(patch)
        folder = tmp_path_factory.mktemp("study") / "study"
        summary = study.study_losses(tiny_study(birds_folder, folder, ("crl", "focal:gamma=0")))
    return folder, summary


def test_every_cell_is_an_ordinary_run_and_the_report_joins_them(whole):
    folder, summary = whole
    assert [row["name"] for row in summary["arms"]] == ["cel", "crl", "focal-gamma0"]
    for row in summary["arms"]:
        stored = [FineResult.load(folder / "cells" / row["name"] / f"seed-{seed}") for seed in (0, 1)]
        scores = [100 * float(result.predictions.correct.mean()) for result in stored]
        assert list(row["measures"]["accuracy"]["values"].values()) == pytest.approx(scores)
        assert [result.run["seed"] for result in stored] == [0, 1]
        assert row["measures"]["top5"]["mean"] is None  # of three classes
        assert row["measures"]["macro_f1"]["n"] == 2
    told = json.loads((folder / "report.json").read_text())
    assert told["arms"] == summary["arms"]
    page = (folder / "report.md").read_text()
    assert "CRL (alpha 1.5, beta 1)" in page
    assert r"test\_resnet" in page
    assert "reported by others" not in page  # no published score is on drawn birds


def test_seeds_are_paired_across_losses(whole):
    folder, _ = whole
    for seed in (0, 1):
        cel, crl, same = (
            FineResult.load(folder / "cells" / arm / f"seed-{seed}").predictions
            for arm in ("cel", "crl", "focal-gamma0")
        )
        assert np.array_equal(cel.probs, same.probs)  # the same first weights, batches and augmentations
        assert not np.array_equal(cel.probs, crl.probs)


def test_a_finished_cell_loses_its_checkpoints_and_keeps_its_weights(whole):
    folder, _ = whole
    assert not list(folder.rglob("checkpoints"))
    assert len(list(folder.rglob("model.safetensors"))) == 6


def test_an_interrupted_study_goes_on_to_the_same_table(birds_folder, tmp_path, monkeypatch, whole):
    config = tiny_study(birds_folder, tmp_path / "study", ("crl", "focal:gamma=0"))
    first = trained_cells(monkeypatch, stop_at=3)
    with pytest.raises(InterruptedRunError):
        study.study_losses(config)
    monkeypatch.undo()
    leave_out_pictures(monkeypatch)
    rest = trained_cells(monkeypatch)
    found = study.study_losses(again(config))
    assert first[:2] + rest == ["cel 0", "crl 0", "focal-gamma0 0", "cel 1", "crl 1", "focal-gamma0 1"]
    assert table_of(found) == table_of(whole[1])


def test_more_seeds_and_losses_leave_finished_cells_alone(birds_folder, tmp_path, monkeypatch):
    config = tiny_study(birds_folder, tmp_path / "study", ("cel",), seeds=1)
    study.study_losses(config)
    names = trained_cells(monkeypatch)
    found = study.study_losses(again(config, seeds=2, losses=("nllr",)))
    assert names == ["nllr 0", "cel 1", "nllr 1"]
    assert [row["n"] for row in found["arms"]] == [2, 2]
    with pytest.raises(UsageError, match=r"train\.epochs: 1 -> 2"):
        study.study_losses(again(config, train=replace(config.train, epochs=2)))
    with pytest.raises(UsageError, match="not empty"):
        study.study_losses(config)


def test_a_cell_of_other_data_or_settings_is_refused(birds_folder, tmp_path):
    config = tiny_study(birds_folder, tmp_path / "study", ("cel",), seeds=1)
    study.study_losses(config)
    cell = tmp_path / "study" / "cells" / "cel" / "seed-0"
    allowed = replace(config.run, resume="auto", allow_change=("train.epochs",))
    with pytest.raises(DataError, match=r"other settings(.|\n)*train\.epochs: 1 -> 2(.|\n)*remove"):
        study.study_losses(replace(config, run=allowed, train=replace(config.train, epochs=2)))
    record = json.loads((cell / "run.json").read_text())
    (cell / "run.json").write_text(json.dumps(record | {"pictures": "others"}))
    with pytest.raises(DataError, match="pictures: others -> "):
        study.study_losses(replace(config, run=allowed))


def test_the_matched_control_learns_at_its_partners_rate(birds_folder, tmp_path):
    changes = {"controls": True, "label_smoothing": 0.0, "seeds": 1}
    config = tiny_study(birds_folder, tmp_path / "study", **changes)
    found = study.study_losses(config)
    names = ["cel", "crl", "focal", "cel-lr-mean-crl"]
    assert [row["name"] for row in found["arms"]] == names
    cells = tmp_path / "study" / "cells"
    (row,) = read_json_lines(cells / "crl" / "seed-0" / "metrics.jsonl")
    factor = row["train_gradient_factor"]
    assert 1 < factor < 5 / 3
    rate = json.loads((cells / "cel-lr-mean-crl" / "seed-0" / "run.json").read_text())["train"]["lr"]
    assert rate == pytest.approx(factor * config.train.lr)
    assert found["arms"][3]["lr_factor"] == pytest.approx(factor)
    assert found["arms"][1]["gradient_ratio"] == pytest.approx(row["train_push"] / row["train_q"])
    row["train_gradient_factor"] = 1.5
    (cells / "crl" / "seed-0" / "metrics.jsonl").write_text(json.dumps(row) + "\n")
    with pytest.raises(DataError, match=r"it should be 1\.5 times, as crl with this seed now says.*remove"):
        study.study_losses(again(config))


def test_cells_that_diverge_do_not_end_the_study_at_the_first(birds_folder, tmp_path, capsys):
    config = tiny_study(birds_folder, tmp_path / "study", seeds=1)
    with pytest.raises(DivergedError, match="every cell diverged"):
        study.study_losses(replace(config, train=replace(config.train, lr=1e30)))
    told = capsys.readouterr().out
    assert "cell 1 of 2: cel, seed 0 diverged and stays unfinished" in told
    assert "cell 2 of 2: crl, seed 0 diverged and stays unfinished" in told


def test_a_margin_head_is_an_arm(birds_folder, tmp_path):
    config = tiny_study(birds_folder, tmp_path / "study", ("arcface:margin=0.3",), seeds=1)
    study.study_losses(config)
    run = json.loads((tmp_path / "study/cells/arcface-margin0.3/seed-0/run.json").read_text())
    assert (run["head"], run["head_options"]["margin"], run["loss"]["name"]) == ("arcface", 0.3, "cel")


def test_a_cell_at_work_elsewhere_is_left_alone(birds_folder, tmp_path, monkeypatch, capsys):
    config = tiny_study(birds_folder, tmp_path / "study", seeds=1)
    place = tmp_path / "study" / "cells" / "crl" / ".seed-0"
    place.mkdir(parents=True)
    (tmp_path / "study" / "config.yaml").write_text("{}")
    monkeypatch.setattr("finetune.experiments.study.from_runs.claim_study", lambda *_, **__: None)
    names = trained_cells(monkeypatch)
    lock = FolderLock(place)
    found = study.study_losses(again(config))
    lock.release()
    assert names == ["cel 0"]
    told = capsys.readouterr().out
    assert "cell 1 of 2: cel, seed 0" in told
    assert "cell 2 of 2: crl, seed 0: another process is at work on it" in told
    assert [row["n"] for row in found["arms"]] == [1, 0]
    study.study_losses(again(config))
    assert names == ["cel 0", "crl 0"]


def test_a_study_that_fails_at_once_leaves_no_claim(birds_folder, tmp_path):
    config = tiny_study(birds_folder, tmp_path / "study")
    lost = replace(config, model=replace(config.model, weights=str(tmp_path / "lost.pth")))
    with pytest.raises(Exception, match=r"lost\.pth"):
        study.study_losses(lost)
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
    birds_folder, tmp_path, change: Callable[[FineStudyConfig], dict[str, Any]], message
):
    config = tiny_study(birds_folder, tmp_path / "study")
    with pytest.raises(UsageError, match=message):
        study.study_losses(replace(config, **change(config)))
    assert not (tmp_path / "study").exists()


def test_the_loss_of_a_recipe_gives_way_and_its_branches_stay(birds_folder, tmp_path, capsys):
    loss = LossConfig("crl", {"alpha": 2.0}, class_weights="inverse")
    config = tiny_study(birds_folder, tmp_path / "study", ("cel",), seeds=1)
    study.study_losses(replace(config, loss=loss))
    assert "loss.name crl, loss.options.alpha 2.0 of the configuration is not used" in capsys.readouterr().out
    run = json.loads((tmp_path / "study/cells/cel/seed-0/run.json").read_text())
    assert (run["loss"]["name"], run["loss"]["class_weights"]) == ("cel", "inverse")


def test_published_scores_stand_beside_official_pictures_alone(monkeypatch):
    report = {"head": "dcl", "backbone": "resnet50.tv_in1k", "data_set": "cub"}
    monkeypatch.setattr("finegrained.report_sections.reported_by_others", lambda _: None)
    assert study.published(report) == {}
    monkeypatch.setattr("finegrained.report_sections.reported_by_others", lambda _: "a table")
    assert study.published(report) == {
        "cel": "87.80 (CRL paper, Table IX, ResNet-50, one run, 87.69 when rerun there)",
        "crl": "87.84 (CRL paper, Table IX, ResNet-50, one run)",
    }
    assert study.published(report | {"backbone": "resnet34"}) == {}
    assert study.published(report | {"head": "linear"}) == {}


def test_the_command_takes_its_options(birds_folder, tmp_path, capsys):
    words = ["--losses", "crl:beta=0.5", "--seeds", "1", "--controls", "false", "--device", "cpu", "--json"]
    words += [
        "--data.root",
        birds_folder,
        "--data.subset",
        "--data.val_share",
        "0.2",
        "--model.weights",
        "none",
    ]
    words += ["--model.backbone", "test_resnet", "--model.image_size", "32", "--train.epochs", "1"]
    words += ["--train.warmup_epochs", "0", "--run.workers", "0", "--run.cache", "none"]
    code, out, err = fine(capsys, "study", *words, "--run.dir", tmp_path / "study")
    assert code == 0, err
    assert [row["name"] for row in json.loads(out)["arms"]] == ["cel", "crl-alpha1.5-beta0.5"]
    assert (tmp_path / "study" / "report.md").is_file()
