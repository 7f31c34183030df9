"""Calibrating finished runs of both tasks: what fits, what measures, what is refused, what is written."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from agecls.task import TASK as AGE
from apps.runtime.calibration import check_calibration
from finegrained.task import TASK as FINE
from finetune.errors import DataError, UsageError
from finetune.experiments.config import CalibrateConfig
from finetune.experiments.data_checks import HASHES
from finetune.experiments.probabilities import held_out
from finetune.experiments.probabilities.calibrate import (
    calibrate_run,
    calibrate_tested,
    entry_of,
    stored_calibration,
)
from finetune.experiments.probabilities.fitting import parts_of_people
from finetune.experiments.probabilities.held_out import ALONE, HeldOut, study_note
from finetune.experiments.records.predictions import Predictions
from finetune.experiments.result import Result
from finetune.images.manifest import Manifest
from finetune.metrics.calibration import fit_temperature, log_probs, softmax
from finetune.metrics.classification import negative_log_likelihood
from finetune.metrics.conformal import (
    coverage,
    ordinal_aps_scores,
    own_scores,
    person_quantile,
    prediction_sets,
)
from tests.finetune.experiments.probabilities.conftest import age_result, fine_result


def by_hand(fitted: Predictions) -> tuple[float, float]:
    """Return the temperature of these predictions, and the quantile of ordinal APS over people."""
    t = fit_temperature(log_probs(fitted.probs), fitted.target).temperature
    assert t is not None
    scores = ordinal_aps_scores(softmax(log_probs(fitted.probs) / t))
    return t, person_quantile(own_scores(scores, fitted.target), fitted["subject"])


def test_each_fold_is_calibrated_by_its_own_test_images_and_measured_by_the_others(ages: Result):
    content = calibrate_run(AGE, ages.folder, CalibrateConfig())
    found = ages.predictions
    assert list(content["models"]) == [str(fold) for fold in ages.folds]
    for fold in ages.folds:
        entry = content["models"][str(fold)]
        t, q = by_hand(found.select(found.fold == fold))
        assert (entry["T"], entry["sets"]["q"]) == pytest.approx((t, q))
        assert entry["from"] == f"its own test images (fold {fold})"
        assert (entry["unit"], entry["persons"]) == ("person", len(set(found["subject"][found.fold == fold])))
    probs, sets = np.array(found.probs), np.zeros(found.probs.shape, dtype=bool)
    for fold in ages.folds:
        t, q = by_hand(found.select(found.fold != fold))
        rows = found.fold == fold
        probs[rows] = softmax(log_probs(found.probs[rows]) / t)
        scores = ordinal_aps_scores(probs[rows])
        sets[rows] = prediction_sets(scores, q, probs[rows], ordered=True)
    measured = content["measured"]
    assert measured["how"] == "cross-fitted over 5 folds: each is calibrated by the others"
    assert measured["calibrated"]["nll"] == pytest.approx(negative_log_likelihood(probs, found.target))
    assert measured["raw"]["nll"] == pytest.approx(negative_log_likelihood(found.probs, found.target))
    assert measured["calibrated"]["nll"] < measured["raw"]["nll"]
    assert measured["calibrated"]["exact"] == measured["raw"]["exact"]
    held = coverage(sets, found.target, found["subject"])
    told = measured["sets"]["coverage"]
    assert (told["persons"], told["pictures"]) == pytest.approx((100 * held[0], 100 * held[1]))
    one = content["models"]["2"]["measured"]
    rows = found.fold == 2
    assert one["raw"]["n"] == rows.sum()
    assert one["calibrated"]["nll"] == pytest.approx(negative_log_likelihood(probs[rows], found.target[rows]))


def test_what_is_written_is_what_is_returned_and_what_files_may_hold(ages: Result, birds: Result):
    for task, result in ((AGE, ages), (FINE, birds)):
        content = calibrate_run(task, result.folder, CalibrateConfig(per_group=True))
        assert stored_calibration(result.folder) == content == json.loads(json.dumps(content))
        for entry in content["models"].values():
            check_calibration(entry, len(result.class_names))
        assert str(result.folder) not in json.dumps(content)
        assert (result.folder / "calibration.json").is_file()


def test_a_run_with_one_test_part_is_measured_over_parts_of_its_images(birds: Result):
    content = calibrate_run(FINE, birds.folder, CalibrateConfig())
    (entry,) = content["models"].values()
    assert (entry["unit"], entry["persons"], entry["n"]) == ("image", 240, 240)
    assert entry["sets"]["score"] == "raps"
    assert entry["from"] == "its own test images (the one test part)"
    assert content["measured"]["how"].startswith("cross-fitted over 5 parts of the images")
    assert "threshold_ece" not in content["measured"]["raw"]
    assert 80 <= content["measured"]["sets"]["coverage"]["pictures"] <= 100


def test_parts_keep_people_together():
    people = np.repeat(np.arange(40), 3)
    parts = parts_of_people(people)
    assert all(len(set(parts[people == one])) == 1 for one in range(40))
    assert np.bincount(parts[::3]).tolist() == [8] * 5


def test_people_and_albums_may_count_alike(tmp_path: Path):
    result = age_result(tmp_path / "run", albums=True)
    alike = calibrate_run(AGE, result.folder, CalibrateConfig(weigh="people"))["models"]["0"]
    own = result.predictions.select(result.predictions.fold == 0)
    _, person, counts = np.unique(own["subject"], return_inverse=True, return_counts=True)
    wanted = fit_temperature(log_probs(own.probs), own.target, 1 / counts[person]).temperature
    assert alike["T"] == pytest.approx(wanted)
    albums = calibrate_run(AGE, result.folder, CalibrateConfig(unit="user"))["models"]["0"]
    assert albums["unit"] == "user"
    assert albums["persons"] == len(set(own["user"])) < len(counts)


def test_few_people_get_whole_sets_and_that_is_said(ages: Result, capsys: pytest.CaptureFixture[str]):
    content = calibrate_run(AGE, ages.folder, CalibrateConfig(level=0.95))
    few = [entry for entry in content["models"].values() if entry["persons"] < 19]
    assert few
    assert all(entry["sets"]["q"] is None and entry["sets"]["range"] == [1, 1] for entry in few)
    told = " ".join(capsys.readouterr().out.split())
    assert "a set at level 0.95 needs 19 persons, there are" in told
    assert "are few: the temperature is uncertain" in told


def test_images_that_the_model_has_seen_are_left_out(ages: Result, capsys: pytest.CaptureFixture[str]):
    table = Manifest.load(ages.folder / "manifest.parquet", ages.folder)
    hashes, fold = table[HASHES].copy(), table["fold"]
    test = np.flatnonzero(fold == 0)
    hashes[test[:2]] = hashes[np.flatnonzero(fold == 1)[:2]]
    table.with_column(HASHES, hashes).save(ages.folder / "manifest.parquet")
    content = calibrate_run(AGE, ages.folder, CalibrateConfig())
    assert content["models"]["0"]["n"] == len(test) - 2
    assert f"2 of {len(test)} images have the bytes of one that the model was" in capsys.readouterr().out
    hashes[test] = hashes[np.flatnonzero(fold == 1)[0]]
    table.with_column(HASHES, hashes).save(ages.folder / "manifest.parquet")
    with pytest.raises(DataError, match=r"all \d+ images have the bytes of one that the model was trained"):
        calibrate_run(AGE, ages.folder, CalibrateConfig())


def test_the_validation_part_calibrates_where_it_chose_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    result = fine_result(tmp_path / "run", train={"select": "last", "patience": 0})
    assert result.record.n_validation
    asked: list[tuple[str, ...]] = []
    rng = np.random.default_rng(0)

    def again(shown: Any, config: Any, crops: str) -> Predictions:
        asked.append(tuple(shown[0].manifest["part"]))
        assert crops == "center"
        return replace(shown[0].frame, probs=rng.dirichlet(np.ones(6), len(shown[0].frame)))

    monkeypatch.setattr(held_out, "predict_again", again)
    content = calibrate_run(FINE, result.folder, CalibrateConfig())
    assert asked == [("validation",) * 12]
    (entry,) = content["models"].values()
    assert (entry["n"], entry["from"]) == (
        12,
        "its validation images, which chose nothing (the one test part)",
    )
    assert content["measured"]["how"] == "on the test images, which calibrated nothing"
    assert content["measured"]["raw"]["n"] == 240
    wanted = softmax(log_probs(result.predictions.probs) / entry["T"])
    nll = negative_log_likelihood(wanted, result.predictions.target)
    assert content["measured"]["calibrated"]["nll"] == pytest.approx(nll)


@pytest.mark.parametrize("train", [{"select": "best"}, {"select": "last", "patience": 3}])
def test_a_validation_part_that_chose_the_epoch_is_refused(tmp_path: Path, train: dict[str, Any]):
    result = fine_result(tmp_path / "run", train=train)
    with pytest.raises(UsageError, match=r"--on validation: .* chose the epoch .*; use --on test"):
        calibrate_run(FINE, result.folder, CalibrateConfig(on="validation"))
    (entry,) = calibrate_run(FINE, result.folder, CalibrateConfig())["models"].values()
    assert entry["from"].startswith("its own test images")


def test_what_cannot_be_is_refused(tmp_path: Path, ages: Result, birds: Result):
    with pytest.raises(UsageError, match="has no validation part"):
        calibrate_run(AGE, ages.folder, CalibrateConfig(on="validation"))
    with pytest.raises(UsageError, match=r"--score oaps is for ordered classes; .* takes raps, aps or lac"):
        calibrate_run(FINE, birds.folder, CalibrateConfig(score="oaps"))
    with pytest.raises(DataError, match="vector scaling needs more than 50 people of each class"):
        calibrate_run(AGE, ages.folder, CalibrateConfig(method="vector"))
    with pytest.raises(UsageError, match=r"in \(0, 1\), got 90"):
        CalibrateConfig(level=90)
    none = birds.predictions.select(np.zeros(240, dtype=bool))
    none.write(birds.folder / "predictions.parquet")
    (birds.folder / "run.json").write_text(json.dumps(birds.run | {"n": 0}))
    with pytest.raises(UsageError, match="trained on every image and has none to calibrate on: name other"):
        calibrate_run(FINE, birds.folder, CalibrateConfig())


def test_other_images_calibrate_every_model_and_their_average(ages: Result, monkeypatch: pytest.MonkeyPatch):
    own = ages.predictions
    rng = np.random.default_rng(1)
    each = [softmax(log_probs(own.probs) + rng.normal(size=own.probs.shape)) for _ in ages.folds]
    members = np.stack(each)
    by_fold = {fold: replace(own, probs=probs) for fold, probs in zip(ages.folds, each, strict=True)}
    by_fold[ALONE] = replace(own, probs=members.mean(axis=0))
    told = HeldOut("other data", "240 images of other data", by_fold, members)
    monkeypatch.setattr("finetune.experiments.probabilities.calibrate.held_out", lambda *_: told)
    content = calibrate_run(AGE, ages.folder, CalibrateConfig())
    assert list(content["models"]) == ["0", "1", "2", "3", "4", "ensemble"]
    entry = content["models"]["ensemble"]
    assert entry["T"] == pytest.approx(fit_temperature(log_probs(members), own.target).temperature)
    assert entry["T"] != pytest.approx(fit_temperature(log_probs(members.mean(0)), own.target).temperature)
    assert entry["from"] == "240 images of other data"
    assert entry["measured"] == content["measured"]
    nll = negative_log_likelihood(members.mean(axis=0), own.target)
    assert entry["measured"]["raw"]["nll"] == pytest.approx(nll)
    files = [ages.folder / f"fold{fold}" / "model.safetensors" for fold in ages.folds]
    found = entry_of(content, None, files)
    assert found is not None
    assert found["recipe"] is None


def test_an_entry_is_of_the_weights_that_were_calibrated(ages: Result):
    content = calibrate_run(AGE, ages.folder, CalibrateConfig())
    file = ages.folder / "fold1" / "model.safetensors"
    entry = entry_of(content, 1, [file])
    assert entry is not None
    assert "weights" not in entry
    assert entry["recipe"] == content["measured"]
    assert entry_of(content, None, [file]) is None
    file.write_bytes(b"other weights")
    with pytest.raises(DataError, match="was trained again after it was calibrated"):
        entry_of(content, 1, [file])
    (ages.folder / "calibration.json").write_text('{"schema": 99}')
    with pytest.raises(DataError, match="not of this version"):
        stored_calibration(ages.folder)


def test_stored_answers_of_several_views_are_not_taken_for_one(tmp_path: Path):
    result = age_result(tmp_path / "run", test_crops="ten")
    assert calibrate_tested(AGE, result.folder) is None
    assert stored_calibration(result.folder) is None


def test_a_cell_of_a_study_says_that_losses_were_compared_on_these_images(tmp_path: Path):
    cell = tmp_path / "losses" / "cells" / "crl" / "seed-0"
    assert study_note(cell, "test") == "A study compared losses on these very test images."
    assert study_note(tmp_path / "run", "test") == ""
