"""What is going to be written where, and which wishes are refused before any work."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from apps.config import ExportConfig
from apps.export.plan import plan_exports
from finetune.errors import ModelFileError, UsageError


@pytest.fixture
def several(tmp_path: Path) -> Path:
    """A folder that looks like a finished cross-validation of three folds."""
    folder = tmp_path / "CRL seed=0"
    for fold in range(3):
        (folder / f"fold{fold}").mkdir(parents=True)
        (folder / f"fold{fold}" / "model.safetensors").touch()
    (folder / "run.json").write_text("{}")
    return folder


@pytest.fixture
def single(tmp_path: Path) -> Path:
    """A folder that looks like a finished run of fold 4."""
    folder = tmp_path / "single"
    folder.mkdir()
    (folder / "model.safetensors").touch()
    (folder / "run.json").write_text(json.dumps({"fold": 4}))
    return folder


def plan(folder: Path, **options: Any) -> dict[str, str]:
    """Return the planned files by title."""
    return {
        item.title: item.target.relative_to(folder).as_posix()
        for item in plan_exports(folder, ExportConfig(**options))
    }


def test_every_fold_gets_a_folder(several: Path):
    wanted = {
        f"CRL seed=0 fold {fold}": f"export/fold{fold}/crl-seed-0-fold-{fold}.onnx" for fold in range(3)
    }
    assert plan(several) == plan(several, all=True) == wanted
    assert plan(several, fold=1) == {"CRL seed=0 fold 1": wanted["CRL seed=0 fold 1"]}
    ensemble = {"CRL seed=0 ensemble of 3": "export/ensemble/crl-seed-0-ensemble-of-3.onnx"}
    assert plan(several, ensemble=True) == ensemble
    assert plan(several, ensemble=True, all=True) == wanted | ensemble


def test_the_plan_knows_members_and_folds(several: Path):
    (ensemble,) = plan_exports(several, ExportConfig(ensemble=True))
    assert (ensemble.folds, ensemble.fold) == ((0, 1, 2), None)
    assert [file.parent.name for file in ensemble.files] == ["fold0", "fold1", "fold2"]


def test_precision_is_told_by_folder_and_title(several: Path):
    assert plan(several, fold=0, precision="int8") == {
        "CRL seed=0 fold 0 int8": "export/fold0-int8/crl-seed-0-fold-0-int8.onnx"
    }


def test_a_title_of_one_s_own(several: Path, single: Path):
    assert plan(several, fold=2, title="Café ☕/../x") == {"Café ☕/../x": "export/fold2/caf-x.onnx"}
    assert list(plan(several, title="Mine")) == ["Mine fold 0", "Mine fold 1", "Mine fold 2"]
    assert plan(single, title="☕") == {"☕": "export/model/model.onnx"}


def test_a_single_run_has_one_model(single: Path):
    assert (
        plan(single)
        == plan(single, fold=4)
        == plan(single, all=True)
        == {"single": "export/model/single.onnx"}
    )
    assert plan_exports(single, ExportConfig())[0].fold == 4
    with pytest.raises(UsageError, match=r"--fold 0: .* holds the models of fold 4"):
        plan(single, fold=0)
    with pytest.raises(UsageError, match="--ensemble averages the models of a cross-validation"):
        plan(single, ensemble=True)


@pytest.mark.parametrize(("options", "told"), [
    ({"fold": 7}, "--fold 7: .* holds the models of fold 0, 1, 2"),
    ({"fold": 1, "all": True}, "leave out --all and --ensemble"),
    ({"fold": 1, "ensemble": True}, "leave out --all and --ensemble"),
    ({"ensemble": True, "precision": "int8"}, "no image was kept from every member"),
    ({"images": 15}, "must be at least 16, got 15 and 128"),
    ({"calibration_images": 0}, "must be at least 16"),
    ({"max_drop": -1.0}, "percentage points from 0 on, got -1"),
    ({"max_difference": 0.0}, "above 0 and below 1, got 0"),
    ({"max_difference": 3.0}, "above 0 and below 1, got 3"),
])  # fmt: skip
def test_wishes_that_cannot_be_met_are_refused(several: Path, options: dict[str, Any], told: str):
    with pytest.raises(UsageError, match=told):
        plan(several, **options)


def test_a_folder_without_models_is_refused(tmp_path: Path):
    with pytest.raises(ModelFileError, match=r"holds no model\.safetensors"):
        plan(tmp_path)


def test_a_general_run_is_answered_with_the_way_to_a_model_that_is_exported(single: Path, tmp_path: Path):
    (single / "run.json").write_text(json.dumps({"kind": "general_run"}))
    with pytest.raises(UsageError, match=r"cannot be exported(.|\n)*crl fine train --data.layout folders"):
        plan(single)
    cell = tmp_path / "digits" / "cells" / "crl" / "seed-0"
    cell.mkdir(parents=True)
    (cell / "cell.json").touch()
    for folder in (cell, tmp_path / "digits"):
        with pytest.raises(UsageError, match=r"of the general study(.|\n)*crl fine train"):
            plan(folder)


def test_a_study_is_answered_with_its_cells(tmp_path: Path):
    study = tmp_path / "losses"
    cell = study / "cells" / "crl" / "seed-0"
    cell.mkdir(parents=True)
    (study / "config.yaml").touch()
    (study / "report.json").touch()
    with pytest.raises(UsageError, match="none of whose cells here is finished"):
        plan(study)
    (cell / "run.json").write_text("{}")
    for folder in (study, study / "cells", cell.parent):
        with pytest.raises(UsageError, match=r"whose cells are the results; name one of them:\n  .*seed-0"):
            plan(folder)


def test_what_is_no_run_is_told_apart(tmp_path: Path):
    for name, words in (("x.onnx", "exported model already"), ("nowhere", "there is no folder")):
        with pytest.raises(UsageError, match=words):
            plan_exports(tmp_path / name, ExportConfig())
    (tmp_path / "crl").mkdir()
    (tmp_path / "crl" / "run.json").write_text("{}")
    with pytest.raises(UsageError, match=r"holds some; export one of them:\n  .*crl"):
        plan_exports(tmp_path, ExportConfig())
