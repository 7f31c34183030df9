"""The options that all tasks share, on a command line and in a file."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

import pytest

from finetune.cli.options import load_config, parse_options
from finetune.errors import UsageError
from finetune.experiments.config import CompareConfig, ComparisonConfig, arms_of, seeds_of


@dataclass(frozen=True)
class DataPart:
    """Data.

    Args:
        root: where they lie.
    """

    root: str = ""


@dataclass(frozen=True)
class OwnConfig:
    """A study's own half.

    Args:
        device: what it runs on.
    """

    data: DataPart = field(default_factory=DataPart)
    device: str = "auto"


@dataclass(frozen=True)
class WholeConfig(OwnConfig, ComparisonConfig):
    """Both halves."""

    def __post_init__(self) -> None:
        ComparisonConfig.__post_init__(self)


def parse(*argv: str) -> WholeConfig:
    return parse_options(WholeConfig, argv, prog="study", about="")[0]


def test_a_command_inherits_the_options(capsys):
    config = parse(
        "--losses", "cel,crl:alpha=1:beta=0.5", "--seeds", "3", "--first_seed", "4", "--no-controls"
    )
    assert [arm.name for arm in arms_of(config)] == ["cel", "crl-alpha1-beta0.5"]
    assert list(seeds_of(config)) == [4, 5, 6]
    assert parse("--losses", "crl", "--lr_match", "mean,ratio").lr_match == ("mean", "ratio")
    assert [arm.name for arm in arms_of(parse("--losses=nllr", "--no-baseline", "--no-controls"))] == ["nllr"]
    with pytest.raises(UsageError, match="nothing is left to train"):
        parse("--losses=[]", "--no-baseline", "--no-controls")
    assert parse("--lr_match", "[]").lr_match == ()
    assert parse("--grid", "--grid_alphas", "0,1").grid_alphas == (0.0, 1.0)
    with pytest.raises(SystemExit):
        parse("--help")
    told = " ".join(capsys.readouterr().out.split())
    assert "trainings of every loss" in told
    assert "what it runs on" in told


def test_a_file_may_hold_them(tmp_path: Path):
    file = tmp_path / "study.yaml"
    file.write_text("losses: [nllr, 'crl:alpha=1']\nseeds: 2\nlr_match: []\n")
    config = load_config(WholeConfig, file)
    assert config == WholeConfig(losses=("nllr", "crl:alpha=1"), seeds=2, lr_match=())


def test_a_grid_of_cross_entropy_alone_is_refused():
    with pytest.raises(UsageError, match=r"grid_betas \[0\.0\]: add a beta"):
        parse("--grid", "--grid_betas", "0")


def test_all_broken_rules_are_told_at_once():
    with pytest.raises(UsageError) as refused:
        ComparisonConfig(
            losses=("clr",),
            seeds=0,
            first_seed=-1,
            label_smoothing=1.0,
            grid_alphas=(),
            grid_betas=(1.0, 1.0),
        )
    said = str(refused.value)
    for part in (
        "seeds must",
        "first_seed must",
        "label_smoothing must",
        "grid_alphas",
        "grid_betas",
        "'clr'",
    ):
        assert part in said


@pytest.mark.parametrize("resamples", [0, -5])
def test_a_comparison_needs_a_resample(resamples):
    with pytest.raises(UsageError, match=f"resamples must be 1 or more.*got {resamples}"):
        CompareConfig(resamples=resamples)
