"""The sentences of a conclusion: a claim only where the tests allow one, and their limits every time."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from finetune.experiments.study.arms import build_arms
from finetune.experiments.study.conclusion import at_chance, without_bound
from finetune.experiments.study.statistics import Measure, summarise_study
from finetune.metrics.learning import ONE_CLASS
from tests.finetune.experiments.study.made_up import cell_of, cells_of

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


def test_a_study_in_which_nothing_was_learned_says_so():
    nothing = cells_of({"cel": [20.0], "crl": [20.5, 19.5]})
    assert "nothing was learned" in at_chance(nothing, 20.0)
    assert at_chance([*nothing, *cells_of({"focal": [30.0]})], 20.0) == ""
    lost = [replace(cell, scores={"accuracy": None}) for cell in nothing]
    assert "(0.00 against 20.00 %)" in at_chance(lost, 20.0)
    assert at_chance(nothing, None) == at_chance([], 20.0) == ""
    assert at_chance(cells_of({"cel": [100.0]}), 100.0) == f"Take care: {ONE_CLASS}."


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


BEHIND = "cross-entropy at that learning rate did not reach it."
DOUBT = "may be one of step size"
NOT_SHOWN = "the loss itself was not shown to differ from cross-entropy at the study's learning rate."


@pytest.mark.parametrize(
    ("whole", "matched", "verdict", "doubted"),
    [
        (1.0, 0.0, BEHIND, False),
        (1.0, 2.0, "cross-entropy at that learning rate scored higher still.", True),
        (1.0, 1.0, "no difference in accuracy between them was shown.", True),
        (-1.0, 0.0, "cross-entropy at that learning rate did not fall as low.", False),
        (-1.0, -2.0, "cross-entropy at that learning rate scored lower still.", True),
        (-1.0, -1.0, "no difference in accuracy between them was shown.", True),
        (0.0, -1.0, f"cross-entropy at that learning rate scored lower; {NOT_SHOWN}", False),
        (0.0, 1.0, f"cross-entropy at that learning rate scored higher; {NOT_SHOWN}", False),
        (0.0, 0.0, "no difference in accuracy between them was shown.", False),
    ],
)
def test_the_matched_control_tells_step_size_from_more(whole, matched, verdict, doubted):
    words = said(crl=whole, matched=matched)
    assert (
        "CRL (alpha 1.5, beta 1) minus cross-entropy at a learning rate 1 times as high (mean factor) is"
        in words
    )
    assert verdict in words
    assert (DOUBT in words) == doubted
    for other in {BEHIND, "scored higher", "scored lower", "fall as low"}:
        assert (other in words) == (other in verdict)


def controlled(*, adaptive: bool) -> list[str]:
    """What is said of a CRL that one of its two controls did not stay behind."""
    arms = build_arms(["crl"], smoothing=0, lr_match=("mean", "ratio"))
    shifts = {"cel": 0.0, "crl": 1.0, "cel-lr-mean-crl": 0.0, "cel-lr-ratio-crl": 1.0}
    rates = {"cel-lr-mean-crl": 1.53, "cel-lr-ratio-crl": 1.1}
    cells = cells_of(
        {name: (84 + shift + NOISE[row]).tolist() for row, (name, shift) in enumerate(shifts.items())}
    )
    cells = [replace(cell, lr_factor=rates.get(cell.arm, 1.0)) for cell in cells]
    return summarise_study(cells, arms, MEASURES, adaptive=adaptive)["conclusion"]


def test_two_controls_that_disagree_are_told_apart_by_their_rates_and_the_doubt_once():
    words = controlled(adaptive=False)
    (mean,) = (line for line in words if "at a learning rate 1.53 times as high (mean factor)" in line)
    (ratio,) = (line for line in words if "at a learning rate 1.1 times as high (ratio of sums)" in line)
    assert "did not reach it" in mean
    assert "no difference in accuracy between them" in ratio
    assert sum(DOUBT in line for line in words) == 1
    assert DOUBT in words[words.index(ratio) + 1]


def test_an_optimiser_that_divides_by_the_gradients_size_has_no_step_size_to_blame():
    words = " ".join(controlled(adaptive=True))
    assert "a learning rate other than the study's may change cross-entropy as much as CRL" in words
    assert "step size" not in words


def test_arms_with_fewer_seeds_are_named_with_their_n():
    scores = {"cel": [84.0, 84.2, 84.1], "crl": [84.3, 84.4], "focal": [84.0, 84.1, 84.3]}
    words = summarise_study(cells_of(scores), ARMS, MEASURES)["conclusion"]
    assert "CRL (alpha 1.5, beta 1) with 2" in words[-2]
    assert "CE, lr matched to CRL (mean factor) with none" in words[-2]
    assert "focal" not in words[-2]
    assert "Not every arm" not in said()


def test_noughts_have_no_sign_and_equal_differences_no_interval():
    scores = {"cel": [84.0, 84.2, 84.1], "crl": [85.0, 85.2, 85.1], "focal": [84.0, 84.2, 84.1]}
    words = " ".join(summarise_study(cells_of(scores), ARMS, MEASURES)["conclusion"])
    alike = "(no interval: all seeds differ by the same, 3 paired seeds; the t-test has no p)"
    assert f"CRL (alpha 1.5, beta 1) minus CE is +1.00 points {alike}." in words
    equal = alike.replace("differ by the same", "are equal")
    assert f"focal (gamma 2) minus CE is 0.00 points {equal}." in words
    assert "intervals of these" not in words
    nearly = {"cel": [84.0, 84.2, 84.1], "crl": [84.0, 84.2, 84.099], "focal": [84.0, 84.2, 84.1]}
    words = " ".join(summarise_study(cells_of(nearly), ARMS, MEASURES)["conclusion"])
    assert "reach from 0.00 to 0.00 points" in words
    assert "-0.00" not in words
    assert "+0.00" not in words


def test_few_seeds_are_told_and_one_concludes_nothing():
    assert "cannot fall below p = 0.0625 with 5 pairs, so it can show nothing at 0.05" in said(seeds=5)
    six = "Holm's correction for 3 comparisons lifts that to 0.0938 at the least, so it can show nothing"
    assert six in said(seeds=6)
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


def test_a_study_without_cross_entropy_compares_nothing_with_it():
    arms = build_arms(["crl", "nllr"], baseline=False, smoothing=0)
    scores = {arm.name: [84.0, 85.0, 86.0] for arm in arms}
    summary = summarise_study(cells_of(scores), arms, MEASURES)
    assert summary["conclusion"] == ["Cross-entropy was left out, so nothing is compared with it."]
    assert summary["family"] == 0


def test_cross_entropy_alone_is_compared_with_nothing():
    summary = summarise_study(cells_of({"cel": [84.0, 85.0]}), build_arms([], controls=False), MEASURES)
    assert summary["conclusion"] == ["Only cross-entropy (CE) was trained, so nothing is compared."]


def test_trainings_that_diverged_are_told_and_scored_as_they_are():
    scores = {"cel": [84.0, 84.2, 84.1], "crl": [84.3, 10.0, None], "focal": [84.0, 84.1, float("nan")]}
    cells = [
        replace(cell, facts={"diverged": cell.arm == "crl" and cell.seed > 0}) for cell in cells_of(scores)
    ]
    summary = summarise_study(cells, ARMS, MEASURES)
    words = " ".join(summary["conclusion"])
    assert "2 of 3 trainings of CRL (alpha 1.5, beta 1) diverged; what they scored counts as it is." in words
    assert "1 of 3 trainings of CRL (alpha 1.5, beta 1) ended without a finite accuracy" in words
    assert "1 of 3 trainings of focal (gamma 2) ended without" in words
    assert "of CE" not in words
    crl = summary["arms"][1]
    assert (crl["n"], crl["diverged"], crl["unscored"]) == (3, 2, 1)
    assert crl["measures"]["accuracy"]["values"] == {"0": 84.3, "1": 10.0}
    assert "2 of 3 trainings" in " ".join(summarise_study(cells[3:], ARMS, MEASURES)["conclusion"])


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


def test_an_arm_whose_loss_falls_without_bound_is_named_with_its_trainings():
    arms = [arm for arm in build_arms(["nllr:clamp=0"], smoothing=0) if not arm.matches]
    down = [{"train_loss": loss} for loss in (-1.0, -40.0, -9_000.0)]
    worse = [{**row, "test_error": error} for row, error in zip(down, (70.0, 58.0, 62.0), strict=True)]
    cells = [cell_of(arms[0].name, seed, 50.0) for seed in range(2)]
    cells += [cell_of(arms[1].name, 0, 38.0, history=worse), cell_of(arms[1].name, 1, 40.0)]
    (said,) = without_bound(cells, arms)
    assert said.startswith(
        "NLLR, exact: in 1 of 2 trainings the loss fell without bound while the accuracy fell"
    )
    assert without_bound(cells[:2], arms) == []
