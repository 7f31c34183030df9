"""What reports and comparisons of both tasks say of confidence, and that it follows from the predictions."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from agecls.task import TASK as AGE
from finegrained.task import TASK as FINE
from finetune.experiments.config import CalibrateConfig
from finetune.experiments.exported.confidence import confidence_text
from finetune.experiments.probabilities.calibrate import calibrate_run, entry_of
from finetune.experiments.probabilities.scores import (
    calibration_section,
    compared_probabilities,
    compared_section,
    confidence_section,
    probability_scores,
)
from finetune.experiments.result import Result
from finetune.experiments.sections import error_rows
from finetune.experiments.task import Task
from finetune.metrics.calibration import fit_temperature, log_probs
from finetune.metrics.selective import risk_at, risk_coverage, risk_intervals
from tests.apps.tiny_onnx import tiny_facts
from tests.finetune.experiments.made_tasks import MADE, MadeTask


@pytest.fixture(params=["age", "fine"])
def task_and_result(request: pytest.FixtureRequest, ages: Result, birds: Result) -> tuple[Task, Result]:
    """Either task, with a finished result."""
    return (AGE, ages) if request.param == "age" else (FINE, birds)


def test_the_record_follows_from_the_predictions(task_and_result: tuple[Task, Result]):
    task, result = task_and_result
    found = result.predictions
    record = probability_scores(task, found, resamples=50, seed=0)
    sure, wrong = found.probs.max(axis=1), (found.preds != found.target).astype(float)
    own = record["selective"][task.measures[0].key]
    assert own["aurc"] == pytest.approx(risk_coverage(sure, wrong).area)
    assert [row["coverage"] for row in own["at"]] == [1.0, 0.9, 0.8, 0.5]
    np.testing.assert_allclose([row["risk"] for row in own["at"]], 100 * risk_at(sure, wrong))
    drawn = task.resampling(found)
    ends = risk_intervals(sure, wrong, drawn.clusters, drawn.strata, resamples=50)
    assert own["at"][1]["interval"] == [ends[1].low, ends[1].high]
    assert record["temperature"]["T"] == fit_temperature(log_probs(found.probs), found.target).temperature
    assert ("threshold_ece" in record) == task.ordered
    names = {"ece", "adaptive_ece", *(["threshold_ece"] if task.ordered else [])}
    assert record["calibration_reference"].keys() == names
    keys = ["exact", "one_off"] if task is AGE else ["top1", "top5"]
    assert list(record["selective"]) == keys


def test_the_page_shows_the_record(task_and_result: tuple[Task, Result]):
    task, result = task_and_result
    record = probability_scores(task, result.predictions, resamples=50, seed=0) | {"ece": 0.1}
    text = confidence_section(record)
    assert text is not None
    row = record["selective"][task.measures[0].key]["at"][3]
    low, high = row["interval"]
    assert f"| 50 % | {row['risk']:.2f} | {low:.1f} to {high:.1f} |" in text
    assert f"fits these images best is {record['temperature']['T']:.2f}" in text
    chance = record["calibration_reference"]["adaptive_ece"]
    wanted = f"{100 * chance['mean']:.2f} (below {100 * chance['upper']:.2f})"
    words = {name: (value, told) for name, value, told in error_rows(record)}
    assert words["the same over bins of equal count (%)"] == (f"{100 * record['adaptive_ece']:.2f}", wanted)
    assert len(words) == (3 if task.ordered else 2)
    assert confidence_section({}) is None
    assert calibration_section({}) is None
    assert error_rows({"ece": 0.1, "adaptive_ece": None}) == [
        ("expected calibration error, 15 bins (%)", "10.00", "")
    ]


def test_a_calibrated_run_says_so_in_its_report(ages: Result):
    content = calibrate_run(AGE, ages.folder, CalibrateConfig())
    text = calibration_section({"calibration": content})
    assert text is not None
    entry = content["models"]["3"]
    assert f"| 3 | {entry['T']:.3f} | {entry['n']} | {entry['persons']} persons |" in text
    raw, after = content["measured"]["raw"]["nll"], content["measured"]["calibrated"]["nll"]
    assert f"| {raw:.3f} | {after:.3f} |" in text
    held = content["measured"]["sets"]["coverage"]["persons"]
    assert f"They held the true class for {held:.1f} % of those" in text


@pytest.mark.parametrize("name", ["age", "fine"])
def test_two_results_are_compared_by_their_confidence(name: str):
    made: MadeTask = MADE[name]
    first, second = (made.predictions(made.answers(share, seed=1)) for share in (0.5, 0.8))
    rows = compared_probabilities(made.task, first, second, resamples=100, seed=0)
    areas = [
        100 * risk_coverage(one.probs.max(axis=1), (one.preds != one.target).astype(float)).area
        for one in (first, second)
    ]
    assert (rows["aurc"]["a"], rows["aurc"]["b"]) == pytest.approx(areas)
    assert rows["aurc"]["difference"] == pytest.approx(areas[1] - areas[0])
    assert rows["aurc"]["interval"][1] < 0
    assert ("threshold_ece" in rows) == made.task.ordered
    text = compared_section(rows, ("one", "two"))
    assert text is not None
    low, high = rows["aurc"]["interval"]
    assert f"{areas[0]:.2f} | {areas[1]:.2f} | {areas[1] - areas[0]:+.2f} | {low:.2f} to {high:.2f} |" in text
    assert compared_section(None, ("one", "two")) is None


def test_a_card_tells_sets_people_and_what_could_not_be(ages: Result, birds: Result, tmp_path: Path):
    content = calibrate_run(AGE, ages.folder, CalibrateConfig(level=0.95, per_group=True))
    entry = entry_of(content, 2, [ages.folder / "fold2" / "model.safetensors"])
    assert entry is not None
    text = confidence_text(tiny_facts(calibration=entry))
    assert f"softmax(logits / {entry['T']:.4f})" in text
    assert "every set is whole: too few people calibrated it" in text
    content = calibrate_run(FINE, birds.folder, CalibrateConfig(per_group=True))
    entry = entry_of(content, 0, [birds.folder / "model.safetensors"])
    assert entry is not None
    text = confidence_text(tiny_facts(calibration=entry, task="category"))
    assert "90 times of 100, for a new image" in text
    assert "person" not in text
    assert "Sets per class hold within every class." in text
    assert "Not calibrated" in confidence_text(tiny_facts())
