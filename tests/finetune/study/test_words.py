"""The sentences of a conclusion: a claim only where the tests allow one, and their limits every time."""

from __future__ import annotations

import numpy as np

from finetune.study.arms import build_arms
from finetune.study.table import Measure, summarise_study
from tests.finetune.study.made_up import cells_of

MEASURES = [Measure("accuracy", "accuracy (%)")]
ARMS = build_arms(["crl"], smoothing=0)
NOISE = np.random.default_rng(0).normal(0, 0.1, (4, 20))


def said(seeds: int = 10, **shifts: float) -> str:
    """The conclusion where arms are shifted from cross-entropy by so many points."""
    matched = shifts.pop("matched", 0.0)
    names = {"cel": 0.0, "crl": 0.0, "focal": 0.0, **shifts, "cel-lr-mean-crl": matched}
    scores = {
        name: (84 + shift + NOISE[row, :seeds]).tolist() for row, (name, shift) in enumerate(names.items())
    }
    return " ".join(summarise_study(cells_of(scores), ARMS, MEASURES)["conclusion"])


def test_a_large_difference_is_claimed_with_its_direction_interval_and_p():
    words = said(crl=1.0)
    assert "CRL (alpha 1.5, beta 1) is higher than CE in accuracy: +" in words
    assert "over 10 paired seeds, Holm-adjusted paired t-test p < 0.0001" in words
    assert "No further difference from CE in accuracy was shown for focal (gamma 2)" in words
    assert "is lower than CE" in said(crl=-1.0)
    assert "better" not in words


def test_small_differences_are_not_shown_and_not_denied():
    words = said()
    assert "No difference from CE in accuracy was shown for" in words
    assert "That does not show that there is none: the 95 % intervals" in words
    assert " higher than CE" not in words


def test_the_matched_control_tells_step_size_from_more():
    assert "a longer step alone did not reach it" in said(crl=1.0)
    assert "given to all images alike, scored higher" in said(matched=1.0)
    assert "did not reach it" not in said(matched=1.0)
    assert "may be one of step size" in said(crl=1.0, matched=1.0)
    assert "between them was shown." in said()


def test_few_seeds_are_told_and_one_concludes_nothing():
    assert "cannot fall below p = 0.0625 with 5 pairs, so it can show nothing at 0.05" in said(seeds=5)
    assert "cannot fall below p = 0.0312 with 6 pairs, and Holm's correction" in said(seeds=6)
    assert "Wilcoxon" not in said(seeds=10)
    assert "rest on 3 pairs of seeds" in said(seeds=3)
    words = said(seeds=1, crl=5.0)
    assert words.startswith(
        "Every comparison rests on a single seed, so nothing can be concluded about accuracy"
    )
    assert "higher" not in words


def test_an_arm_with_one_seed_beside_others_is_named():
    cells = [
        cell for cell in cells_of({"cel": [84.0, 84.2, 84.1], "focal": [84.3, 84.0, 84.4], "crl": [90.0]})
    ]
    words = " ".join(summarise_study(cells, ARMS, MEASURES)["conclusion"])
    assert "Nothing is concluded about CRL (alpha 1.5, beta 1): a single seed in common with CE." in words
    assert "This is about 1 to 3 training seeds per arm" in words


def test_without_the_baseline_there_is_no_conclusion():
    conclusion = summarise_study(cells_of({"crl": [84.0, 85.0]}), ARMS, MEASURES)["conclusion"]
    assert conclusion == ["No arm has a seed in common with CE, so nothing can be concluded."]


def test_where_the_two_tests_part_it_is_told():
    """One seed of eight far off: the signed ranks see seven of one sign, the t-test sees the spread."""
    scores = {
        "cel": [84.0] * 12,
        "crl": [84.1, 84.2, 84.3, 84.4, 84.5, 84.6, 84.7, 84.8, 84.9, 85.0, 85.1, 99.9],
    }
    arms = build_arms(["crl"], controls=False)
    words = " ".join(summarise_study(cells_of(scores), arms, MEASURES)["conclusion"])
    assert "No difference from CE in accuracy was shown for CRL" in words
    assert "Wilcoxon's test would show 1 that is not shown by the t-test." in words
