"""What each model of a stack minimises: its arm's loss, or a margin head's logits under cross-entropy."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from core_losses import LossModule
from core_losses.margin import MarginRule, annealed_blend, build_margin_rule, margin_logits
from finetune.experiments.study.arms import Arm

ANNEALING = ("blend_start", "blend_rate", "blend_power", "blend_lowest")


@dataclass(frozen=True)
class ArmObjective:
    """One arm's way from embeddings to losses.

    Args:
        loss: the class loss, unreduced.
        rule: a margin head's rule, or None for plain logits.
        annealing: the margin's start, rate, power and lowest blend; empty where it has none.
    """

    loss: LossModule
    rule: MarginRule | None = None
    annealing: tuple[float, ...] = ()

    @classmethod
    def of(cls, arm: Arm) -> ArmObjective:
        """Return the arm's objective."""
        loss = arm.loss.build(reduction="none")
        if not arm.head:
            return cls(loss)
        own = {name: value for name, value in arm.head_options.items() if name not in ANNEALING}
        annealing = tuple(float(arm.head_options[name]) for name in ANNEALING if name in arm.head_options)
        return cls(loss, build_margin_rule(arm.head, **own), annealing)

    def logits(
        self, embedding: Tensor, weight: Tensor, bias: Tensor | None, target: Tensor | None, step: int
    ) -> Tensor:
        """Return float32 (or float64) logits (m, B, K); with targets (m, B) those that are trained on.

        A margin head has no bias: its logits are angles and norms.
        """
        embedding = embedding if embedding.dtype == torch.float64 else embedding.float()
        if self.rule is not None:
            return margin_logits(self.rule, embedding, weight, target, blend=self.blend(step))
        product = torch.bmm(embedding, weight.transpose(1, 2))
        return product if bias is None else product + bias[:, None]

    def blend(self, step: int) -> float:
        """Return the fraction of the plain logit, lambda, at a training step counted from 0."""
        if not self.annealing:
            return 0.0
        start, rate, power, lowest = self.annealing
        return annealed_blend(step, start=start, rate=rate, power=power, lowest=lowest)

    def losses(self, logits: Tensor, target: Tensor) -> Tensor:
        """Return every model's mean loss (m,) for logits (m, B, K) and targets (m, B)."""
        each: Tensor = self.loss(logits.flatten(0, 1), target.flatten())
        return each.view(target.shape).mean(1)


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
            found += [objective.blend(step) if objective.annealing else None] * (last - first)
        return found

    def __call__(
        self,
        models: slice,
        embedding: Tensor,
        weight: Tensor,
        bias: Tensor | None,
        target: Tensor,
        step: int,
    ) -> tuple[Tensor, Tensor]:
        """Return losses (m,) and logits (m, B, K) of these models for targets (M, B) of all."""
        found = []
        for first, last, objective in self._within(models):
            own = slice(first - models.start, last - models.start)
            own_bias = None if bias is None else bias[own]
            logits = objective.logits(embedding[own], weight[own], own_bias, target[first:last], step)
            found.append((objective, logits, target[first:last]))
        everything = torch.cat([logits for _, logits, _ in found]) if len(found) > 1 else found[0][1]
        # Of the tensor whose gradient is kept, not of its parts.
        pieces = torch.split(everything, [len(logits) for _, logits, _ in found])
        losses = [
            objective.losses(piece, own) for (objective, _, own), piece in zip(found, pieces, strict=True)
        ]
        return torch.cat(losses), everything

    @torch.no_grad()
    def preds(
        self, models: slice, embedding: Tensor, weight: Tensor, bias: Tensor | None, logits: Tensor
    ) -> Tensor:
        """Return the classes (m, B) that these models predict, given the logits they are trained on.

        A margin lowers the logit of the true class for the training alone.
        """
        if all(objective.rule is None for _, _, objective in self._within(models)):
            return logits.argmax(-1)
        return self.answers(models, embedding, weight, bias).argmax(-1)

    def answers(self, models: slice, embedding: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        """Return the logits (m, B, K) that are predicted from: no margin."""
        parts = []
        for first, last, objective in self._within(models):
            own = slice(first - models.start, last - models.start)
            parts.append(
                objective.logits(embedding[own], weight[own], None if bias is None else bias[own], None, 0)
            )
        return torch.cat(parts)

    def _within(self, models: slice) -> list[tuple[int, int, ArmObjective]]:
        bounds = [(max(first, models.start), min(last, models.stop), own) for first, last, own in self.parts]
        return [(first, last, own) for first, last, own in bounds if first < last]


def has_plain_logits(arm: Arm) -> bool:
    """Return whether an arm trains on plain logits, whose gradient can be set beside cross-entropy's."""
    return not arm.head
