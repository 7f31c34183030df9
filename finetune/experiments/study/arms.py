"""What a study compares: losses with their parameters, heads, and the controls that belong to them."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal

from core_losses import LOSSES
from finetune.cli.words import value_text
from finetune.errors import UsageError
from finetune.experiments.study.arm_names import arm_name, parse_word, say_once
from finetune.training.loss_choice import HARD, LossConfig, order_faults

Matching = Literal["mean", "ratio"]
MATCHINGS: tuple[Matching, ...] = ("mean", "ratio")
BASELINE = "cel"
TARGET_TITLES = {"sord": "SORD", "gaussian": "Gaussian", "triangular": "triangular"}
GRID_ALPHAS = (0.0, 1.0, 1.5, 2.0)  # Competing Ratio Loss, Table I
GRID_BETAS = (0.25, 0.5, 0.75, 1.0, 1.25)


@dataclass(frozen=True)
class Arm:
    """One of the things that a study compares.

    Args:
        name: unique, and fit for a folder: cel, crl, crl-alpha1-beta0.5, cel-smoothing0.1, cel-lr-mean-crl.
        loss: the loss with all of its own parameters.
        head: empty for the experiment's own head, or a margin head or a head of ordered classes.
        head_options: all options of that head.
        matches: the arm whose gradient factor scales this arm's learning rate; empty for none.
        matches_by: the factor: mean is the mean over images of grad / grad_ce, ratio is the sum of grad over
            that of grad_ce (grad: the gradient magnitude on the true logit, grad_ce: cross-entropy's, 1 - p
            of the true class).
    """

    name: str
    loss: LossConfig
    head: str = ""
    head_options: Mapping[str, int | float | bool | str] = field(default_factory=dict)
    matches: str = ""
    matches_by: Matching = "mean"

    @property
    def title(self) -> str:
        """What tables and figures call it.

        >>> arm = build_arms(["crl"], controls=False)[1]
        >>> arm.name, arm.title
        ('crl', 'CRL (alpha 1.5, beta 1)')
        """
        if self.matches:
            return f"CE, lr matched to {_partner(self.matches, self.matches_by)}"
        name = self.head if self.head and self.loss == LossConfig(BASELINE) else self.loss.name
        title, symbols = title_of(name)
        shown = dict(self._shown())
        if name != self.head:
            title, shown = LOSSES[name].title_with(shown)
        own = ", ".join(f"{symbols.get(key, key)} {value_text(value)}" for key, value in shown.items())
        parts = [f"{title} ({own})" if own else title]
        if name != self.head and self.head:
            parts.append(title_of(self.head)[0])
        return ", ".join([*parts, *self._applied()])

    @property
    def plain(self) -> bool:
        """Whether it is a loss alone: on the experiment's own head, with targets that are not softened."""
        return not (self.head or self.loss.label_smoothing or self.loss.targets != HARD)

    @property
    def reads_order(self) -> list[str]:
        """What of it reads the order of the classes, in words; empty where nothing does."""
        return order_faults(self.head or "linear", self.loss)

    def _applied(self) -> Iterator[str]:
        """Yield how the target is softened, in words."""
        loss = self.loss
        if loss.label_smoothing:
            yield f"label smoothing {value_text(loss.label_smoothing)}"
        if loss.targets != HARD:
            reach = f"width {value_text(loss.width)}{' years' * (loss.distance == 'years')}"
            yield f"{TARGET_TITLES[loss.targets]} targets ({reach})"

    def _shown(self) -> Iterator[tuple[str, int | float | bool | str]]:
        """Yield the options that the title shows: a loss's own; a head's margin, scale and what was set."""
        yield from self.loss.options.items()
        for name, value in self.head_options.items():
            if name in title_of(self.head)[1] or f"-{name}{value_text(value)}" in self.name:
                yield name, value


