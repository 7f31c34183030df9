"""What a user may choose about a search for learning rates, weight decay and epochs."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Literal

from finetune.cli.options import GENERATED_HELP
from finetune.errors import UsageError
from finetune.experiments.config import words_help
from finetune.experiments.study.arms import build_arms
from finetune.training.config import TrainConfig

# What is tried where nothing is listed: by the optimiser, each about three times the one before.
RATES = {"sgd": (0.001, 0.003, 0.01, 0.03), "adamw": (0.0001, 0.0003, 0.001, 0.003)}
MULTIPLIERS = (1.0, 10.0)


@dataclass(frozen=True)
class SearchConfig:
    """Which settings are tried, how, and for how long.

    Args:
        method: grid trains every setting with every number of epochs; halving trains all with the fewest
            epochs, one in `keep` of them with the next number, and so on.
        lr: learning rates of the backbone; empty tries 0.001 to 0.03 with sgd and 0.0001 to 0.003 with adamw.
        head_lr_multiplier: the head's learning rates over the backbone's.
        weight_decay: weight decays; empty keeps train.weight_decay.
        epochs: numbers of epochs; empty keeps train.epochs, and for halving takes a quarter, half, and all.
        keep: of halving: one in so many goes on, at least 2.
        seeds: trainings of every setting, with the seeds 0, 1, ...; their mean score counts.
        parts: validation parts, each with models of its own; their mean score counts.
        trials: settings tried for every arm, drawn by lot from all combinations; 0 tries all.
        minutes: of training in all, after which nothing new is begun; 0 sets no limit.
    """

    method: Literal["grid", "halving"] = "grid"
    lr: tuple[float, ...] = ()
    head_lr_multiplier: tuple[float, ...] = MULTIPLIERS
    weight_decay: tuple[float, ...] = ()
    epochs: tuple[int, ...] = ()
    keep: int = 2
    seeds: int = 1
    parts: int = 1
    trials: int = 0
    minutes: float = 0.0

    def __post_init__(self) -> None:
        broken = [rule for holds, rule in _rules(self) if not holds]
        if broken:
            raise UsageError("the search is invalid:\n" + "\n".join(f"  {rule}" for rule in broken))


@dataclass(frozen=True)
class TuneConfig:
    """A search over a run's settings.

    Args:
        arms: words NAME or NAME:OPTION=VALUE of losses and margin heads, each searched alike; empty searches
            for the loss and head of the configuration alone. There are
        search: which settings are tried, how, and for how long.
    """

    arms: tuple[str, ...] = field(default=(), metadata={GENERATED_HELP: words_help})
    search: SearchConfig = field(default_factory=SearchConfig)

    def __post_init__(self) -> None:
        if self.arms:
            build_arms(self.arms, baseline=False, controls=False)


def rungs_of(search: SearchConfig, train: TrainConfig) -> list[int]:
    """Return the numbers of epochs that are tried, ascending.

    Raises UsageError where several of them would need what the configuration says in epochs to be scaled.

    >>> rungs_of(SearchConfig("halving"), TrainConfig(epochs=30))
    [8, 15, 30]
    """
    quarters = tuple(math.ceil(train.epochs * part / 4) for part in (1, 2, 4))
    epochs = search.epochs or (quarters if search.method == "halving" else (train.epochs,))
    found = sorted(set(epochs))
    if not found[0]:
        raise UsageError("train.epochs 0 trains nothing, so there is nothing to tune: give 1 or more")
    if search.method == "halving" and len(found) == 1:
        raise UsageError(
            f"search.method halving needs several numbers of epochs, got {found[0]}: give --search.epochs "
            "5,10,20, or --search.method grid"
        )
    counted = [
        name
        for name, said in (
            ("train.frozen_epochs", train.frozen_epochs > 0),
            ("train.milestones", train.schedule == "step" and bool(train.milestones)),
        )
        if said
    ]
    if found != [train.epochs] and counted:
        raise UsageError(
            f"{', '.join(counted)} count epochs of train.epochs {train.epochs}, and the search trains "
            f"{', '.join(map(str, found))}: leave --search.epochs out, with --search.method grid"
        )
    return found


def rates_of(search: SearchConfig, train: TrainConfig) -> tuple[tuple[float, ...], ...]:
    """Return the learning rates, the head's multipliers and the weight decays that are tried."""
    lr = search.lr or RATES[train.optimizer]
    return lr, search.head_lr_multiplier, search.weight_decay or (train.weight_decay,)


def _rules(config: SearchConfig) -> list[tuple[bool, str]]:
    positive = {"lr": config.lr, "head_lr_multiplier": config.head_lr_multiplier}
    rules = [
        (all(value > 0 for value in values), f"search.{name} must be positive, got {list(values)}")
        for name, values in positive.items()
    ]
    rules += [
        (
            all(value >= 0 for value in config.weight_decay),
            f"search.weight_decay must not be negative, got {list(config.weight_decay)}",
        ),
        (all(value >= 1 for value in config.epochs), f"search.epochs must be 1 or more, got {config.epochs}"),
        (bool(config.head_lr_multiplier), "search.head_lr_multiplier needs a value, such as 10"),
        (config.keep >= 2, f"search.keep must be at least 2, got {config.keep}"),
        (config.seeds >= 1, f"search.seeds must be at least 1, got {config.seeds}"),
        (config.parts >= 1, f"search.parts must be at least 1, got {config.parts}"),
        (config.trials >= 0, f"search.trials must not be negative, got {config.trials}"),
        (config.minutes >= 0, f"search.minutes must not be negative, got {config.minutes}"),
    ]
    lists: dict[str, Sequence[float]] = {
        **positive,
        "weight_decay": config.weight_decay,
        "epochs": config.epochs,
    }
    rules += [
        (len(set(values)) == len(values), f"search.{name} lists a value twice: {list(values)}")
        for name, values in lists.items()
    ]
    return rules
