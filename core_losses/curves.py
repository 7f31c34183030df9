"""The posterior losses against p_c: value, gradient and step relative to cross-entropy, as plain arrays.

These are the curves of the competing ratio loss paper's Fig. 2 with the derivative as it is: its Eqs. 14 and
15, and so its figure, carry a sign error.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from core_losses.lines import CrossEntropy, Line
from core_losses.reduction import LossModule, check_non_negative


@dataclass(frozen=True)
class Curve:
    """One loss against the target's posterior.

    `name` is its key in `core_losses.LOSSES`, `label` its name with settings; the arrays are float64 and of
    equal length: `p` = p_c, `loss`, `gradient` = dL/dz_c, and `step`, the gradient over cross-entropy's: the
    factor by which an example's gradient is larger (> 1) or smaller (< 1) than under cross-entropy.
    """

    name: str
    label: str
    p: np.ndarray
    loss: np.ndarray
    gradient: np.ndarray
    step: np.ndarray


def posterior_grid(points: int = 199) -> np.ndarray:
    """Return `points` evenly spaced posteriors inside (0, 1), without the ends, where losses can be infinite.

    >>> posterior_grid(3).tolist()
    [0.25, 0.5, 0.75]
    """
    if points < 1:
        raise ValueError(f"points must be at least 1, but arrived as {points}")
    return np.arange(1, points + 1) / (points + 1)


def loss_curve(name: str, label: str, line: Line, p: np.ndarray) -> Curve:
    """Return one loss's curve over the posteriors `p`, each strictly between 0 and 1.

    >>> curve = loss_curve("cel", "CE", CrossEntropy(), np.array([0.5]))
    >>> curve.gradient.tolist(), curve.step.tolist()
    ([-0.5], [1.0])
    """
    p = np.asarray(p, dtype=np.float64)
    if not ((p > 0) & (p < 1)).all():
        raise ValueError("posteriors must lie strictly between 0 and 1, where every loss is finite")
    m = torch.from_numpy(np.log(p) - np.log1p(-p))
    push = line.push(m).numpy()
    return Curve(name, label, p, line.value(m).numpy(), -push, push / CrossEntropy().push(m).numpy())


def option_curve(name: str, loss: type[LossModule], options: Mapping[str, Any], p: np.ndarray) -> Curve:
    """Return a loss's curve over the posteriors `p`, with these of its own options and the others' defaults.

    Raises:
        ValueError: for a negative option, and a posterior outside (0, 1).

    >>> from core_losses.posterior import FocalLoss
    >>> option_curve("focal", FocalLoss, {"gamma": 1.0}, np.array([0.5])).label
    'focal (gamma 1)'
    """
    assert loss.line is not None, "only a loss of the target's posterior alone has such a curve"
    settings = {**loss.own_options(), **options}
    numbers = {
        option: value
        for option, value in settings.items()
        if isinstance(value, int | float) and not isinstance(value, bool)
    }
    for option, value in numbers.items():
        check_non_negative(option, value)
    title, told = loss.title_with(numbers)
    shown = [f"{loss.symbols.get(option, option)} {value:g}" for option, value in told.items()]
    label = f"{title} ({', '.join(shown)})" if shown else title
    return loss_curve(name, label, loss.line(**settings), p)
