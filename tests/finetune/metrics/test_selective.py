"""Risk against coverage: the worked example, ties, degenerate cells, and intervals over subjects."""

from __future__ import annotations

from itertools import permutations

import numpy as np
import pytest

from finetune.metrics.selective import (
    _areas,
    _Blocks,
    area_difference,
    risk_at,
    risk_coverage,
    risk_intervals,
)

SURE, WRONG = np.array([0.9, 0.8, 0.7, 0.6]), np.array([0.0, 1.0, 0.0, 1.0])


def test_the_worked_example():
    found = risk_coverage(SURE, WRONG)
    np.testing.assert_allclose(found.risk, [0, 0.5, 1 / 3, 0.5])
    np.testing.assert_allclose(found.coverage, [0.25, 0.5, 0.75, 1])
    assert found.area == pytest.approx(0.333333, abs=1e-6)
    assert found.area - found.excess == pytest.approx(0.208333, abs=1e-6)


def test_a_tie_is_the_mean_over_its_orders():
    sure, loss = np.array([0.9, 0.5, 0.5, 0.5, 0.1]), np.array([0.0, 1.0, 0.0, 0.0, 1.0])
    by_hand = []
    for order in permutations((1, 2, 3)):
        ordered = loss[[0, *order, 4]]
        by_hand.append((ordered.cumsum() / np.arange(1, 6)).mean())
    assert risk_coverage(sure, loss).area == pytest.approx(np.mean(by_hand))
    shuffled = np.array([3, 0, 4, 2, 1])
    assert risk_coverage(sure[shuffled], loss[shuffled]).area == pytest.approx(np.mean(by_hand))


def test_degenerate_cells():
    none = risk_coverage(np.zeros(0), np.zeros(0))
    assert len(none.risk) == 0
    assert np.isnan(none.area)
    assert np.isnan(risk_at(np.zeros(0), np.zeros(0))).all()
    one = risk_coverage(np.array([0.4]), np.array([1.0]))
    assert (one.area, one.excess) == (1.0, 0.0)
    assert risk_at(np.array([0.4]), np.array([1.0])).tolist() == [1, 1, 1, 1]
    with pytest.raises(ValueError, match="finite"):
        risk_coverage(np.array([np.nan]), np.array([1.0]))
    with pytest.raises(ValueError, match="alike"):
        risk_coverage(np.zeros(2), np.zeros(3))


def test_the_risk_at_a_coverage_takes_shares_of_images_and_ties():
    np.testing.assert_allclose(risk_at(SURE, WRONG, (1, 0.75, 0.5, 0.375)), [0.5, 1 / 3, 0.5, 1 / 3])
    np.testing.assert_allclose(risk_at(np.full(4, 0.5), WRONG, (1, 0.25)), [0.5, 0.5])


def test_intervals_resample_subjects():
    rng = np.random.default_rng(0)
    people = np.repeat(np.arange(60), 8)
    hard = np.repeat(rng.random(60), 8)
    loss = (rng.random(480) < hard).astype(float)
    sure = 1 - hard + 0.1 * rng.random(480)
    whole, *_, half = risk_intervals(sure, loss, people, resamples=400)
    assert whole.estimate == pytest.approx(100 * loss.mean())
    assert half.estimate < whole.estimate
    assert whole.low < whole.estimate < whole.high
    assert (whole.clusters, half.clusters < 60) == (60, True)
    images = risk_intervals(sure, loss, np.arange(480), resamples=400)[0]
    assert whole.high - whole.low > 1.5 * (images.high - images.low)


def test_an_interval_that_never_moves_is_wilsons():
    found = risk_intervals(np.linspace(0, 1, 40), np.zeros(40), np.arange(40), resamples=50)
    assert [interval.method for interval in found] == ["Wilson"] * 4
    assert found[0].high == pytest.approx(8.76, abs=0.01)  # of 40 subjects
    assert found[3].high == pytest.approx(16.11, abs=0.01)  # of 20


def test_the_difference_of_two_areas_is_of_the_same_resamples():
    same = area_difference((SURE, WRONG), (SURE, WRONG), np.arange(4), resamples=50)
    assert (same.estimate, same.low, same.high) == (0, 0, 0)
    better = area_difference((SURE, WRONG), (1 - WRONG, WRONG), np.arange(4), resamples=50)
    assert better.estimate == pytest.approx(0.208333 - 0.333333, abs=1e-6)
    assert better.low < better.estimate < better.high


def test_areas_of_resamples_take_ties_as_the_area_itself_does():
    generator = np.random.default_rng(0)
    confidence, loss = generator.integers(0, 3, 60) / 4.0, generator.random(60)
    weights = np.stack([np.ones(60), generator.integers(0, 4, 60).astype(float)])
    areas = _areas(_Blocks(confidence), weights, loss)
    drawn = np.repeat(np.arange(60), weights[1].astype(int))
    own = [risk_coverage(confidence, loss).area, risk_coverage(confidence[drawn], loss[drawn]).area]
    blocks = [loss[confidence == level].mean() for level in confidence]
    mean_of_blocks = np.array(blocks)
    assert areas[0] == pytest.approx(own[0])
    spread = np.array([loss[drawn][confidence[drawn] == level].mean() for level in confidence[drawn]])
    assert areas[1] == pytest.approx(risk_coverage(confidence[drawn], spread).area)
    assert risk_coverage(confidence, mean_of_blocks).area == pytest.approx(own[0])
