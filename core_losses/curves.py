"""The posterior losses against p_c: value, gradient and step relative to cross-entropy, as plain arrays.

These are the curves of the competing ratio loss paper's Fig. 2 with the derivative as it is: its Eqs. 14 and
15, and so its figure, carry a sign error.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch

from core_losses.lines import CompetingRatio, CrossEntropy, Focal, LikelihoodRatio, Line, Taming
from core_losses.reduction import check_non_negative


@dataclass(frozen=True)
class Curve:
    """One loss against the target's posterior.

    `name` is its key in `core_losses.LOSSES`, `label` its name with settings; the arrays are float64 and of
    equal length: `p` = p_c, `loss`, `gradient` = dL/dz_c, and `step`, the gradient over cross-entropy's: the
    factor by which an example pushes harder (> 1) or more softly (< 1) than under cross-entropy.
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


def posterior_curves(
    p: np.ndarray | None = None, *, alpha: float = 1.5, beta: float = 1.0, gamma: float = 2.0, a: float = 0.8
) -> list[Curve]:
    """Return the curves of cross-entropy, NLLR, CRL, focal and tamed cross-entropy, in this order.

    Args:
        p: posteriors strictly between 0 and 1; None takes `posterior_grid()`.
        alpha, beta: the competing ratio loss's settings, >= 0.
        gamma: the focal loss's focus, >= 0.
        a: the tamed cross-entropy's bend, >= 0.

    Raises:
        ValueError: for a negative setting or a posterior outside (0, 1).

    >>> [curve.name for curve in posterior_curves()]
    ['cel', 'nllr', 'crl', 'focal', 'tce']
    """
    for name, value in {"alpha": alpha, "beta": beta, "gamma": gamma, "a": a}.items():
        check_non_negative(name, value)
    grid = posterior_grid() if p is None else p
    return [
        loss_curve("cel", "CE", CrossEntropy(), grid),
        loss_curve("nllr", "NLLR", LikelihoodRatio(None), grid),
        loss_curve("crl", f"CRL (alpha {alpha:g}, beta {beta:g})", CompetingRatio(alpha, beta), grid),
        loss_curve("focal", f"focal (gamma {gamma:g})", Focal(gamma), grid),
        loss_curve("tce", f"TCE (a {a:g})", Taming(a), grid),
    ]
