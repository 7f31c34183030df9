"""What a comparison of categories has of its own: five predictions, and the mean over classes."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from finegrained.task import TASK
from finetune.experiments.compare.compare import compare_results
from finetune.metrics.classification import balanced_accuracy, top_k_accuracy
from finetune.metrics.intervals import unmoved_difference
from tests.finegrained.made_results import make_result
from tests.finetune.experiments.made_tasks import CRL, MADE

BIRDS = MADE["fine"]


def test_five_predictions_and_the_mean_over_classes_are_compared_too():
    a, b = (BIRDS.result(BIRDS.answers(share, seed=at)) for at, share in enumerate((0.5, 0.8)))
    found = compare_results(TASK, a, b, resamples=50)
    for key, score in (
        ("top5", lambda p: top_k_accuracy(p.probs, p.target, 5)),
        ("per_class", lambda p: balanced_accuracy(p.probs, p.target, 8)),
    ):
        left, right = (100 * score(side.predictions) for side in (a, b))
        assert [found[key]["a"], found[key]["b"]] == pytest.approx([left, right])
        assert found[key]["difference"] == pytest.approx(right - left)


def test_classes_that_are_whole_or_wholly_wrong_give_wilsons_interval():
    """The second gets two classes whole that the first has wholly wrong: within classes nothing varies."""
    target = BIRDS.predictions(BIRDS.answers(0.5)).target
    found = compare_results(TASK, BIRDS.result(target < 4), BIRDS.result(target < 6, loss=CRL), resamples=300)
    assert found["per_class"]["difference"] == pytest.approx(25)
    draws = [(1 / 8, count) for count in np.bincount(target).tolist()]
    assert found["per_class"]["interval"] == pytest.approx(unmoved_difference(25.0, draws))
    assert found["per_class"]["p"] is None
    assert "resampling shows no spread" in found["per_class"]["reason"]
    assert found["top1"]["interval"] is not None


def test_five_classes_or_fewer_have_no_top_5(tmp_path: Path):
    a, b = (make_result(tmp_path / name, 5, answers=seed) for seed, name in enumerate("ab"))
    assert compare_results(TASK, a, b, resamples=20)["top5"] is None
