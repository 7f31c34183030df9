"""What a person may choose about a comparison of losses, whatever the data: the options of all studies."""

from __future__ import annotations

import math
from dataclasses import dataclass, field

from core_losses import LOSSES
from finetune.cli.options import GENERATED_HELP
from finetune.errors import UsageError
from finetune.experiments.study.arm_names import MARGIN_HEADS
from finetune.experiments.study.arms import GRID_ALPHAS, GRID_BETAS, Arm, Matching, build_arms
from finetune.training.loss_choice import loss_names


def words_help() -> str:
    """Return the names that a word may begin with: those of all losses and margin heads."""
    return f"{loss_names()}, and the margin heads {', '.join(MARGIN_HEADS)}."


@dataclass(frozen=True)
class ComparisonConfig:
    """Which losses are compared, over how many seeds, with which controls.

    Args:
        losses: words NAME or NAME:OPTION=VALUE of losses and margin heads: crl:alpha=1:beta=0.5,
            lsoftmax:margin=2. Cross-entropy (cel) is always in it, as the baseline. There are
        seeds: trainings of every loss; training i of all losses has the same seed.
        first_seed: the seeds are first_seed, first_seed + 1, ...
        controls: add the focal loss, cross-entropy with label smoothing, and for every CRL listed
            cross-entropy with the learning rate scaled by that CRL's gradient factor.
        label_smoothing: of the label smoothing control, in [0, 1); 0 leaves it out.
        lr_match: the factors of the rate-matched control: mean (of push / q over images), ratio (sum of push
            over sum of q), or both; an empty list leaves it out.
        grid: add CRL for every pair of grid_alphas and grid_betas.
        grid_alphas: alphas of the grid, each >= 0.
        grid_betas: betas of the grid, each >= 0 (0 is cross-entropy itself).
    """

    losses: tuple[str, ...] = field(
        default_factory=lambda: tuple(LOSSES), metadata={GENERATED_HELP: words_help}
    )
    seeds: int = 5
    first_seed: int = 0
    controls: bool = True
    label_smoothing: float = 0.1
    lr_match: tuple[Matching, ...] = ("mean",)
    grid: bool = False
    grid_alphas: tuple[float, ...] = GRID_ALPHAS
    grid_betas: tuple[float, ...] = GRID_BETAS

    def __post_init__(self) -> None:
        broken = [rule for holds, rule in _rules(self) if not holds]
        try:
            arms_of(self)
        except UsageError as error:
            broken.append(str(error))
        if broken:
            raise UsageError("the comparison cannot be right:\n" + "\n".join(f"  {rule}" for rule in broken))


def arms_of(config: ComparisonConfig) -> tuple[Arm, ...]:
    """Return the arms that a configuration asks for, cross-entropy first.

    >>> [arm.name for arm in arms_of(ComparisonConfig(losses=("crl",), controls=False))]
    ['cel', 'crl']
    """
    return build_arms(
        config.losses,
        controls=config.controls,
        smoothing=config.label_smoothing,
        lr_match=config.lr_match,
        grid=config.grid,
        grid_alphas=config.grid_alphas,
        grid_betas=config.grid_betas,
    )


def seeds_of(config: ComparisonConfig) -> range:
    """Return the seeds that every arm is trained with.

    >>> list(seeds_of(ComparisonConfig(seeds=3, first_seed=10)))
    [10, 11, 12]
    """
    return range(config.first_seed, config.first_seed + config.seeds)


def _rules(config: ComparisonConfig) -> list[tuple[bool, str]]:
    rules = [
        (config.seeds >= 1, f"seeds must be at least 1, got {config.seeds}"),
        (config.first_seed >= 0, f"first_seed must not be negative, got {config.first_seed}"),
        (
            0 <= config.label_smoothing < 1,
            f"label_smoothing must lie in [0, 1), got {config.label_smoothing}",
        ),
    ]
    for name, values in (("grid_alphas", config.grid_alphas), ("grid_betas", config.grid_betas)):
        right = all(math.isfinite(value) and value >= 0 for value in values)
        single = bool(values) and len(set(values)) == len(values)
        told = f"{name} must hold different numbers >= 0, at least one, got {list(values)}"
        rules.append((right and single, told))
    return rules
