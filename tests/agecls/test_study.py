"""A study of losses over age runs: of one split each, or of whole cross-validations."""

from __future__ import annotations

import json
import shutil
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from agecls import study
from agecls.config import AgeStudyConfig, CrossValidationConfig
from agecls.cross_validation import shared_config
from agecls.results import AgeResult
from finetune.errors import DataError, InterruptedRunError, UsageError
from finetune.experiments.config import arms_of
from finetune.experiments.study.cells import cell_folder
from finetune.experiments.study.from_runs import claim_study, study_config
from finetune.models.heads.registry import resolved
from finetune.runs.folder import read_json
from tests.agecls.tiny_ages import tiny


@pytest.fixture(autouse=True)
def no_pictures(monkeypatch):
    """Draw no pictures, which take most of a tiny run's time."""
    monkeypatch.setattr("agecls.report.draw_pictures", lambda *_: [])
    monkeypatch.setattr("finetune.experiments.study.report.draw_study", lambda *_: {})


def tiny_study(faces: Path, folder: Path, **changes: Any) -> AgeStudyConfig:
    """Return a study of tiny runs: cross-entropy and CRL, two seeds, no controls, one split each."""
    run = tiny(faces, folder)
    parts = {item.name: getattr(run, item.name) for item in fields(CrossValidationConfig)}
    chosen = {"losses": ("crl",), "seeds": 2, "controls": False, "cell": "train"} | changes
    return AgeStudyConfig(**(parts | chosen))


def again(config: AgeStudyConfig, **changes: Any) -> AgeStudyConfig:
    """Return the configuration that goes on with what lies in its folder."""
    return replace(config, run=replace(config.run, resume="auto"), **changes)


def table_of(summary: dict[str, Any]) -> list[Any]:
    """Return what a study's table tells, without its minutes."""
    return [{key: value for key, value in row.items() if key != "seconds"} for row in summary["arms"]]


def test_a_study_of_single_splits_stops_and_goes_on_to_the_same_table(faces, tmp_path, monkeypatch):
    whole = study.study_losses(tiny_study(faces, tmp_path / "whole"))
    train, names = study.train_cell, []

    def stopped(config, plan):
        names.append(f"{plan.arm.name} {plan.seed}")
        if len(names) == 3:
            raise InterruptedRunError("stopped")
        train(config, plan)

    monkeypatch.setattr(study, "train_cell", stopped)
    config = tiny_study(faces, tmp_path / "study")
    with pytest.raises(InterruptedRunError):
        study.study_losses(config)
    found = study.study_losses(again(config))
    assert names == ["cel 0", "crl 0", "cel 1", "cel 1", "crl 1"]
    assert table_of(found) == table_of(whole)
    for row in found["arms"]:
        stored = [AgeResult.load(tmp_path / "study/cells" / row["name"] / f"seed-{n}") for n in (0, 1)]
        assert [result.run["seed"] for result in stored] == [0, 1]
        scores = [100 * float(result.predictions.correct.mean()) for result in stored]
        assert list(row["measures"]["accuracy"]["values"].values()) == pytest.approx(scores)
    assert not list(tmp_path.rglob("checkpoints"))


def study_of(pair: tuple[Path, Path], faces: Path, folder: Path) -> AgeStudyConfig:
    """Put two finished cross-validations into a study's folder as its cells."""
    config = tiny_study(faces, folder, cell="cv", seeds=1)
    head = replace(config.head, options=resolved("linear", {}))
    own = study_config(replace(config, head=head))
    claim_study(Path(own.run.dir), shared_config(own), own.run)
    for arm, result in zip(arms_of(config), pair, strict=True):
        shutil.copytree(result, cell_folder(folder, arm, 0))
    return again(config)


def test_a_cell_can_be_a_whole_cross_validation(pair, faces, tmp_path):
    config = study_of(pair, faces, tmp_path / "study")
    found = study.study_losses(config)
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
    end = study.page_of
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(study, "page_of", lambda *given: cells.extend(given[2]) or end(*given))
        study.study_losses(config)
    losses = [row["train_loss"] for rows in AgeResult.load(pair[0]).curves.values() for row in rows]
    assert [row["train_loss"] for row in cells[0].history] == pytest.approx([np.mean(losses)])


def test_a_cell_of_other_folds_is_refused(pair, faces, tmp_path):
    config = study_of(pair, faces, tmp_path / "study")
    file = tmp_path / "study/cells/cel/seed-0/run.json"
    file.write_text(json.dumps(read_json(file) | {"split": "other"}))
    with pytest.raises(DataError, match="split: other -> "):
        study.study_losses(config)


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
        study.study_losses(replace(config, data=replace(config.data, fold=7)))
    assert not (tmp_path / "study").exists()


def test_published_scores_stand_beside_cross_validations_of_adience_alone(faces, tmp_path, monkeypatch):
    config = tiny_study(faces, tmp_path / "study", cell="cv")
    config = replace(config, model=replace(config.model, backbone="resnet34.a1_in1k"))
    monkeypatch.setattr("agecls.report_sections.reported_by_others", lambda _: "a table")
    assert study.published(config, {}) == {
        "nllr": "55.27 (CRL paper, Table X, one run)",
        "cel": "56.32 (CRL paper, Table X, one run)",
        "crl": "57.05 (CRL paper, Table X, one run)",
    }
    pretrained = replace(config, model=replace(config.model, weights="pretrained"))
    assert study.published(pretrained, {})["cel"].startswith("61.09")
    assert study.published(replace(config, cell="train"), {}) == {}
    monkeypatch.setattr("agecls.report_sections.reported_by_others", lambda _: None)
    assert study.published(config, {}) == {}
