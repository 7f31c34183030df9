from __future__ import annotations

import numpy as np
import pytest

from agecls.audit.identity_leak import identity_leak, ranked_auc


def test_the_area_is_the_share_of_pairs_in_the_right_order():
    generator = np.random.default_rng(0)
    same, other = generator.normal(1, 1, 40).round(1), generator.normal(0, 1, 70).round(1)
    wanted = np.mean((same[:, None] > other) + (same[:, None] == other) / 2)
    assert ranked_auc(same, other) == pytest.approx(wanted)


def test_pairs_of_one_age_play_no_part():
    """Outputs that hold the age and no person: a pair of near ages would look like one person."""
    generator = np.random.default_rng(0)
    people, age = np.repeat(np.arange(40), 4), np.tile([10.0, 13.0, 16.0, 40.0], 40)
    outputs = np.stack([age, np.ones(160)], axis=1) + generator.normal(0, 0.1, (160, 2))
    found = identity_leak(outputs, people, age, resamples=50)
    assert found["same_pairs"] == 40 * 4  # 10-16, 10-40, 13-40 and 16-40; 10-13 and 13-16 are too near
    assert found["auc"] == pytest.approx(50, abs=2)


def test_outputs_that_hold_the_person_leak():
    generator = np.random.default_rng(1)
    people, age = np.repeat(np.arange(30), 3), np.tile([5.0, 20.0, 40.0], 30)
    face = generator.normal(size=(30, 8))[people]
    found = identity_leak(face + generator.normal(0, 0.1, (90, 8)), people, age, resamples=50)
    assert found["auc"] > 99
    assert found["interval"][0] > 98
    assert found["people"] == 30


def test_pairs_of_two_models_are_not_compared():
    people, age = np.array([0, 0, 1, 1]), np.array([1.0, 20.0, 1.0, 20.0])
    outputs = np.eye(4)
    assert identity_leak(outputs, people, age, resamples=5)["other_pairs"] == 2
    alone = identity_leak(outputs, people, age, groups=np.array([0, 0, 1, 1]), resamples=5)
    assert (alone["other_pairs"], alone["auc"]) == (0, None)
