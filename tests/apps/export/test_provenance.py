"""Weights of another fold or another run in a run's folder: none may get the scores of that run."""

from __future__ import annotations

import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from agecls.cross_validation import cross_validate
from agecls.synthetic.adience import write_lookalike_adience
from agecls.task import TASK
from apps.config import ExportConfig
from apps.export.images import RunPictures
from apps.export.plan import plan_exports
from apps.export.provenance import check_member, check_repeats
from apps.export.run import export_run, load_members
from finetune.cli.console import reset
from finetune.errors import ModelFileError
from finetune.experiments.record import RunRecord
from finetune.experiments.result import Result
from finetune.models.bundle import load_bundle, save_bundle
from tests.agecls.tiny_ages import tiny

RECORD = {"manifest": "m", "split": "s", "seed": 0, "backbone": "b"}
OWN = RunRecord.from_dict(RECORD)


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("provenance")
    write_lookalike_adience(folder / "faces", users=10, images_per_subject=2, image_size=32)
    config = tiny(folder / "faces", folder / "run")
    cross_validate(replace(config, train=replace(config.train, epochs=1)))
    reset()
    return folder / "run"


@pytest.fixture
def run(finished: Path, tmp_path: Path) -> Path:
    """A copy that a test may spoil."""
    return Path(shutil.copytree(finished, tmp_path / "run"))


def test_the_weights_of_another_fold_are_refused(run: Path, tmp_path: Path):
    shutil.copy(run / "fold1" / "model.safetensors", run / "fold0" / "model.safetensors")
    for options in ({"fold": 0}, {"ensemble": True}):
        with pytest.raises(ModelFileError, match="holds the model of fold 1, its place is that of fold 0"):
            export_run(run, ExportConfig(out=str(tmp_path / "out"), **options))
    with pytest.raises(ModelFileError, match="holds the model of fold 1"):
        export_run(run / "fold0", ExportConfig(out=str(tmp_path / "out")))
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("ensemble", [False, True])
def test_other_weights_with_the_facts_of_the_fold_are_refused(run: Path, tmp_path: Path, ensemble: bool):
    _, facts = load_bundle(run / "fold1" / "model.safetensors")
    state, _ = load_bundle(run / "fold0" / "model.safetensors")
    weight = next(name for name in state if name.endswith("classifier.weight"))
    state[weight] = state[weight] + torch.randn(state[weight].shape, generator=torch.manual_seed(0))
    save_bundle(run / "fold1" / "model.safetensors", state, facts)
    options: dict[str, Any] = {"ensemble": True} if ensemble else {"fold": 1}
    with pytest.raises(ModelFileError, match=r"fold1.*does not repeat what its run predicted for \d+ of its"):
        export_run(run, ExportConfig(out=str(tmp_path / "out"), **options))
    assert not (tmp_path / "out").exists()


def test_every_model_is_compared_on_the_images_of_its_own_fold(run: Path):
    from apps.export.graph import build_graph

    pictures = RunPictures.open(run)
    (plan,) = plan_exports(run, ExportConfig(ensemble=True))
    _, cores, spec = load_members(plan, pictures.record)
    rows = pictures.check_rows(list(plan.folds), 10)
    real = pictures.load(rows, spec)
    graph = build_graph(cores, spec, torch.from_numpy(real[:4]))
    assert check_repeats(run, plan, graph, pictures, rows, real) == len(rows) == 10
    several = replace(pictures, record=replace(pictures.record, test_crops="flip"))
    assert check_repeats(run, plan, graph, several, rows, real) == 0

    tested = Result.load(run, TASK).predictions
    probs = tested.probs.copy()
    place = tested.path.tolist().index(pictures.manifest["path"][rows[3]])
    probs[place] = np.roll(probs[place], 1)
    replace(tested, probs=probs).write(run / "predictions.parquet")
    with pytest.raises(ModelFileError, match="does not repeat"):
        check_repeats(run, plan, graph, pictures, rows, real)


def test_facts_of_another_run_are_refused(tmp_path: Path):
    file = tmp_path / "model.safetensors"
    check_member(file, 2, {**RECORD, "fold": 2}, OWN)
    check_member(file, -1, RECORD, OWN)
    check_member(file, 0, {"fold": 0}, OWN)
    for fold, own, told in ((-1, {"fold": 3}, "model of fold 3, .* no test fold"), (2, {}, "no test fold, ")):
        with pytest.raises(ModelFileError, match=told):
            check_member(file, fold, {**RECORD, **own}, OWN)
    for key, words in (
        ("manifest", "table of images"),
        ("split", "split"),
        ("seed", "seed"),
        ("backbone", "b"),
    ):
        with pytest.raises(ModelFileError, match=f"of another run: its {words}"):
            check_member(file, 0, {**RECORD, "fold": 0, key: "other"}, OWN)
