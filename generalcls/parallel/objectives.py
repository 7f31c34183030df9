"""What each model of a stack minimises: its arm's loss, or a margin head's logits under cross-entropy."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from core_losses import LossModule
from core_losses.lines import Line
from core_losses.margin import MarginRule, annealed_blend, build_margin_rule, margin_logits
from core_losses.odds import log_odds_and_descent
from core_losses.posterior import applied_line
from finetune.experiments.study.arms import Arm

ANNEALING = ("blend_start", "blend_rate", "blend_power", "blend_lowest")


@dataclass(frozen=True)
class Learned:
    """What a step's logits give, detached from what made them.

    Args:
        losses: every model's mean loss (m,).
        grads: the gradient of the sum of the losses in the logits, (m, B, K).
        push: each image's gradient magnitude, -dL/dz_c of its own loss, (m, B).
        odds: the true class's log-odds, (m, B).
        right: whether the prediction is the true class, bool (m, B).
    """

    losses: Tensor
    grads: Tensor
    push: Tensor
    odds: Tensor
    right: Tensor

    @classmethod
    def of(cls, parts: Sequence[Learned]) -> Learned:
        """Return what models learned one by one as of one stack."""
        if len(parts) == 1:
            return parts[0]
        names = ("losses", "grads", "push", "odds", "right")
        return cls(*(torch.cat([getattr(part, name) for part in parts]) for name in names))


@dataclass(frozen=True)
class ArmObjective:
    """One arm's way from embeddings to losses.

    Args:
        loss: the class loss, unreduced.
        rule: a margin head's rule, or None for plain logits.
        annealing: the margin's start, rate, power and lowest blend; empty where it has none.
        line: the loss as a function of the log-odds; None where it reads more.
    """

    loss: LossModule
    rule: MarginRule | None = None
    annealing: tuple[float, ...] = ()
    line: Line | None = None

    @classmethod
    def of(cls, arm: Arm) -> ArmObjective:
        """Return the arm's objective."""
        loss = arm.loss.build(reduction="none")
        line = applied_line(loss)
        if not arm.head:
            return cls(loss, line=line)
        own = {name: value for name, value in arm.head_options.items() if name not in ANNEALING}
        annealing = tuple(float(arm.head_options[name]) for name in ANNEALING if name in arm.head_options)
        return cls(loss, build_margin_rule(arm.head, **own), annealing, line)

    def logits(
        self,
        embedding: Tensor,
        weight: Tensor,
        bias: Tensor | None,
        target: Tensor | None,
        step: int | Tensor,
    ) -> Tensor:
        """Return float32 (or float64) logits (m, B, K); with targets (m, B) those that are trained on.

        A margin head has no bias: its logits are angles and norms.
        """
        embedding = embedding if embedding.dtype == torch.float64 else embedding.float()
        if self.rule is not None:
            return margin_logits(self.rule, embedding, weight, target, blend=self.blend(step))
        product = torch.bmm(embedding, weight.transpose(1, 2))
        return product if bias is None else product + bias[:, None]

    def blend(self, step: int | Tensor) -> float | Tensor:
        """Return the fraction of the plain logit, lambda, at a training step counted from 0.

        The step is a number, or a tensor of one on the device, and so is lambda.
        """
        if not self.annealing:
            return 0.0
        start, rate, power, lowest = self.annealing
        if isinstance(step, Tensor):
            return annealed_blend(step.double(), start=start, rate=rate, power=power, lowest=lowest)
        return annealed_blend(step, start=start, rate=rate, power=power, lowest=lowest)

    def losses(self, logits: Tensor, target: Tensor) -> Tensor:
        """Return every model's mean loss (m,) for logits (m, B, K) and targets (m, B)."""
        each: Tensor = self.loss(logits.flatten(0, 1), target.flatten())
        return each.view(target.shape).mean(1)

    def descent(
        self, logits: Tensor, target: Tensor, odds: Tensor, opposite: Tensor
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Return losses (m,), their sum's gradient in the logits (m, B, K), and each image's -dL/dz_c (m, B).

        A function of the log-odds needs neither a graph nor another softmax. What it gives is, bit for bit,
        what autograd gives.

        Args:
            logits: (m, B, K), without a graph.
            target: int64 (m, B).
            odds: the log-odds m of the targets, (m, B).
            opposite: -dm/dz, (m, B, K).
        """
        count = target.shape[1]
        if self.line is not None:
            push = self.line.push(odds) * (1 / count)
            return self.line.value(odds).mean(1), opposite * push[..., None], push * count
        if torch.compiler.is_compiling():  # which follows this way to a gradient, and not the quicker one
            grads, losses = torch.func.grad(self._sum_and_losses, has_aux=True)(logits, target)
        else:
            with torch.enable_grad():
                leaf = logits.detach().requires_grad_()
                total, losses = self._sum_and_losses(leaf, target)
            [grads] = torch.autograd.grad(total, leaf)
        return losses.detach(), grads, -grads.gather(-1, target[..., None])[..., 0] * count

    def _sum_and_losses(self, logits: Tensor, target: Tensor) -> tuple[Tensor, Tensor]:
        losses = self.losses(logits, target)
        return losses.sum(), losses


@dataclass(frozen=True)
class StackObjective:
    """The objectives of all models of a stack, those of one arm side by side.

    Args:
        parts: (first model, behind the last, objective), in order and without gaps.
    """

    parts: tuple[tuple[int, int, ArmObjective], ...]

    @classmethod
    def of(cls, arms: Sequence[Arm]) -> StackObjective:
        """Return the objectives for these models' arms; equal neighbours are computed together."""
        parts: list[tuple[int, int, ArmObjective]] = []
        for position, arm in enumerate(arms):
            if position and arms[position - 1] == arm:
                first, _, objective = parts.pop()
            else:
                first, objective = position, ArmObjective.of(arm)
            parts.append((first, position + 1, objective))
        return cls(tuple(parts))

    def to(self, device: torch.device) -> StackObjective:
        """Move the losses to the device and return self."""
        for _, _, objective in self.parts:
            objective.loss.to(device)
        return self

    def blends(self, step: int) -> list[float | None]:
        """Return every model's lambda at a step; None for those without an annealed margin."""
        found: list[float | None] = []
        for first, last, objective in self.parts:
            found += [float(objective.blend(step)) if objective.annealing else None] * (last - first)
        return found

    def __call__(
        self,
        models: slice,
        embedding: Tensor,
        weight: Tensor,
        bias: Tensor | None,
        target: Tensor,
        step: int | Tensor,
    ) -> tuple[Tensor, Learned]:
        """Return these models' logits (m, B, K) with their graph, and what they learn; targets (M, B) of all.

        A margin lowers the logit of the true class for the training alone: predictions are without it.
        """
        logits = answers = self.logits(models, embedding, weight, bias, target, step)
        if any(objective.rule is not None for _, _, objective in self._within(models)):
            with torch.no_grad():
                answers = self.answers(models, embedding, weight, bias)
        return logits, self.learn(models, logits, answers, target)

    def logits(
        self,
        models: slice,
        embedding: Tensor,
        weight: Tensor,
        bias: Tensor | None,
        target: Tensor | None,
        step: int | Tensor,
    ) -> Tensor:
        """Return the logits (m, B, K) of these models: with targets (M, B) of all, those that are trained on.

        Without targets they are those that are predicted from: no margin.
        """
        alike = self._alike(models)
        if len(alike) == 1 and (target is None or len(target) == len(embedding)):
            return alike[0][1].logits(embedding, weight, bias, target, step)
        found = []
        for own, objective in alike:
            within = slice(own.start - models.start, own.stop - models.start)
            own_bias = None if bias is None else bias[within]
            own_target = None if target is None else target[own]
            found.append(objective.logits(embedding[within], weight[within], own_bias, own_target, step))
        return torch.cat(found) if len(found) > 1 else found[0]

    @torch.no_grad()
    def learn(self, models: slice, logits: Tensor, answers: Tensor, target: Tensor) -> Learned:
        """Return what these models learn from a step's logits (m, B, K) for targets (M, B) of all.

        `answers` are the logits that they predict from. The work over all classes is done for all arms at
        once; what is left to each is a few operations on one number per image.
        """
        logits = logits.detach()
        target = target if len(target) == len(logits) else target[models]
        odds, opposite = log_odds_and_descent(logits.flatten(0, 1), target.flatten()[:, None])
        odds, opposite = odds.view(target.shape), opposite.view(logits.shape)
        arms, parts = self._within(models), []
        for first, last, objective in arms:
            own = slice(first - models.start, last - models.start)
            if len(arms) == 1:
                parts.append(objective.descent(logits, target, odds, opposite))
            else:
                parts.append(objective.descent(logits[own], target[own], odds[own], opposite[own]))
        losses, grads, push = (
            torch.cat(part) if len(part) > 1 else part[0] for part in zip(*parts, strict=True)
        )
        return Learned(losses, grads, push, odds, answers.detach().argmax(-1) == target)

    def answers(self, models: slice, embedding: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        """Return the logits (m, B, K) that are predicted from: no margin."""
        return self.logits(models, embedding, weight, bias, None, 0)

    def _within(self, models: slice) -> list[tuple[int, int, ArmObjective]]:
        bounds = [(max(first, models.start), min(last, models.stop), own) for first, last, own in self.parts]
        return [(first, last, own) for first, last, own in bounds if first < last]

    def _alike(self, models: slice) -> list[tuple[slice, ArmObjective]]:
        """Return slices of the models whose logits are made alike: neighbours without a margin are one."""
        found: list[tuple[slice, ArmObjective]] = []
        for first, last, own in self._within(models):
            if found and own.rule is None and found[-1][1].rule is None:
                first = found.pop()[0].start
            found.append((slice(first, last), own))
        return found


def has_plain_logits(arm: Arm) -> bool:
    """Return whether an arm trains on plain logits, whose gradient can be set beside cross-entropy's."""
    return not arm.head
