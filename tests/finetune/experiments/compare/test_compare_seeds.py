"""Several seeds a side, of either task: paired by seed, averaged by image, spread over seeds."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from finetune.errors import DataError, UsageError
from finetune.experiments.compare.compare import compare_results, compare_seeds
from finetune.experiments.result import Result
from finetune.metrics.bootstrap import student_interval
from tests.finetune.experiments.made_tasks import CRL, MadeTask


def seeds_of(made: MadeTask, share: float, base: int, **run: object) -> list[Result]:
    """Return runs of three seeds, not in their order."""
    return [made.result(made.answers(share, seed=base + k), f"s{base}-{k}", seed=k, **run) for k in (2, 0, 1)]


def test_seeds_average_correctness_per_image_and_pair_by_seed(made: MadeTask):
    side_a, side_b = seeds_of(made, 0.5, 10), seeds_of(made, 0.8, 20, loss=CRL)
    found = compare_seeds(made.task, side_a, side_b[::-1], resamples=300, seed=1)
    hits = [[made.answers(s, seed=base + k) for k in range(3)] for s, base in ((0.5, 10), (0.8, 20))]
    first, second = (np.mean(side, axis=0) for side in hits)
    expected = made.bootstrap(first, second, resamples=300, seed=1)
    assert found[made.headline]["interval"] == pytest.approx([expected.low, expected.high])
    assert [row["seed"] for row in found["per_seed"]] == found["seeds"] == [0, 1, 2]
    alone = compare_results(made.task, side_a[1], side_b[1], resamples=50)
    difference = alone[made.headline]["difference"]
    assert found["per_seed"][0][made.headline]["difference"] == pytest.approx(difference)
    assert found["per_seed"][0]["mcnemar"] == alone["mcnemar"]
    assert "mcnemar" not in found
    assert found["controlled"]
    assert "over 3 seeds the 95 % interval is" in found["conclusion"]
    assert "One seed a side" not in found["conclusion"]


def test_the_spread_over_seeds_is_students(made: MadeTask):
    side_a, side_b = seeds_of(made, 0.5, 10), seeds_of(made, 0.7, 20, loss=CRL)
    found, key = compare_seeds(made.task, side_a, side_b, resamples=50), made.headline
    scores = [[100 * side[at].predictions.correct.mean() for at in (1, 2, 0)] for side in (side_a, side_b)]
    single = np.subtract(scores[1], scores[0]).tolist()
    assert [row[key]["difference"] for row in found["per_seed"]] == pytest.approx(single)
    spread = found["seed_difference"][key]
    assert spread["mean"] == pytest.approx(np.mean(single)) == pytest.approx(found[key]["difference"])
    assert spread["sd"] == pytest.approx(np.std(single, ddof=1))
    assert spread["interval"] == pytest.approx(student_interval(single))
    assert found["seed_scores"][key]["a"]["interval"] == pytest.approx(student_interval(scores[0]))


def test_seeds_that_disagree_among_themselves_prove_nothing(made: MadeTask):
    base = made.answers(0.5, seed=1)
    gains = [np.ones(made.images, dtype=bool), base, base]
    side_a = [made.result(base, f"a{k}", seed=k) for k in range(3)]
    side_b = [made.result(gain, f"b{k}", seed=k, loss=CRL) for k, gain in enumerate(gains)]
    found = compare_seeds(made.task, side_a, side_b, resamples=300)
    assert found[made.headline]["interval"][0] > 0
    assert found["seed_difference"][made.headline]["interval"][0] < 0
    assert found["conclusion"].startswith(f"No difference in {made.label} was shown: crl")
    assert "the interval over 3 seeds, -" in found["conclusion"]


def test_seeds_that_all_differ_by_the_same_have_no_interval_over_seeds(made: MadeTask):
    sides = [
        [made.result(made.answers(share), f"{loss}{k}", seed=k, loss={"name": loss}) for k in range(2)]
        for share, loss in ((0.5, "cel"), (0.7, "crl"))
    ]
    found = compare_seeds(made.task, *sides, resamples=50)
    assert found["seed_difference"][made.headline]["interval"] is None
    assert "all 2 seeds differ by the same, so there is no interval over seeds" in found["conclusion"]
    equal = compare_seeds(made.task, sides[0], sides[0], resamples=50)
    assert "all 2 seeds are equal, so there is no interval over seeds" in equal["conclusion"]


def test_seeds_that_do_not_pair_are_refused(made: MadeTask):
    side = seeds_of(made, 0.5, 10)
    for first, second, got in (
        (side, side[:2], r"\[0, 1, 2\] and \[0, 2\]"),
        (side, [], r"\[0, 1, 2\] and \[\]"),
        ([side[0], side[0]], [side[0], side[0]], r"\[2, 2\] and \[2, 2\]"),
        (side[:1], side[:1], r"\[2\] and \[2\]"),
    ):
        with pytest.raises(UsageError, match=rf"the same two seeds or more, each once; got {got}"):
            compare_seeds(made.task, first, second)
    nameless = made.result(made.answers(0.5), seed=None)
    for first in ([nameless], [nameless] * 2):
        with pytest.raises(DataError, match="has no seed"):
            compare_seeds(made.task, first, side)


def test_seeds_of_different_settings_on_one_side_are_told(made: MadeTask):
    side = seeds_of(made, 0.5, 10)
    side[0] = replace(side[0], record=replace(side[0].record, epochs=3))
    notes = compare_seeds(made.task, seeds_of(made, 0.5, 20), side, resamples=50)["notes"]
    assert any(note.startswith("not seeds of one setting: epochs differ among") for note in notes)
