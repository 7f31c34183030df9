"""The programs behind `crl` that belong to no study: their options, and the calls that do the work."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from finetune.command import Command


@dataclass(frozen=True)
class QuickstartConfig:
    """The first result: drawn faces, two losses, five folds each, one comparison.

    Args:
        dir: where everything goes; made anew each time, refused when it holds anything else.
        backbone: a small timm backbone, trained from scratch.
        epochs: passes over the drawn training faces.
        users: albums of four drawn people each.
        seed: of the faces, the weights and the batches.
    """

    dir: str = "demo-run"
    backbone: str = "test_resnet"
    epochs: int = 12
    users: int = 40
    seed: int = 0


@dataclass(frozen=True)
class CurvesConfig:
    """Every loss and its true gradient against the posterior of the right class.

    Args:
        out: folder for curves.png and curves.csv.
        alpha: CRL's alpha (the paper's).
        beta: CRL's beta.
        gamma: the focal loss's exponent.
        a: the taming cross-entropy's exponent.
        points: posteriors, evenly spaced inside (0, 1).
    """

    out: str = "curves"
    alpha: float = 1.5
    beta: float = 1.0
    gamma: float = 2.0
    a: float = 0.8
    points: int = 199


def quickstart(config: QuickstartConfig, words: Mapping[str, str]) -> dict[str, Any]:
    """Draw faces, cross-validate two losses on them, compare."""
    from apps.quickstart import run_quickstart

    return run_quickstart(config)


def curves(config: CurvesConfig, words: Mapping[str, str]) -> dict[str, Any]:
    """Draw the curves and say where they lie."""
    from apps.curves import draw_curves
    from finetune.console import say

    made = draw_curves(
        Path(config.out),
        alpha=config.alpha,
        beta=config.beta,
        gamma=config.gamma,
        a=config.a,
        points=config.points,
    )
    say(f"picture: {made['png']}\nnumbers: {made['csv']}")
    return {name: str(value) if isinstance(value, Path) else value for name, value in made.items()}


COMMANDS = {
    "curves": Command(CurvesConfig, "draw every loss and its true gradient against the posterior", curves),
    "quickstart": Command(
        QuickstartConfig, "cross-validate two losses on drawn look-alike faces: a first result", quickstart
    ),
}
