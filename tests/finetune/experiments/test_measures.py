"""The measures of a task are its only list of scores: one more is shown wherever it says."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from agecls.task import TASK as AGE
from finegrained.task import TASK as FINE
from finetune.experiments.compare.compare import compare_results
from finetune.experiments.compare.page import differences
from finetune.experiments.measures import Resampling
from finetune.experiments.study.runs import study_losses
from finetune.experiments.task import Task, measures_for
from tests.agecls import results_by_hand
from tests.finegrained import made_results
from tests.finetune.experiments.tiny_tasks import MAINLY_FINE, TinyTask, leave_out_pictures
from tests.finetune.experiments.toy_measure import give_toy

MADE = [(AGE, results_by_hand.make_result), (FINE, made_results.make_result)]


@pytest.mark.parametrize(("task", "make"), MADE, ids=["age", "fine"])
def test_a_further_score_is_compared(task: Task, make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    a, b = make(tmp_path / "a"), make(tmp_path / "b", answers=1)
    assert "toy score" not in differences(compare_results(task, a, b, resamples=200), task)
    give_toy(monkeypatch, task)
    comparison = compare_results(task, a, b, resamples=200)
    sure = [100 * (result.predictions.probs.max(axis=1) > 0.5).mean() for result in (a, b)]
    assert [comparison["toy"]["a"], comparison["toy"]["b"]] == pytest.approx(sure)
    assert "toy score" in differences(comparison, task)


@pytest.mark.parametrize("tiny", MAINLY_FINE, indirect=True)
def test_a_further_score_is_studied(tiny: TinyTask, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    leave_out_pictures(monkeypatch)
    give_toy(monkeypatch, tiny.task)
    summary = study_losses(tiny.task, tiny.study(tmp_path / "study"))
    report = json.loads((tmp_path / "study" / "cells" / "cel" / "seed-0" / "report.json").read_text())
    arm = next(row for row in summary["arms"] if row["name"] == "cel")
    assert arm["measures"]["toy"]["values"]["0"] == report["balanced_accuracy"]
    assert "toy score (%)" in (tmp_path / "study" / "report.md").read_text()
    page = (tmp_path / "study" / "cells" / "cel" / "seed-0" / "report.md").read_text()
    assert ("| toy score |" in page) == (tiny.task is FINE)


@pytest.mark.parametrize("task", [AGE, FINE], ids=["age", "fine"])
def test_the_first_measure_is_the_headline_everywhere(task: Task):
    first = task.measures[0]
    assert task.form.headline == (first.key, first.label)
    for place in (
        "report",
        "compare",
        "conclusion",
        "study",
        "facts",
        "card",
        "demo",
        "evaluate",
        "other_data",
    ):
        assert measures_for(task, place)[0] is first, place
    keys = [measure.key for measure in task.measures]
    assert len(keys) == len(set(keys))


@pytest.mark.parametrize(("unit", "count", "told"), [("subject", 29, 1), ("subject", 30, 0), ("image", 3, 0)])
def test_intervals_over_fewer_than_thirty_subjects_are_warned_of(unit: str, count: int, told: int):
    clusters = np.arange(2 * count) % count
    found = Resampling(unit, clusters, np.zeros(2 * count)).warnings()
    assert len(found) == told
    assert all(
        "of 29 subjects, fewer than 30: intervals over so few are too narrow" in text for text in found
    )
    assert Resampling(unit, clusters[:0], clusters[:0]).warnings() == []
