"""Arms from words: names fit for folders, titles for tables, controls, the grid, and refusals."""

from __future__ import annotations

import re

import pytest

from core_losses import LOSSES, build_loss, loss_options
from finetune.cli.console import reset
from finetune.errors import UsageError
from finetune.experiments.config import ComparisonConfig
from finetune.experiments.study.arm_names import MARGIN_HEADS, word_of
from finetune.experiments.study.arms import build_arms, grid_arm
from finetune.training.config import LossConfig


def names(*words: str, **options) -> list[str]:
    return [arm.name for arm in build_arms(words, **options)]


def test_the_baseline_is_first_wherever_it_is_listed():
    assert names("crl", "cel", controls=False) == ["cel", "crl"]
    assert names("crl", controls=False) == ["cel", "crl"]
    assert names(controls=False) == ["cel"]


def test_without_the_baseline_only_what_is_listed():
    assert names("nllr", baseline=False, controls=False) == ["nllr"]
    assert names("crl", "cel", baseline=False, controls=False) == ["crl", "cel"]
    assert names("crl", baseline=False, smoothing=0) == ["crl", "focal", "cel-lr-mean-crl"]
    with pytest.raises(UsageError, match="nothing is left to train"):
        build_arms([], baseline=False, controls=False)


def test_controls_are_added_where_they_are_not_listed():
    assert names("crl") == ["cel", "crl", "focal", "cel-smoothing0.1", "cel-lr-mean-crl"]
    assert names("focal:gamma=1", "cel:label_smoothing=0.2") == ["cel", "focal-gamma1", "cel-smoothing0.2"]
    assert names("crl", smoothing=0, lr_match=()) == ["cel", "crl", "focal"]
    assert names("crl:label_smoothing=0.1", lr_match=("mean",))[1:] == [
        "crl-smoothing0.1",
        "focal",
        "cel-smoothing0.1",
    ]


def test_a_matched_arm_is_cross_entropy_and_knows_its_partner():
    matched = build_arms(["crl:alpha=1:beta=0.5", "crl"], lr_match=("ratio", "mean"))[-4:]
    assert [(arm.matches, arm.matches_by) for arm in matched] == [
        ("crl-alpha1-beta0.5", "mean"),
        ("crl-alpha1-beta0.5", "ratio"),
        ("crl", "mean"),
        ("crl", "ratio"),
    ]
    assert all(arm.loss == LossConfig("cel") for arm in matched)
    assert matched[0].title == "CE, lr matched to CRL (alpha 1, beta 0.5, mean factor)"
    assert matched[3].title == "CE, lr matched to CRL (ratio of sums)"


def test_the_grid_has_no_doubles_and_its_arms_have_no_controls():
    found = names("crl", grid=True, grid_alphas=(1.0, 1.5), grid_betas=(0.0, 0.5, 1.0))
    assert found == [
        *["cel", "crl", "focal", "cel-smoothing0.1", "cel-lr-mean-crl"],
        *["crl-alpha1-beta0.5", "crl-alpha1.5-beta0.5", "crl-alpha1-beta1"],
    ]
    assert grid_arm(1.5, 0.0) == "cel"
    assert len(names("crl", controls=False, grid=True)) == 1 + 20
    assert names("crl:beta=0.5", controls=False, grid=True).count("crl-alpha1.5-beta0.5") == 1


@pytest.mark.parametrize(("alphas", "betas"), [((1.0,), (0.0,)), ((1.0,), ()), ((), (1.0,))])
def test_a_grid_without_cells_is_refused(alphas, betas):
    with pytest.raises(UsageError, match="grid needs an alpha and a beta above 0"):
        build_arms(["crl"], grid=True, grid_alphas=alphas, grid_betas=betas)


def test_every_arm_says_all_parameters_of_its_loss():
    for arm in build_arms([*LOSSES], controls=False):
        module = build_loss(arm.loss.name, **arm.loss.parameters())
        for key, value in loss_options(arm.loss.name).items():
            assert getattr(module, key) == arm.loss.options.get(key) == value
    assert build_arms(["crl"], controls=False)[1].loss == LossConfig("crl", {"alpha": 1.5, "beta": 1.0})


def test_titles_are_what_tables_show():
    words = ["nllr", "nllr:clamp=0", "nllr:clamp=1e-3", "crl:clamp=1e-7", "focal", "tce", "dualce:beta=0.5"]
    arms = build_arms(words, lr_match=())
    assert [arm.title for arm in arms] == [
        *["CE", "NLLR", "NLLR, exact", "NLLR (clamp 0.001)", "CRL (alpha 1.5, beta 1, clamp 1e-07)"],
        *["focal (gamma 2)", "TCE (a 0.8)", "DualCE (alpha 1, beta 0.5)"],
        "CE, label smoothing 0.1",
    ]


def test_names_are_folders_on_every_system():
    arms = build_arms([*LOSSES, "nllr:clamp=0", "crl:alpha=0.25"], grid=True)
    assert all(re.fullmatch(r"[a-z0-9._-]+", arm.name) for arm in arms)
    assert len({arm.name for arm in arms}) == len({arm.title for arm in arms}) == len(arms)


