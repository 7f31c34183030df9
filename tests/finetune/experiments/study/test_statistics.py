"""The statistics of a study: against scipy, by pairs of seeds only, corrected over the right family."""

from __future__ import annotations

import json

import numpy as np
import pytest
from scipy import stats

from finetune.experiments.study.arms import build_arms
from finetune.experiments.study.statistics import Measure, is_adaptive, summarise_study
from finetune.metrics.bootstrap import holm
from finetune.runs.files import json_text
from tests.finetune.experiments.study.made_up import cell_of, cells_of, study_of

MEASURES = [Measure("accuracy", "accuracy (%)"), Measure("macro_f1", "macro F1 (%)")]
ARMS = build_arms(["nllr", "crl"], smoothing=0)
SCORES = {
    "cel": [84.1, 83.7, 85.2, 84.8, 84.0, 83.9],
    "nllr": [83.2, 83.5, 84.9, 83.9, 83.8, 83.0],
    "crl": [84.6, 83.9, 85.1, 85.6, 84.9, 84.0],
    "focal": [84.0, 83.8, 85.0, 84.9, 84.1, 83.7],
    "cel-lr-mean-crl": [84.5, 84.0, 85.0, 85.7, 84.8, 84.1],
}


def differences(summary, key: str = "accuracy"):
    return {row["name"]: row["measures"][key]["difference"] for row in summary["arms"]}


def test_every_number_is_that_of_scipy():
    summary = summarise_study(cells_of(SCORES), ARMS, MEASURES)
    found = differences(summary)
    assert found["cel"] is None
    base = np.array(SCORES["cel"])
    t, w = [], []
    for name in ("nllr", "crl", "focal", "cel-lr-mean-crl"):
        other = np.array(SCORES[name])
        test = stats.ttest_rel(other, base)
        interval = test.confidence_interval(0.95)
        row = found[name]
        assert row["mean"] == pytest.approx((other - base).mean())
        assert row["sd"] == pytest.approx((other - base).std(ddof=1))
        assert row["interval"] == pytest.approx([interval.low, interval.high])
        t.append(test.pvalue)
        every = stats.PermutationMethod(n_resamples=np.inf)
        w.append(stats.wilcoxon(np.round(other - base, 9), method=every).pvalue)
        assert (row["p_t"], row["p_wilcoxon"]) == pytest.approx((t[-1], w[-1]))
    compared = ["nllr", "crl", "focal", "cel-lr-mean-crl"]
    assert [found[name]["p_t_holm"] for name in compared] == pytest.approx(holm(t).tolist())
    assert [found[name]["p_wilcoxon_holm"] for name in compared] == pytest.approx(holm(w).tolist())
    assert summary["family"] == 4
    assert (found["nllr"]["higher"], found["nllr"]["equal"], found["nllr"]["lower"]) == (0, 0, 6)


def test_an_arm_is_summed_up_by_mean_spread_interval_and_error():
    row = summarise_study(cells_of(SCORES), ARMS, MEASURES)["arms"][0]
    accuracy = row["measures"]["accuracy"]
    assert accuracy["values"] == {str(seed): value for seed, value in enumerate(SCORES["cel"])}
    assert accuracy["sd"] == pytest.approx(np.std(SCORES["cel"], ddof=1))
    low, high = accuracy["interval"]
    assert row["error"]["mean"] == pytest.approx(100 - accuracy["mean"])
    assert row["error"]["interval"] == [100 - high, 100 - low]
    assert (row["n"], row["seconds"], row["devices"], row["gradient_factor"]) == (6, 2.0, ["cpu"], 1.5)


def test_only_seeds_that_both_arms_have_are_paired():
    cells = [cell for cell in cells_of(SCORES) if (cell.arm, cell.seed) not in {("cel", 0), ("crl", 5)}]
    row = differences(summarise_study(cells, ARMS, MEASURES))["crl"]
    expected = stats.ttest_rel(SCORES["crl"][1:5], SCORES["cel"][1:5]).pvalue
    assert row["n"] == 4
    assert row["p_t"] == pytest.approx(expected)