def build_arms(
    losses: Sequence[str],
    *,
    baseline: bool = True,
    controls: bool = True,
    smoothing: float = 0.1,
    lr_match: Sequence[str] = ("mean",),
    grid: bool = False,
    grid_alphas: Sequence[float] = GRID_ALPHAS,
    grid_betas: Sequence[float] = GRID_BETAS,
) -> tuple[Arm, ...]:
    """Return the arms of a study: the baseline first, then what is listed, then controls, then the grid.

    Args:
        losses: words NAME or NAME:OPTION=VALUE[:OPTION=VALUE], of a loss or a head: crl,
            crl:alpha=1:beta=0.5, cel:label_smoothing=0.1, lsoftmax:margin=2; for classes with an order corn,
            crl:head=corn, cel:targets=sord.
        baseline: "cel" is the first arm, listed or not.
        controls: add, where they are not listed, the focal loss and cross-entropy with label smoothing, and
            for every listed CRL (on the study's own head, without soft targets) cross-entropy with its
            learning rate scaled by that CRL's gradient factor.
        smoothing: of the label smoothing control, in [0, 1); 0 leaves it out.
        lr_match: by which factors the learning rate is matched: mean, ratio, both, or none.
        grid: add a CRL for every alpha and beta. Beta 0 is cross-entropy itself, which is there already.
        grid_alphas, grid_betas: of the grid, each >= 0.

    Returns:
        Arms with different names.

    Raises:
        UsageError: for an unknown name (listing what there is), an option that its owner does not take or
            cannot have, an arm that is listed twice, an unknown matching, a grid without a beta above 0, and
            where nothing is left to train.

    >>> [arm.name for arm in build_arms(["nllr", "crl"])]
    ['cel', 'nllr', 'crl', 'focal', 'cel-smoothing0.1', 'cel-lr-mean-crl']
    """
    arms = {BASELINE: _arm_of(BASELINE)} if baseline else {}
    listed = [_arm_of(word) for word in losses]
    for arm in listed:
        if listed.count(arm) > 1:
            raise UsageError(f"losses: {arm.name} stands twice in {', '.join(losses)}: list it once")
        arms[arm.name] = arm
    if controls:
        arms |= {arm.name: arm for arm in _controls(tuple(arms.values()), smoothing, lr_match)}
    if grid:
        for arm in _grid(grid_alphas, grid_betas):
            arms.setdefault(arm.name, arm)
    if not arms:
        raise UsageError("losses: nothing is left to train without the baseline; list a loss, such as nllr")
    return tuple(arms.values())


def _arm_of(word: str) -> Arm:
    chosen = parse_word(word)
    return Arm(chosen.arm_name, chosen.loss, chosen.head, chosen.head_options)


def _controls(arms: Sequence[Arm], smoothing: float, lr_match: Sequence[str]) -> Iterator[Arm]:
    if not any(arm.loss.name == "focal" for arm in arms):
        yield _arm_of("focal")
    smoothed = any(arm.loss.label_smoothing and arm.loss.name == BASELINE and not arm.head for arm in arms)
    if smoothing and not smoothed:
        yield _arm_of(f"{BASELINE}:label_smoothing={smoothing}")
    for factor in lr_match:
        if factor not in MATCHINGS or list(lr_match).count(factor) > 1:
            raise UsageError(
                f"lr_match takes {', '.join(MATCHINGS)}, each once at most; got {', '.join(lr_match)}"
            )
    for arm in arms:
        if arm.loss.name == "crl" and arm.loss.targets != HARD and lr_match:
            say_once(f"note: {arm.name} has no control at its rate: soft targets leave no gradient factor")
        if arm.loss.name == "crl" and arm.plain:
            for factor in MATCHINGS:
                if factor in lr_match:
                    name = f"{BASELINE}-lr-{factor}-{arm.name}"
                    yield Arm(name, LossConfig(BASELINE), matches=arm.name, matches_by=factor)


def _grid(alphas: Sequence[float], betas: Sequence[float]) -> Iterator[Arm]:
    if not alphas or not any(beta > 0 for beta in betas):
        raise UsageError(
            "grid needs an alpha and a beta above 0, since CRL with beta 0 is cross-entropy itself; got "
            f"grid_alphas {list(alphas)} and grid_betas {list(betas)}: add a beta such as 1, or leave --grid "
            "out"
        )
    for beta in betas:
        for alpha in alphas:
            if beta:
                yield _arm_of(f"crl:alpha={alpha}:beta={beta}")


def grid_arm(alpha: float, beta: float) -> str:
    """Return the name of the arm that a cell of the grid is.

    >>> grid_arm(1.5, 1.0), grid_arm(1.0, 0.5), grid_arm(2.0, 0.0)
    ('crl', 'crl-alpha1-beta0.5', 'cel')
    """
    return arm_name("crl", {"alpha": alpha, "beta": beta}) if beta else BASELINE


def _partner(name: str, factor: str) -> str:
    """Return the title of a matched arm's partner, which is known by its name alone, with the factor."""
    loss, *options = re.split(r"-(?=[a-z])", name)
    words = [
        f"{each.rstrip('0123456789.e+-')} {each.lstrip('abcdefghijklmnopqrstuvwxyz_')}" for each in options
    ]
    told = "mean factor" if factor == "mean" else "ratio of sums"
    return f"{title_of(loss)[0]} ({', '.join([*words, told])})"


def title_of(name: str) -> tuple[str, Mapping[str, str]]:
    """Return the title of a loss or a head by its name, and what titles call its options.

    >>> title_of("crl")[0], title_of("lsoftmax")
    ('CRL', ('L-Softmax', mappingproxy({'margin': 'm'})))
    """
    from core_losses import MARGIN_RULES

    if name in LOSSES:
        return LOSSES[name].title, LOSSES[name].symbols
    if name in MARGIN_RULES:
        return MARGIN_RULES[name].title, MARGIN_RULES[name].symbols
    from finetune.models.heads.registry import head_class

    return head_class(name).title, {}