def test_margin_heads_are_arms_with_all_of_their_options():
    arms = build_arms([*MARGIN_HEADS, "lsoftmax:margin=2"], controls=False)[1:]
    assert [arm.head for arm in arms] == [*MARGIN_HEADS, "lsoftmax"]
    assert [arm.name for arm in arms] == [*MARGIN_HEADS, "lsoftmax-margin2"]
    assert arms[0].head_options["margin"] == 4
    assert arms[-1].title == "L-Softmax (m 2)"
    assert all(arm.loss == LossConfig("cel") for arm in arms)
    with pytest.raises(UsageError, match="does not take the option gamma"):
        build_arms(["lsoftmax:gamma=2"])


ORDERED = {
    "olog": ("olog", "Ordered log loss"),
    "mean_variance": ("mean_variance", "Mean-variance (mean 0.2, variance 0.05)"),
    "corn": ("corn", "CORN"),
    "cumulative:dropout=0.2": ("cumulative-dropout0.2", "Cumulative logits (dropout 0.2)"),
    "olog:head=cumulative": ("olog-cumulative", "Ordered log loss, Cumulative logits"),
    "year_laplace": ("year_laplace", "Laplace years"),
    "crl:head=year_logistic": ("crl-year_logistic", "CRL (alpha 1.5, beta 1), Logistic years"),
    "crl:head=corn": ("crl-corn", "CRL (alpha 1.5, beta 1), CORN"),
    "cel:targets=sord": ("cel-sord", "CE, SORD targets (width 1)"),
    "crl:targets=gaussian:target_width=4:distance=years": (
        "crl-gaussian-width4-years",
        "CRL (alpha 1.5, beta 1), Gaussian targets (width 4 years)",
    ),
    "nllr:targets=triangular:head=corn": (
        "nllr-triangular-corn",
        "NLLR, CORN, triangular targets (width 0.1)",
    ),
}


def test_what_reads_the_order_of_classes_is_an_arm_with_a_name_and_a_title():
    arms = build_arms([*ORDERED], baseline=False, controls=False)
    assert {word: (arm.name, arm.title) for word, arm in zip(ORDERED, arms, strict=True)} == ORDERED
    assert [word_of(arm.name) for arm in arms] == [*ORDERED]
    by_name = {arm.name: arm for arm in arms}
    assert [arm.head for arm in arms if arm.loss == LossConfig("cel")] == [
        "corn",
        "cumulative",
        "year_laplace",
    ]
    assert by_name["crl-corn"].loss == LossConfig("crl").resolved()
    rows = by_name["crl-gaussian-width4-years"].loss.rows((1.0, 5.0, 10.0))
    assert rows[1, 2] < rows[1, 0] < rows[1, 1]


def test_controls_at_a_learning_rate_are_those_of_plain_losses(capsys):
    reset()
    arms = build_arms(["crl", "crl:targets=sord", "crl:head=corn"])
    assert [arm.matches for arm in arms if arm.matches] == ["crl"]
    assert "crl-sord has no control at its rate" in capsys.readouterr().out
    assert not {"olog", "mean_variance"} & {*ComparisonConfig().losses}


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["clr"], r"did you mean crl.*losses: cel.*margin heads: lsoftmax"),
        (
            ["crl:gamma=2"],
            "crl takes alpha, beta, clamp, label_smoothing, targets, .*, head, not gamma",
        ),
        (["crl:alpha=-1"], "alpha must be a finite number >= 0"),
        (["crl:alpha=nan"], "alpha of crl:alpha=nan must be a finite number, got nan"),
        (["focal:gamma=two"], "gamma must be a number, got two"),
        (["cel:label_smoothing=1"], r"label_smoothing must lie in \[0, 1\)"),
        (["crl:alpha"], "must read NAME or NAME:OPTION=VALUE"),
        (["crl:alpha=1:alpha=2"], "gives an option twice"),
        (["crl", "crl:alpha=1.5"], "crl stands twice"),
        (["cel", "cel"], "cel stands twice"),
        (["lsoftmax:margin=0"], "losses: lsoftmax:margin=0: .*margin must be a whole number from 1 to 4"),
        (["cosface:scale=0"], "scale must be a finite number > 0"),
        (["cosface:scale=-1"], "scale must be a finite number > 0"),
        (["arcface:margin=2"], r"margin must be in \[0, pi / 2\]"),
        (["cel:targets=beta"], "targets must be one of hard, sord, gaussian, triangular, got beta"),
        (["cel:targets=sord:target_width=0"], "target_width of sord targets must be a finite number > 0"),
        (["cel:target_width=2"], "target_width changes nothing with targets hard"),
        (["cel:targets=sord:label_smoothing=0.1"], "targets sord and label_smoothing both soften"),
        (["cel:targets=triangular:distance=years"], "triangular, which reach the neighbours"),
        (
            ["cel:head=dcl"],
            "a loss stands on the study's own head or on corn, cumulative, year_laplace, year_logistic, got",
        ),
        (["corn", "cel:head=corn"], "corn stands twice"),
        (["corn:dropout=1"], r"losses: corn:dropout=1: head.dropout must lie in \[0, 1\)"),
        (["asoftmax:blend_start=-1"], "blend_start must be a finite number >= 0"),
    ],
)
def test_what_cannot_be_an_arm_is_refused(words, said):
    with pytest.raises(UsageError, match=said):
        build_arms(words)


def test_unknown_matchings_are_refused():
    with pytest.raises(UsageError, match="lr_match takes mean, ratio"):
        build_arms(["crl"], lr_match=("median",))
