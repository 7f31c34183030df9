"""Discriminative losses for hard classification: formulas only, tensors in and a loss out.

Every loss is a drop-in for `torch.nn.CrossEntropyLoss`:

>>> import torch
>>> loss = CompetingRatioLoss(alpha=1.5, beta=1.0)
>>> loss(torch.zeros(1, 4), torch.tensor([2]))
tensor(2.1972)
"""

from __future__ import annotations

import difflib
import inspect
from typing import Any

from core_losses.competitors import (
    DualCrossEntropyLoss,
    ExtendedBCELoss,
    dual_cross_entropy_loss,
    extended_binary_cross_entropy_loss,
)
from core_losses.curves import Curve, loss_curve, posterior_curves, posterior_grid
from core_losses.gradient_factor import gradient_factor
from core_losses.log_odds import log_odds, log_posteriors
from core_losses.margin import annealed_blend, margin_logits
from core_losses.margin_rules import (
    MARGIN_RULES,
    ArcFaceRule,
    ASoftmaxRule,
    CosFaceRule,
    LSoftmaxRule,
    MarginRule,
    build_margin_rule,
)
from core_losses.posterior import (
    CompetingRatioLoss,
    CrossEntropyLoss,
    FocalLoss,
    NLLRLoss,
    TamingCrossEntropyLoss,
    competing_ratio_loss,
    cross_entropy_loss,
    focal_loss,
    negative_log_likelihood_ratio_loss,
    taming_cross_entropy_loss,
)
from core_losses.reduction import LossModule, LossOptions, SharedOptions

__all__ = [
    "LOSSES",
    "MARGIN_RULES",
    "ASoftmaxRule",
    "ArcFaceRule",
    "CompetingRatioLoss",
    "CosFaceRule",
    "CrossEntropyLoss",
    "Curve",
    "DualCrossEntropyLoss",
    "ExtendedBCELoss",
    "FocalLoss",
    "LSoftmaxRule",
    "LossModule",
    "LossOptions",
    "MarginRule",
    "NLLRLoss",
    "TamingCrossEntropyLoss",
    "annealed_blend",
    "build_loss",
    "build_margin_rule",
    "competing_ratio_loss",
    "cross_entropy_loss",
    "dual_cross_entropy_loss",
    "extended_binary_cross_entropy_loss",
    "focal_loss",
    "gradient_factor",
    "log_odds",
    "log_posteriors",
    "loss_curve",
    "loss_keywords",
    "margin_logits",
    "negative_log_likelihood_ratio_loss",
    "posterior_curves",
    "posterior_grid",
    "taming_cross_entropy_loss",
]

LOSSES: dict[str, type[LossModule]] = {
    "cel": CrossEntropyLoss,
    "cce": ExtendedBCELoss,
    "nllr": NLLRLoss,
    "crl": CompetingRatioLoss,
    "focal": FocalLoss,
    "dualce": DualCrossEntropyLoss,
    "tce": TamingCrossEntropyLoss,
}


def build_loss(name: str, **keywords: Any) -> LossModule:
    """Return the loss module of a name in `LOSSES`, with its own keywords and those all losses share.

    Raises:
        ValueError: for an unknown name or keyword; the message lists the known ones.

    >>> build_loss("crl", alpha=1.5, beta=1.0)
    CompetingRatioLoss(alpha=1.5, beta=1.0)
    """
    if name not in LOSSES:
        raise ValueError(f"there is no loss {name!r}; {_known('losses', name, LOSSES)}")
    known = loss_keywords(name)
    for keyword in keywords:
        if keyword not in known:
            raise ValueError(
                f"loss {name!r} has no keyword {keyword!r}; {_known('keywords', keyword, known)}"
            )
    return LOSSES[name](**keywords)


def loss_keywords(name: str) -> list[str]:
    """Return the keywords `build_loss` takes for a loss: its own first, then the shared ones.

    >>> loss_keywords("focal")
    ['gamma', 'weight', 'ignore_index', 'reduction', 'label_smoothing']
    """
    shared = ["weight", *SharedOptions.__annotations__]
    own = [
        keyword
        for keyword in inspect.signature(LOSSES[name]).parameters
        if keyword not in (*shared, "options")
    ]
    return own + shared


def _known(kind: str, asked: str, known: dict[str, Any] | list[str]) -> str:
    close = difflib.get_close_matches(asked, known, n=1)
    suggestion = f"did you mean {close[0]!r}? " if close else ""
    return f"{suggestion}Known {kind}: {', '.join(known)}"
