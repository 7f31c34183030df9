"""A study of losses over age runs: its own options, and cells that are whole cross-validations."""

from __future__ import annotations

import json
import shutil
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from agecls.config import AgeStudyConfig, CrossValidationConfig
from agecls.task import TASK
from finetune.errors import DataError, UsageError
from finetune.experiments import data_checks
from finetune.experiments.config import arms_of
from finetune.experiments.result import Result
from finetune.experiments.run import kept_options
from finetune.experiments.study import runs
from finetune.experiments.study.cells import cell_folder
from finetune.experiments.study.folder import claim_study
from finetune.experiments.study.runs import study_config, study_losses
from finetune.models.heads.registry import resolved
from finetune.runs.folder import read_json
from tests.agecls.tiny_ages import tiny
from tests.finetune.experiments.tiny_tasks import again, leave_out_pictures


@pytest.fixture(autouse=True)
def no_pictures(monkeypatch):
    """Draw no images, which take most of a tiny run's time."""
    leave_out_pictures(monkeypatch)


def tiny_study(faces: Path, folder: Path, **changes: Any) -> AgeStudyConfig:
    """Return a study of tiny runs: cross-entropy and CRL, two seeds, no controls, one split each."""
    run = tiny(faces, folder)
    parts = {item.name: getattr(run, item.name) for item in fields(CrossValidationConfig)}
    chosen = {"losses": ("crl",), "seeds": 2, "controls": False, "cell": "train"} | changes
    return AgeStudyConfig(**(parts | chosen))


def study_of(pair: tuple[Path, Path], faces: Path, folder: Path) -> AgeStudyConfig:
    """Put two finished cross-validations into a study's folder as its cells."""
    config = tiny_study(faces, folder, cell="cv", seeds=1)
    head = replace(config.head, options=resolved("linear", {}))
    own = study_config(replace(config, head=head))
    claim_study(Path(own.run.dir), kept_options(TASK, own), own.run)
    for arm, result in zip(arms_of(config), pair, strict=True):
        shutil.copytree(result, cell_folder(folder, arm, 0))
    return again(config)


def test_a_cell_can_be_a_whole_cross_validation(pair, faces, tmp_path):
    config = study_of(pair, faces, tmp_path / "study")
    found = study_losses(TASK, config)
    for row, result in zip(found["arms"], pair, strict=True):
        told = read_json(result / "report.json")
        means = {key: row["measures"][key]["mean"] for key in row["measures"]}
        assert means == pytest.approx(
            {"accuracy": told["exact_mean"], "one_off": told["one_off_mean"], "macro_f1": told["macro_f1"]}
        )
    page = (tmp_path / "study" / "report.md").read_text()
    assert "one cross-validation (folds 0, 1, 2, 3, 4" in page
    assert "nothing can be concluded" in page  # of a single seed


def test_the_epochs_of_a_cross_validation_are_means_of_its_folds(pair, faces, tmp_path):
    config = study_of(pair, faces, tmp_path / "study")
    cells = []
    end = runs.page_of
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(runs, "page_of", lambda *given: cells.extend(given[2]) or end(*given))
        study_losses(TASK, config)
    losses = [row["train_loss"] for rows in Result.load(pair[0], TASK.form).curves.values() for row in rows]
    assert [row["train_loss"] for row in cells[0].history] == pytest.approx([np.mean(losses)])


def test_the_cells_of_a_study_neither_read_nor_check_its_data_again(
    pair, faces, tmp_path, monkeypatch, capsys
):
    config = study_of(pair, faces, tmp_path / "study")
    for report in (tmp_path / "study/cells").glob("*/*/report.json"):
        report.unlink()  # both cells are trained again, from folds that are finished
    tell = data_checks.tell_twins

    def twins(found, same_content):
        tell(found._replace(relabelled=[("1.jpg", "2.jpg")]), same_content)

    monkeypatch.setattr(data_checks, "tell_twins", twins)
    study_losses(TASK, config)
    told = capsys.readouterr().out
    assert told.count("fold 4: finished earlier, not run again") == 2
    assert told.count("with two classes are the same bytes") == told.count("policy core8: 0-2") == 1


def test_a_cell_of_other_folds_is_refused(pair, faces, tmp_path):
    config = study_of(pair, faces, tmp_path / "study")
    file = tmp_path / "study/cells/cel/seed-0/run.json"
    file.write_text(json.dumps(read_json(file) | {"split": "other"}))
    with pytest.raises(DataError, match="split: other -> "):
        study_losses(TASK, config)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"cell": "cv", "folds": (0,)}, "--folds and --report belong to cv"),
        ({"cell": "cv", "report": False}, "--folds and --report belong to cv"),
        ({"cell": "train", "devices": ("cpu", "cpu")}, "--devices shares out folds"),
        ({"seeds": 0}, "seeds must be at least 1"),
        ({"losses": ("crk",)}, "did you mean crl"),
    ],
)
def test_options_that_a_study_cannot_have_are_refused(faces, tmp_path, changes, message):
    with pytest.raises(UsageError, match=message):
        tiny_study(faces, tmp_path / "study", **changes)


def test_the_fold_to_test_must_be_there(faces, tmp_path):
    config = tiny_study(faces, tmp_path / "study")
    with pytest.raises(UsageError, match="tests on nothing"):
        replace(config, data=replace(config.data, fold=-1))
    with pytest.raises(UsageError, match=r"--data\.fold 7: there are folds"):
        study_losses(TASK, replace(config, data=replace(config.data, fold=7)))
    assert not (tmp_path / "study").exists()


def test_published_scores_stand_beside_cross_validations_of_adience_alone(faces, tmp_path, monkeypatch):
    config = tiny_study(faces, tmp_path / "study", cell="cv")
    config = replace(config, model=replace(config.model, backbone="resnet34.a1_in1k"))
    monkeypatch.setattr("agecls.report.study.reported_by_others", lambda _: "a table")
    assert published(config) == {
        "nllr": "55.27 (CRL paper, Table X, one run)",
        "cel": "56.32 (CRL paper, Table X, one run)",
        "crl": "57.05 (CRL paper, Table X, one run)",
    }
    pretrained = replace(config, model=replace(config.model, weights="pretrained"))
    assert published(pretrained)["cel"].startswith("61.09")
    assert published(replace(config, cell="train")) == {}
    monkeypatch.setattr("agecls.report.study.reported_by_others", lambda _: None)
    assert published(config) == {}


def published(config: AgeStudyConfig) -> dict[str, str]:
    """Return the scores of others on a study's page."""
    return dict(
        TASK.study_text(config, {"folds": [0], "policy": "core8", "class_names": ["0-2", "4-6"]}).published
    )
