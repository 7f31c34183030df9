from __future__ import annotations

import numpy as np
import pytest

from agecls.audit.config import AuditConfig
from agecls.audit.fairness import fairness, gap, standardised_means
from tests.agecls.audit.made_answers import answers, spread_answers

CONFIG = AuditConfig(resamples=200, permutations=200)


def test_standardised_means_by_hand():
    values = np.array([1.0, 1.0, 5.0, 2.0, 6.0, 6.0])
    cell = np.array([0, 0, 0, 1, 1, 1])
    age = np.array([0, 0, 1, 0, 1, 1])
    # Three images of each age in all: both means weigh the ages alike.
    assert standardised_means(values, cell, age, (2, 2)).tolist() == [3.0, 4.0]


def test_an_age_that_a_cell_lacks_is_left_out_for_all():
    values, cell, age = np.array([1.0, 9.0, 2.0]), np.array([0, 0, 1]), np.array([0, 1, 0])
    assert standardised_means(values, cell, age, (2, 2)).tolist() == [1.0, 2.0]
    assert np.isnan(standardised_means(values[1:], cell[1:], age[1:], (2, 2))).all()


def test_cells_that_differ_by_age_alone_have_no_gap_at_equal_ages():
    generator = np.random.default_rng(3)
    old = generator.random(400) < np.where(np.arange(400) < 200, 0.2, 0.8)
    values, label = np.where(old, 6.0, 2.0), np.repeat(["a", "b"], 200)
    found = gap(values, label, old.astype(int), np.arange(400), CONFIG)
    assert found is not None
    assert found["raw"] > 2
    assert found["standardised"] == pytest.approx(0, abs=1e-12)


def test_shuffled_labels_give_what_chance_gives():
    generator = np.random.default_rng(0)
    label, strata = np.repeat(["a", "b"], 200), np.zeros(400, dtype=int)
    chance = gap(generator.normal(size=400), label, strata, np.arange(400), CONFIG)
    assert chance is not None
    expected = np.sqrt(2 / np.pi) * np.sqrt(2 / 200)  # the mean of |difference of two means|
    assert chance["shuffled"] == pytest.approx(expected, rel=0.2)
    real = gap(generator.normal(size=400) + (label == "a"), label, strata, np.arange(400), CONFIG)
    assert real is not None
    assert real["p"] == pytest.approx(1 / 201)
    assert real["standardised"] > real["shuffled_high"]
    assert real["interval"][0] < real["standardised"] < real["interval"][1]


def test_labels_are_dealt_out_to_people_not_to_images():
    """Forty people of ten images: as images they would seem to differ far beyond chance."""
    generator = np.random.default_rng(1)
    own = np.repeat(generator.normal(size=80), 10)
    people, label = np.repeat(np.arange(80), 10), np.repeat(["a", "b"], 400)
    strata = np.zeros(800, dtype=int)
    by_people = gap(own, label, strata, people, CONFIG)
    by_images = gap(own, label, strata, np.arange(800), CONFIG)
    assert by_people is not None
    assert by_images is not None
    assert by_people["shuffled"] > 2 * by_images["shuffled"]


def test_cells_below_thirty_minors_have_counts_alone():
    camera = ["w"] * 40 + ["x"] * 40 + ["y"] * 60
    age = [16] * 30 + [30] * 10 + [16] * 40 + [16] * 29 + [30] * 31
    [row] = fairness(answers(age, [20.0] * 140, camera=camera), CONFIG)
    by = {cell["value"]: cell for cell in row["cells"]}
    assert by["w"]["mae"] == pytest.approx((30 * 4 + 10 * 10) / 40)
    assert by["w"]["bias"] == pytest.approx((30 * 4 - 10 * 10) / 40)
    assert by["x"]["fpr"] == 0.0
    assert (by["y"]["images"], by["y"]["minor_units"]) == (60, 29)
    assert (by["y"]["mae"], by["y"]["bias"], by["y"]["fpr"]) == (None, None, None)
    assert row["gaps"]["mae"]["cells"] == row["gaps"]["fpr"]["cells"] == ["w", "x"]


def test_one_cell_is_no_gap():
    [row] = fairness(answers([16] * 50, [20.0] * 50, camera=["x"] * 30 + ["y"] * 20), CONFIG)
    assert row["gaps"] == {"mae": None, "bias": None, "fpr": None}


def test_every_two_labels_are_crossed_once():
    found = spread_answers(120, camera=["x", "y", "y"] * 40, light=["day", "night"] * 60)
    names = [row["label"] for row in fairness(found, AuditConfig(resamples=2, permutations=2))]
    assert names == ["sex", "camera", "light", "sex x camera", "sex x light", "camera x light"]


def test_a_gap_that_is_not_defined_has_no_p():
    label, age = np.repeat(["a", "b"], 40), np.repeat([14, 16], 40)
    found = gap(np.repeat([1.0, 0.0], 40), label, age, np.arange(80), CONFIG)
    assert found is not None
    assert np.isnan(found["standardised"])
    assert found["p"] is None
