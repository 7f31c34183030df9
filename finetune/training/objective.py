"""One number to minimise: the class loss on every classifier of a head, plus the head's own terms."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

import torch
from torch import Tensor
from torch.nn import functional as F

from finetune.errors import UsageError
from finetune.models.heads.base import MAIN, Branch, HeadOutput

Loss = Callable[[Tensor, Tensor], Tensor]


@dataclass(frozen=True)
class ObjectiveValue:
    """The sum to minimise, and what each part adds to it (weighted, detached scalars by name)."""

    total: Tensor
    parts: dict[str, Tensor]


@dataclass(frozen=True)
class Objective:
    """total = loss(logits, target) + sum_b w_b * loss_b(branch logits, branch target) + sum_t w_t * term_t.

    `loss` is any callable (logits, target) -> scalar; targets are passed on as they are, int64 or soft.
    `branch_losses` replaces it on single classifiers, by the branch's name ("main" for the main logits).
    A domain branch keeps cross-entropy unless it is replaced by name. Half-precision logits become float32
    first. A class loss's weights belong to the classes: a branch of another width that would meet them is
    refused. With `rows` (K, K) the batch's target is the row of its class, or the mixture of rows that a soft
    target names; a branch with a target of its own keeps that.
    """

    loss: Loss
    branch_losses: Mapping[str, Loss] = field(default_factory=dict)
    rows: Tensor | None = None

    def __call__(self, output: HeadOutput, target: Tensor) -> ObjectiveValue:
        """Return the value for one batch.

        Raises UsageError when a replaced branch does not exist, listing those that do, or when class weights
        meet a branch with another number of classes, and ValueError when two parts share a name.
        """
        branches = {MAIN: Branch(output.logits), **output.branches}
        unknown = sorted(set(self.branch_losses) - set(branches))
        if unknown:
            raise UsageError(f"no branch is called {', '.join(unknown)}; this head has {', '.join(branches)}")
        if MAIN in output.branches or set(branches) & set(output.terms):
            raise ValueError(f"parts must differ in name: main, {[*output.branches]}, {[*output.terms]}")
        goal = self.softened(target)
        weighted = {
            name: branch.weight * self._branch(name, branch, goal) for name, branch in branches.items()
        }
        weighted |= {name: weight * value for name, (value, weight) in output.terms.items()}
        total = torch.stack(list(weighted.values())).sum()
        return ObjectiveValue(total, {name: value.detach() for name, value in weighted.items()})

    def softened(self, target: Tensor) -> Tensor:
        """Return the target that the losses see, (B,) or soft (B, K): with `rows` always soft."""
        if self.rows is None:
            return target
        if not target.is_floating_point():
            return self.rows[target]
        return (target[:, :, None] * self.rows).sum(1)  # no product of matrices, which may round its factors

    @property
    def main(self) -> Loss:
        """The loss on the main logits."""
        return self.branch_losses.get(MAIN, self.loss)

    def _branch(self, name: str, branch: Branch, target: Tensor) -> Tensor:
        loss = self.branch_losses.get(name, F.cross_entropy if branch.domain else self.loss)
        weight = getattr(loss, "weight", None)
        if isinstance(weight, Tensor) and len(weight) != branch.logits.shape[1]:
            raise UsageError(
                f"loss.class_weights are those of {len(weight)} classes and cannot weigh the branch {name}, "
                f"which has {branch.logits.shape[1]}: give it a loss of its own (--loss.branches.{name} cel) "
                "or --loss.class_weights none"
            )
        half = branch.logits.dtype in (torch.bfloat16, torch.float16)
        return loss(
            branch.logits.float() if half else branch.logits,
            target if branch.target is None else branch.target,
        )
