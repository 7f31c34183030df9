"""What a comparison of ages has of its own: folds, subjects, and albums that hold several subjects."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from agecls.task import TASK
from finetune.errors import DataError
from finetune.experiments.compare.compare import compare_results
from finetune.experiments.compare.page import write_comparison
from finetune.experiments.records.record import RunRecord
from finetune.experiments.result import Result
from finetune.figures.markdown import points
from tests.agecls.age_predictions import with_columns
from tests.agecls.results_by_hand import make_result
from tests.finetune.experiments.made_tasks import MADE, ages

AGES = MADE["age"]


def test_folds_and_pooled_images_have_differences_of_their_own():
    first, second = AGES.answers(0.5, seed=1), AGES.answers(0.9, seed=2)
    a, b = AGES.result(first, "a"), AGES.result(second, "b")
    found = compare_results(TASK, a, b, resamples=50)
    fold = a.predictions.fold
    by_fold = [100 * (second[fold == f].mean() - first[fold == f].mean()) for f in range(3)]
    assert found["exact"]["per_fold"] == pytest.approx(by_fold)
    assert found["exact"]["pooled"]["difference"] == pytest.approx(100 * (second.mean() - first.mean()))
    assert found["exact"]["pooled"]["a"] == pytest.approx(100 * first.mean())
    assert found["exact"]["by_user"]["clusters"] == found["users"] == 60
    assert (found["subjects"], found["folds"]) == (120, [0, 1, 2])


def test_unknown_subjects_are_images_and_mcnemars_test_is_about_exact_accuracy_alone(tmp_path: Path):
    """Three images only the second has right, and many more that it misses by one group alone."""
    base = ages(np.zeros(240, dtype=bool))
    base = with_columns(base, subject=base.path, user=base.path)
    near = np.clip(base.target + np.where(base.target < 3, 1, -1), 0, 3)
    preds = np.where(np.arange(240) < 200, near, base.preds)
    preds[:3] = base.target[:3]
    after = replace(base, probs=np.eye(4)[preds])
    record = RunRecord.from_dict(AGES.record)
    sides = [Result(Path(name), record, {}, rows) for name, rows in (("a", base), ("b", after))]
    found = compare_results(TASK, *sides, resamples=50)
    assert (found["unit"], "subjects" in found) == ("image", False)
    exact, one_off = found["conclusion"].split("exact accuracy", 1)[1].split("one-off accuracy", 1)
    assert "McNemar" in exact
    assert "McNemar" not in one_off
    assert "subject" not in found["conclusion"]
    text = write_comparison(TASK, sides[0], sides[1], found, tmp_path / "out", pictures=False).read_text()
    assert "resample images, paired, 50 times within folds" in text
    assert "subject" not in text


def test_a_difference_that_vanishes_when_albums_are_resampled_is_not_claimed():
    """All the gain lies in one album of many subjects: subjects agree, albums do not."""
    base = ages(np.zeros(240, dtype=bool))
    user = np.where(np.arange(240) // 2 < 40, "big album", base["user"])
    before = with_columns(base, user=user, fold=np.zeros(240, dtype=int))
    after = replace(
        before, probs=np.where((user == "big album")[:, None], np.eye(4)[base.target], before.probs)
    )
    record = RunRecord.from_dict(AGES.record)
    sides = [Result(Path(name), record, {}, rows) for name, rows in (("a", before), ("b", after))]
    found = compare_results(TASK, *sides, resamples=500)
    assert found["exact"]["interval"][0] > 0
    assert found["exact"]["by_user"]["interval"][0] == 0
    assert found["conclusion"].startswith("No difference in exact accuracy was shown: b minus a is +")
    albums = len(np.unique(user))
    assert f"; the interval over {albums} users contains zero." in found["conclusion"]


@pytest.mark.parametrize("column", ["subject", "user"])
def test_images_of_other_subjects_or_albums_are_refused(column: str):
    a = AGES.result(AGES.answers(0.5), "a")
    renamed = np.where(np.arange(240) == 5, "x", a.predictions["user"])
    rows = with_columns(ages(AGES.answers(0.5)), **{column: renamed})
    with pytest.raises(DataError, match=rf"differ in {column}:\n"):
        compare_results(TASK, a, replace(a, folder=Path("b"), predictions=rows))


def test_albums_are_a_row_of_their_own(tmp_path: Path):
    a, b = (make_result(tmp_path / name, answers=seed, albums=True) for seed, name in enumerate("ab"))
    comparison = compare_results(TASK, a, b, resamples=50)
    page = write_comparison(TASK, a, b, comparison, tmp_path / "out", pictures=False).read_text(
        encoding="utf-8"
    )
    low, high = comparison["exact"]["by_user"]["interval"]
    row = next(line for line in page.splitlines() if f", {comparison['users']} users" in line)
    assert f"| {points((low, high))}" in row


def test_images_are_resampled_where_nobody_is_known(tmp_path: Path):
    a, b = (make_result(tmp_path / name, answers=seed) for seed, name in enumerate("ab"))
    a, b = (
        replace(one, predictions=with_columns(one.predictions, subject=one.predictions.path))
        for one in (a, b)
    )
    comparison = compare_results(TASK, a, b, resamples=50)
    assert not {"subjects", "users", "effective_subjects"} & set(comparison)
    file = write_comparison(TASK, a, b, comparison, tmp_path / "out", pictures=False)
    page = file.read_text(encoding="utf-8")
    assert "Intervals and p resample images, paired, 50 times within folds." in page
    assert "subject" not in page
    assert "over images" in comparison["conclusion"]
