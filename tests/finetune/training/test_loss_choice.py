"""The chosen loss: one grammar, checked against the loss, and its old form."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from core_losses import LOSSES
from finetune.cli.options import parse_options
from finetune.errors import UsageError
from finetune.training.config import FitConfig, LossConfig


def chosen(*words: str | Path) -> LossConfig:
    return parse_options(FitConfig, [str(word) for word in words], prog="crl", about="")[0].loss


CRL = LossConfig("crl", {"alpha": 1})


@pytest.mark.parametrize(
    "words",
    [
        ("--loss.name", "crl", "--loss.options.alpha", "1"),
        ("--loss", "crl:alpha=1"),
        ("--loss=CRL:alpha=1",),
        ("--loss.name", "crl:alpha=1.0"),
        ("--loss", "crl", "--loss.options.alpha=1"),
        ("--loss.name", "crl", "--loss.alpha", "1"),
    ],
)
def test_every_way_to_write_a_loss_is_the_same_choice(words):
    assert chosen(*words) == CRL


@pytest.mark.parametrize(
    "text",
    [
        "loss: crl:alpha=1",
        "loss: {name: crl, options: {alpha: 1}}",
        "loss: {name: crl:alpha=1}",
        "loss: {name: crl, alpha: 1.0}",
        "loss:\n  name: crl\n  alpha: 1\n  beta: null\n  gamma: null\n  a: null\n  clamp: null",
    ],
)
def test_every_way_to_write_a_loss_in_a_file_is_the_same_choice(tmp_path, text):
    (tmp_path / "c.yaml").write_text(text, encoding="utf-8")
    assert chosen("--config", tmp_path / "c.yaml") == CRL


def test_another_loss_on_the_line_leaves_the_files_options_behind(tmp_path):
    (tmp_path / "c.yaml").write_text("loss: {name: crl, options: {alpha: 1}, label_smoothing: 0.1}\n")
    assert chosen("--config", tmp_path / "c.yaml", "--loss.name", "cel") == LossConfig(label_smoothing=0.1)
    assert chosen("--config", tmp_path / "c.yaml", "--loss", "crl").options == {}
    assert chosen("--config", tmp_path / "c.yaml", "--loss.options.beta", "2").options == {
        "alpha": 1,
        "beta": 2,
    }


def test_a_word_may_give_label_smoothing():
    assert LossConfig("crl:label_smoothing=0.1") == LossConfig("crl", label_smoothing=0.1)
    with pytest.raises(UsageError, match=r"label_smoothing must lie in \[0, 1\)"):
        FitConfig(loss=LossConfig("crl:label_smoothing=1"))


@pytest.mark.parametrize("value", ["much", "true"])
def test_label_smoothing_that_is_no_number_is_refused(value):
    with pytest.raises(UsageError, match=f"label_smoothing must be a number, got {value}"):
        LossConfig(f"crl:label_smoothing={value}")


@pytest.mark.parametrize(
    "config",
    [
        lambda: LossConfig("crl:alpha=1", {"alpha": 2}),
        lambda: LossConfig("crl:label_smoothing=0.1", label_smoothing=0.2),
    ],
)
def test_what_is_given_in_the_word_and_beside_it_is_refused(config):
    with pytest.raises(UsageError, match="which is given beside it too"):
        config()


@pytest.mark.parametrize(
    ("loss", "told"),
    [
        (
            LossConfig("crl", {"alhpa": 1}),
            r"crl takes alpha, beta, clamp, not alhpa \(did you mean alpha\?\)",
        ),
        (LossConfig("cce", {"alpha": 1}), "cce takes no options, not alpha"),
        (LossConfig("crl", {"alpha": "one"}), "alpha must be a number, got one"),
        (LossConfig("crl", {"alpha": True}), "alpha must be a number, got true"),
        (LossConfig("CEL2"), "did you mean 'cel'.*Known losses: cel, nllr"),
        (LossConfig("lsoftmax"), "lsoftmax is a head: --head.name lsoftmax"),
        (
            LossConfig(branches={"main": "crl:gamma=2"}),
            "loss.branches.main crl:gamma=2: crl takes alpha, beta",
        ),
        (LossConfig(branches={"main": "crl:beta"}), "loss.branches.main: .*must read NAME or"),
        (LossConfig(branches={"main": "focal:gamma=-1"}), "gamma must be a finite number >= 0"),
    ],
)
def test_what_a_loss_does_not_take_is_refused_with_what_it_takes(loss, told):
    with pytest.raises(UsageError, match=told):
        FitConfig(loss=loss)


@pytest.mark.parametrize("name", list(LOSSES))
def test_a_resolved_loss_says_every_option_and_is_built_the_same(name):
    loss = LossConfig(name)
    every = loss.resolved()
    assert every.options == {k: v for k, v in LOSSES[name].own_options().items() if v is not None}
    assert repr(every.build()) == repr(loss.build())
    assert every.resolved() == every


def test_whole_numbers_become_the_numbers_that_the_loss_has():
    built = LossConfig("crl", {"alpha": 2}).build()
    assert (type(built.alpha), built.alpha) == (float, 2.0)
    assert replace(CRL, name="crl").parameters() == {"alpha": 1.0}


def test_soft_targets_are_given_as_a_word_or_by_options():
    words = (
        "--loss.name",
        "crl",
        "--loss.targets",
        "gaussian",
        "--loss.target_width",
        "4",
        "--loss.distance",
    )
    both = [chosen("--loss", "crl:targets=gaussian:target_width=4:distance=years"), chosen(*words, "years")]
    assert both == [LossConfig("crl", targets="gaussian", target_width=4, distance="years")] * 2
    assert LossConfig("cel:targets=sord").resolved().target_width == 1.0
    assert LossConfig("cel").resolved().target_width is None
    assert LossConfig("cel").rows(range(3)) is None
    rows = both[0].rows((1.0, 5.0, 10.0))
    assert rows[0, 1] / rows[0, 0] == pytest.approx(0.606531, abs=1e-6)  # exp(-1/2): one width away


@pytest.mark.parametrize(
    ("loss", "said"),
    [
        (LossConfig("cel", target_width=2.0), "loss.target_width changes nothing with targets hard"),
        (LossConfig("cel", distance="years"), "loss.distance changes nothing with targets hard"),
        (LossConfig("cel:targets=sord", label_smoothing=0.1), "both soften the target: give one of them"),
        (
            LossConfig("cel:targets=triangular:target_width=1"),
            r"triangular targets must lie in \(0, 1\), got 1",
        ),
        (LossConfig("cel:targets=triangular:distance=years"), "triangular, which reach the neighbours"),
        (LossConfig(branches={"main": "cel:targets=sord"}), "soft targets are those of all branches"),
    ],
)
def test_soft_targets_that_cannot_be_are_refused(loss, said):
    with pytest.raises(UsageError, match=said):
        FitConfig(loss=loss)


def test_a_word_cannot_give_targets_of_another_kind():
    with pytest.raises(UsageError, match="targets must be one of hard, sord, gaussian, triangular, got beta"):
        LossConfig("cel:targets=beta")
    with pytest.raises(UsageError, match="target_width must be a number, got wide"):
        LossConfig("cel:targets=sord:target_width=wide")
    with pytest.raises(UsageError, match="gives targets, which is given beside it too"):
        LossConfig("cel:targets=sord", targets="gaussian")
