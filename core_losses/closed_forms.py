"""The posterior losses in p_c with numpy alone, for programs that draw and name them without torch.

`core_losses.lines` is what is trained with; a test holds these to it. A loss that is missing here is drawn
from its class, with torch.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

PUBLISHED_CLAMP = 1e-7  # of NLLR's posteriors: in Keras, and in the code of the competing ratio loss paper
ValueAndGradient = tuple[np.ndarray, np.ndarray]


@dataclass(frozen=True)
class ClosedForm:
    """A loss of the target's posterior alone.

    Args:
        title: what tables and figures call the loss.
        of: (p, own options by keyword) -> the loss in nats and its gradient dL/dz_c, shaped as p; p strictly
            between 0 and 1, options >= 0.
    """

    title: str
    of: Callable[..., ValueAndGradient]

    @property
    def defaults(self) -> dict[str, float]:
        """The loss's own options with their defaults, without those that are off.

        >>> CLOSED_FORMS["focal"].defaults
        {'gamma': 2.0}
        """
        parameters = inspect.signature(self.of).parameters
        return {
            name: item.default
            for name, item in parameters.items()
            if name != "p" and item.default is not None
        }


def _cross_entropy(p: np.ndarray) -> ValueAndGradient:
    return -np.log(p), -(1 - p)


def _likelihood_ratio(p: np.ndarray, *, clamp: float = PUBLISHED_CLAMP) -> ValueAndGradient:
    held, inside = _held(p, clamp)
    return np.log(1 - held) - np.log(held), np.where(inside, -1.0, 0.0)


def _competing_ratio(
    p: np.ndarray, *, alpha: float = 1.5, beta: float = 1.0, clamp: float | None = None
) -> ValueAndGradient:
    held, inside = _held(p, clamp or 0.0)
    q, log_p = 1 - held, np.log(held)
    competing = beta * np.log(alpha + q) - log_p if beta else -log_p
    return competing, np.where(inside, -q * (1 + beta * held / (alpha + q)), 0.0)


def _held(p: np.ndarray, clamp: float) -> tuple[np.ndarray, np.ndarray]:
    """Return p held in [clamp, 1 - clamp], and where it already lay there."""
    return np.clip(p, clamp, 1 - clamp), (p >= clamp) & (p <= 1 - clamp)


def _focal(p: np.ndarray, *, gamma: float = 2.0) -> ValueAndGradient:
    q, log_p = 1 - p, np.log(p)
    return -(q**gamma) * log_p, -(q**gamma) * (q - gamma * p * log_p)


def _taming(p: np.ndarray, *, a: float = 0.8) -> ValueAndGradient:
    surprise = 1 - np.log(p)
    value = np.log(surprise) if a == 1 else np.expm1((1 - a) * np.log(surprise)) / (1 - a)
    return value, -(1 - p) * surprise**-a


# Losses of `core_losses.LOSSES` by name; None for one that reads every class's posterior.
CLOSED_FORMS: dict[str, ClosedForm | None] = {
    "cel": ClosedForm("CE", _cross_entropy),
    "nllr": ClosedForm("NLLR", _likelihood_ratio),
    "crl": ClosedForm("CRL", _competing_ratio),
    "focal": ClosedForm("focal", _focal),
    "cce": None,
    "dualce": None,
    "tce": ClosedForm("TCE", _taming),
    "olog": None,
    "mean_variance": None,
}


def exact_title(title: str, options: Mapping[str, Any]) -> tuple[str, dict[str, Any]]:
    """Return a loss's title and the options told beside it: a clamp that is turned off is told in words.

    >>> exact_title("NLLR", {"clamp": 0.0}), exact_title("NLLR", {"clamp": 0.001})
    (('NLLR, exact', {}), ('NLLR', {'clamp': 0.001}))
    """
    told = dict(options)
    if told.get("clamp") == 0:
        del told["clamp"]
        return f"{title}, exact", told
    return title, told