def test_a_matched_control_is_compared_with_its_own_loss_in_a_family_of_its_own():
    (row,) = summarise_study(cells_of(SCORES), ARMS, MEASURES)["controls"]
    assert (row["arm"], row["control"]) == ("crl", "cel-lr-mean-crl")
    found = row["measures"]["accuracy"]
    assert found["mean"] == pytest.approx(np.mean(SCORES["crl"]) - np.mean(SCORES["cel-lr-mean-crl"]))
    assert found["p_t_holm"] == found["p_t"]


def test_an_arm_that_never_differs_has_no_p_but_counts_in_the_family():
    equal = summarise_study(cells_of(SCORES | {"focal": SCORES["cel"]}), ARMS, MEASURES)
    found = differences(equal)
    assert (found["focal"]["p_t"], found["focal"]["p_wilcoxon"]) == (None, None)
    assert found["focal"]["equal"] == 6
    assert not found["focal"]["shown"]
    assert found["nllr"]["p_t_holm"] == pytest.approx(4 * found["nllr"]["p_t"])
    shifted = summarise_study(cells_of(SCORES | {"focal": [x + 0.3 for x in SCORES["cel"]]}), ARMS, MEASURES)
    assert differences(shifted)["focal"]["p_t"] is None
    assert differences(shifted)["focal"]["p_wilcoxon"] == pytest.approx(2 / 2**6)
    assert not differences(shifted)["focal"]["shown"]


def test_scores_that_are_missing_or_not_finite_are_no_scores():
    cells = [*cells_of({"cel": [84.0, 85.0], "crl": [None, float("nan")]}), cell_of("nllr", 1, 84.0)]
    summary = summarise_study(cells, ARMS, MEASURES)
    found = {row["name"]: row["measures"]["accuracy"] for row in summary["arms"]}
    assert (found["crl"]["n"], found["crl"]["mean"], found["crl"]["difference"]) == (0, None, None)
    assert found["nllr"]["difference"]["n"] == 1
    assert found["nllr"]["difference"]["interval"] is None
    assert found["nllr"]["difference"]["p_t"] is None
    assert summary["family"] == 1


def test_the_summary_is_json_and_does_not_depend_on_the_order_of_the_cells():
    cells = study_of(ARMS)
    summary = summarise_study(cells, ARMS, MEASURES)
    assert json.loads(json_text(summary)) == summary
    assert summarise_study(cells[::-1], ARMS, MEASURES) == summary


def test_the_summary_says_whether_the_optimiser_is_adaptive():
    assert summarise_study(cells_of(SCORES), ARMS, MEASURES, adaptive=True)["adaptive"]
    assert not summarise_study(cells_of(SCORES), ARMS, MEASURES)["adaptive"]
    assert [is_adaptive(name) for name in ("sgd", "adam", "adamw", "rmsprop", "adadelta")] == [False] + 4 * [
        True
    ]


def test_a_study_without_a_measure_is_our_own_mistake():
    with pytest.raises(ValueError, match="at least one measure"):
        summarise_study([], ARMS, [])


def test_equal_arms_are_rarely_said_to_differ():
    """Whole studies of four equal arms over six seeds: at most about 5 % show anything."""
    rng = np.random.default_rng(3)
    arms = build_arms(["nllr", "crl", "focal"], controls=False)
    shown = 0
    for _ in range(150):
        common = rng.normal(84, 0.5, 6)
        scores = {arm.name: (common + rng.normal(0, 0.2, 6)).tolist() for arm in arms}
        summary = summarise_study(cells_of(scores), arms, MEASURES[:1])
        shown += any(row["shown"] for row in differences(summary).values() if row)
    assert shown / 150 < 0.1
