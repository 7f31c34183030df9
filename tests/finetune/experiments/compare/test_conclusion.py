"""Sentences about a comparison of either task claim no more than its tests show."""

from __future__ import annotations

import numpy as np
import pytest

from finetune.experiments.compare.compare import compare_results
from finetune.experiments.compare.conclusion import conclude
from finetune.experiments.task import measures_for
from finetune.metrics.learning import ONE_CLASS
from tests.finetune.experiments.made_tasks import CRL, MadeTask


def test_a_difference_within_the_noise_is_not_claimed(made: MadeTask):
    a, b = made.result(made.answers(0.6, seed=3)), made.result(made.answers(0.62, seed=4), loss=CRL)
    found = compare_results(made.task, a, b, resamples=300)
    low, high = found[made.headline]["interval"]
    assert low < 0 < high
    told = found["conclusion"]
    assert f"No difference in {made.label} was shown: crl (alpha 1.5) minus cel is" in told
    assert f"the interval over {made.unit}s contains zero" in told
    where = {"age": "240 images of 120 subjects", "fine": "on 400 images;"}[made.task.name]
    assert where in told
    assert "One seed a side" in told


def test_mcnemars_test_counts_where_single_images_are_resampled(made: MadeTask):
    """Five images only the second has right: the bootstrap shows it, McNemar's exact p is 0.06."""
    first, second = np.zeros((2, made.images), dtype=bool)
    second[:20:4] = True
    found = compare_results(made.task, made.result(first), made.result(second, loss=CRL), resamples=300)
    assert found[made.headline]["interval"][0] > 0
    assert found["mcnemar"]["p"] == pytest.approx(0.0625)
    told = {
        "image": f"No difference in {made.label} was shown",
        "subject": f"is higher, below the majority-class baseline, than cel in {made.label}",
    }
    assert told[made.unit] in found["conclusion"]
    assert ("McNemar's exact p is 0.06" in found["conclusion"]) == (made.unit == "image")


def test_a_higher_accuracy_below_the_majority_class_is_said_as_such(made: MadeTask):
    """The most frequent class has 36 or 25 % of the images; one image of ten less is below guessing."""
    tens, low = np.arange(made.images) % 10, int(made.majority // 10)
    a = made.result(np.arange(made.images) % 20 == 0)
    b, good = (made.result(tens < count, loss=CRL) for count in (low, low + 1))
    found = compare_results(made.task, a, b, resamples=300)
    lead = (
        "Neither does better than always predicting the most frequent class "
        f"({10 * low}.00 against {made.majority:.2f} %)"
    )
    assert found["conclusion"].startswith(lead)
    assert f"is higher, below the majority-class baseline, than cel in {made.label}" in found["conclusion"]
    found = compare_results(made.task, a, good, resamples=300)
    assert found["conclusion"].startswith("crl (alpha 1.5) is higher than cel")


def test_test_images_of_one_class_are_said_to_be(made: MadeTask):
    found = compare_results(
        made.task, made.result(made.answers(0.9, seed=1)), made.result(made.answers(0.4, seed=2))
    )
    assert ONE_CLASS not in found["conclusion"]
    told = conclude(found | {"majority": 100.0}, measures_for(made.task, "conclusion"), made.task.measures[0])
    assert told.startswith(f"Take care: {ONE_CLASS}. ")
    assert "below the majority-class baseline" not in told
    assert "nothing useful" not in told


def test_a_lower_second_is_called_lower(made: MadeTask):
    a, b = made.result(made.answers(0.9, seed=1)), made.result(made.answers(0.4, seed=2), loss=CRL)
    found = compare_results(made.task, a, b, resamples=50)
    assert f"crl (alpha 1.5) is lower than cel in {made.label} by -" in found["conclusion"]
