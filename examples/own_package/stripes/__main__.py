"""The task's commands: python -m stripes verify | train | evaluate | compare | study."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

from finetune.cli.command import choose_command
from finetune.experiments.commands import task_commands
from finetune.experiments.config import DataConfig, EvaluateRunConfig, VerifyConfig
from stripes.task import TASK, StripesStudyConfig


@dataclass(frozen=True)
class VerifyStripesConfig(VerifyConfig):
    """A look at the data without training."""

    data: DataConfig = field(default_factory=DataConfig)


@dataclass(frozen=True)
class EvaluateStripesConfig(EvaluateRunConfig):
    """A trained run on its own test images, or on other data."""

    data: DataConfig = field(default_factory=DataConfig)


COMMANDS = task_commands(
    TASK,
    verify=(VerifyStripesConfig, "count the images"),
    evaluate=(EvaluateStripesConfig, "score a run again, or on other data"),
    evaluated="a run folder of train",
    study_config=StripesStudyConfig,
    train_about="fine-tune one model and test it once",
    recipes=Path(__file__).parent / "configs",
)

if __name__ == "__main__":
    import sys

    raise SystemExit(choose_command(COMMANDS, sys.argv[1:], prog="python -m stripes"))
