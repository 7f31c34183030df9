"""Discriminative losses for hard classification: formulas only, tensors in and a loss out.

Every loss is a drop-in for `torch.nn.CrossEntropyLoss`:

>>> import torch
>>> from core_losses import CompetingRatioLoss
>>> loss = CompetingRatioLoss(alpha=1.5, beta=1.0)
>>> loss(torch.zeros(1, 4), torch.tensor([2]))
tensor(2.1972)
"""

from __future__ import annotations

import difflib
import importlib
import math
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from core_losses.table import LossTable

if TYPE_CHECKING:
    import numpy as np

    from core_losses.competitors import (
        DualCrossEntropyLoss,
        ExtendedBCELoss,
        dual_cross_entropy_loss,
        extended_binary_cross_entropy_loss,
    )
    from core_losses.curves import Curve, loss_curve, posterior_grid
    from core_losses.factor import gradient_factor
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
    from core_losses.odds import log_odds, log_posteriors
    from core_losses.ordinal import (
        MeanVarianceLoss,
        OrderedLogLoss,
        mean_variance_loss,
        ordered_log_loss,
        soft_target_rows,
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
    from core_losses.reduction import LossModule, LossOptions

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
    "LossTable",
    "MarginRule",
    "MeanVarianceLoss",
    "NLLRLoss",
    "OrderedLogLoss",
    "TamingCrossEntropyLoss",
    "annealed_blend",
    "build_loss",
    "build_margin_rule",
    "checked_options",
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
    "loss_named",
    "loss_options",
    "margin_logits",
    "mean_variance_loss",
    "negative_log_likelihood_ratio_loss",
    "ordered_log_loss",
    "posterior_curves",
    "posterior_grid",
    "soft_target_rows",
    "taming_cross_entropy_loss",
]

# The table of losses: a name, and where its class stands. A class is imported when it is asked for, and torch
# with it, so that the names alone cost nothing. The order is that of tables, figures and help texts.
LOSSES = LossTable(
    {
        "cel": "core_losses.posterior:CrossEntropyLoss",
        "nllr": "core_losses.posterior:NLLRLoss",
        "crl": "core_losses.posterior:CompetingRatioLoss",
        "focal": "core_losses.posterior:FocalLoss",
        "cce": "core_losses.competitors:ExtendedBCELoss",
        "dualce": "core_losses.competitors:DualCrossEntropyLoss",
        "tce": "core_losses.posterior:TamingCrossEntropyLoss",
        "olog": "core_losses.ordinal:OrderedLogLoss",
        "mean_variance": "core_losses.ordinal:MeanVarianceLoss",
    },
    ordered=("olog", "mean_variance"),
)

# Where the door's other names stand.
_MODULES = (
    "competitors",
    "curves",
    "factor",
    "margin",
    "margin_rules",
    "odds",
    "ordinal",
    "posterior",
    "reduction",
)

if not TYPE_CHECKING:

    def __getattr__(name: str) -> Any:
        if name in __all__:
            for module in _MODULES:
                found = vars(importlib.import_module(f"core_losses.{module}"))
                if name in found:
                    globals()[name] = found[name]
                    return found[name]
        raise AttributeError(f"module 'core_losses' has no attribute {name!r}")


def build_loss(name: str, **keywords: Any) -> LossModule:
    """Return the loss module of a name in `LOSSES`, with its own keywords and those all losses share.

    Raises:
        ValueError: for an unknown name or keyword; the message lists the known ones.

    >>> build_loss("crl", alpha=1.5, beta=1.0)
    CompetingRatioLoss(alpha=1.5, beta=1.0)
    """
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
    from core_losses.reduction import SHARED_KEYWORDS

    return [*loss_options(name), *SHARED_KEYWORDS]


def loss_options(name: str) -> dict[str, Any]:
    """Return a loss's own options with their defaults; ValueError lists the losses there are.

    >>> loss_options("crl"), loss_options("cel")
    ({'alpha': 1.5, 'beta': 1.0, 'clamp': None}, {})
    """
    if name not in LOSSES:
        raise ValueError(f"there is no loss {name!r}; {_known('losses', name, LOSSES)}")
    return LOSSES[name].own_options()


