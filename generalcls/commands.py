"""The general commands: each turns its options into calls of this room."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any

from finetune.cli.command import Command, choose_command
from finetune.experiments.config import ComparisonConfig
from generalcls.config import GeneralDataConfig, GeneralRunOneConfig, GeneralStudyConfig, general_faults

RECIPES = Path(__file__).parent / "configs"


@dataclass(frozen=True)
class VerifyConfig:
    """A look at a data set without training.

    Args:
        quick: count only; do not look for equal images.
        cache: where decoded images of folders are kept: none, auto (the user's cache folder), or a folder.
    """

    data: GeneralDataConfig = field(default_factory=GeneralDataConfig)
    quick: bool = False
    cache: str = "none"


def verify(config: VerifyConfig, words: Mapping[str, str]) -> dict[str, Any]:
    """Count a data set and check what can be checked before training."""
    from generalcls.data.verify import verify_general_data

    return verify_general_data(config.data, config.cache, quick=config.quick)


def train(config: GeneralRunOneConfig, words: Mapping[str, str]) -> dict[str, Any]:
    """Train one network with one loss and test it once."""
    from generalcls.single_run import train_run

    return train_run(config)


def study(config: GeneralStudyConfig, words: Mapping[str, str]) -> dict[str, Any]:
    """Train every loss with every seed, and report the paired differences."""
    from generalcls.loss_study import study_losses

    return study_losses(config)


COMMANDS = {
    "verify": Command(
        VerifyConfig, "count a data set: classes, parts, repeated images", verify, faults=general_faults
    ),
    "train": Command(
        GeneralRunOneConfig,
        "train one network with one loss and test it once",
        train,
        recipes=RECIPES,
        faults=general_faults,
        aside=tuple(item.name for item in fields(ComparisonConfig)),
    ),
    "study": Command(
        GeneralStudyConfig,
        "many losses, each with the same seeds, and what their paired differences say",
        study,
        recipes=RECIPES,
        faults=general_faults,
    ),
}


def main(argv: Sequence[str] | None = None, *, prog: str = "python -m generalcls") -> int:
    """Run one general command and return its exit code."""
    import sys

    return choose_command(COMMANDS, list(sys.argv[1:] if argv is None else argv), prog=prog)