def checked_options(name: str, options: Mapping[str, Any], more: Sequence[str] = ()) -> dict[str, Any]:
    """Return a loss's own options as its keywords: without those that are None, numbers as float.

    Args:
        name: of the loss.
        options: of the loss, by name; None stands for its default. So does 0 for an option that is off
            unless it is given (the clamp of CRL).
        more: further options that the caller takes itself; they must be numbers too.

    Raises:
        ValueError: for an unknown loss, an option that it does not take (listing those it takes), and a value
            of another kind than the default's: yes or no, text, or a finite number.

    >>> checked_options("crl", {"alpha": 1, "beta": None})
    {'alpha': 1.0}
    """
    own = loss_options(name)
    takes = [*own, *more]
    unknown = [option for option in options if option not in takes]
    if unknown:
        close = difflib.get_close_matches(unknown[0], takes, n=1)
        hint = f" (did you mean {close[0]}?)" if close else ""
        raise ValueError(f"{name} takes {', '.join(takes) or 'no options'}, not {', '.join(unknown)}{hint}")
    given = {option: value for option, value in options.items() if value is not None}
    chosen = {option: _of_kind(option, value, own.get(option)) for option, value in given.items()}
    return {option: value for option, value in chosen.items() if value != 0 or own.get(option, 0) is not None}


def loss_named(class_name: str) -> str:
    """Return the name in `LOSSES` of the loss with this class, which need not be imported.

    Raises ValueError, listing the classes, for another one.

    >>> loss_named("CompetingRatioLoss")
    'crl'
    """
    classes = {LOSSES.class_name(name): name for name in LOSSES}
    if class_name not in classes:
        raise ValueError(f"no loss has the class {class_name!r}; there are {', '.join(classes)}")
    return classes[class_name]


def posterior_curves(
    p: np.ndarray | None = None,
    losses: Iterable[tuple[str, Mapping[str, Any]]] | None = None,
    **options: float,
) -> list[Curve]:
    """Return the curves of losses that read only the target's posterior p_c, cross-entropy first.

    Args:
        p: posteriors strictly between 0 and 1; None takes `posterior_grid()`.
        losses: (name, own options) of each; None takes every loss in `LOSSES` that has such a curve.
        options: own options by name, for every loss that takes them and was not given them in `losses`.

    Raises:
        ValueError: for an unknown loss or option, a negative setting, a posterior outside (0, 1), and a loss
            that reads every competitor's posterior and so has no such curve.

    >>> [curve.name for curve in posterior_curves()]
    ['cel', 'nllr', 'crl', 'focal', 'tce']
    """
    from core_losses.curves import option_curve, posterior_grid

    drawable = [name for name, loss in LOSSES.items() if loss.line is not None]
    chosen = [(name, {}) for name in drawable] if losses is None else [*losses]
    grid = posterior_grid() if p is None else p
    curves, used = [], set[str]()
    for name, given in chosen:
        own = {key: value for key, value in options.items() if key in loss_options(name)}
        used |= own.keys()
        settings = checked_options(name, {**own, **given})
        if LOSSES[name].line is None:
            told = ", ".join(drawable)
            raise ValueError(f"{name} reads every competitor's posterior, not p_c alone: choose among {told}")
        curves.append(option_curve(name, LOSSES[name], settings, grid))
    unknown = [key for key in options if key not in used]
    if unknown:
        raise ValueError(f"no loss that is drawn takes {', '.join(unknown)}")
    return curves


def _of_kind(option: str, value: Any, default: Any) -> Any:
    """Return an option's value as what its default is: yes or no, text, or else a finite number."""
    if isinstance(default, bool | str):
        kind = "true or false" if isinstance(default, bool) else "text"
        if not isinstance(value, type(default)):
            raise ValueError(f"{option} must be {kind}, got {value!r}")
        return value
    if isinstance(value, bool | str) or not math.isfinite(value):
        shown = str(value).lower() if isinstance(value, bool) else value
        raise ValueError(f"{option} must be a number, got {shown}")
    return value if isinstance(default, int) and not isinstance(default, bool) else float(value)


def _known(kind: str, asked: str, known: Iterable[str]) -> str:
    names = list(known)
    close = difflib.get_close_matches(asked.lower(), names, n=1)
    suggestion = f"did you mean {close[0]!r}? " if close else ""
    return f"{suggestion}Known {kind}: {', '.join(names)}"
