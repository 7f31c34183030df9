"""What an epoch of training adds up to: loss, correct predictions, gradient magnitude, what heads log."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field

import torch
from torch import Tensor

from core_losses import LossModule
from core_losses.factor import bare_loss, factor_of_bare
from finetune.models.heads.base import HeadOutput
from finetune.training.optimization.distributed import World, gather_rows

SUMS = 7
GRADIENT_MEANS = ("train_gradient_factor", "train_gradient_ratio", "train_grad", "train_grad_ce")


@dataclass
class Totals:
    """Sums over the images of an epoch so far, on the device.

    Args:
        sums: loss, correct predictions, images; then push / q, the images that have it, push, and q (see
            `core_losses.gradient_factor`). The first three alone, as older checkpoints hold, are filled up.
        logged: what the head logs, by name.
    """

    sums: Tensor
    logged: dict[str, Tensor] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.sums = torch.cat([self.sums, self.sums.new_zeros(SUMS - len(self.sums))])

    @classmethod
    def zero(cls, device: torch.device) -> Totals:
        """Return empty totals (double precision where the device has it)."""
        return cls(
            torch.zeros(SUMS, dtype=torch.float32 if device.type == "mps" else torch.float64, device=device)
        )

    def add(
        self, loss: Tensor, output: HeadOutput, target: Tensor, pushes: tuple[Tensor, Tensor] | None = None
    ) -> None:
        """Add one batch: its mean loss, its head's output, and push and q of its images where they are known.

        Predictions are the arguments of the maximum of the logits without a margin. An image of q = 0, beyond
        the number format, has no push / q.
        """
        hard = target if target.ndim == 1 else target.argmax(1)
        logits = output.logits if output.plain is None else output.plain
        right = (logits.argmax(1) == hard).sum()
        count = len(hard)
        self.sums[0] += loss.detach() * count
        self.sums[1] += right
        self.sums[2] += count
        if pushes is not None:
            push, q = (part.to(self.sums) for part in pushes)
            told = q > 0
            factor = torch.where(told, push / torch.where(told, q, 1), 0)
            self.sums[3:] += torch.stack([factor, told.to(q), push, q]).sum(1)
        for name, value in output.logged.items():
            before = self.logged.get(name, self.sums.new_zeros(()))
            self.logged[name] = before + value.detach().to(self.sums) * count

    def finite(self) -> bool:
        """Return whether every loss so far was a number."""
        return bool(torch.isfinite(self.sums[:3]).all())

    def gathered(self, world: World) -> dict[str, Tensor]:
        """Return the sums as `sums` (processes, 7), and what was logged (processes,) by name, on the CPU."""
        own = {"sums": self.sums[None].cpu()} | {name: one[None].cpu() for name, one in self.logged.items()}
        return gather_rows(own, world)

    def means(self, world: World) -> dict[str, float]:
        """Return the means over the images of all processes, as train_<name>.

        `train_loss`, and `train_accuracy` in the unit interval; where every image's gradient is known
        `train_grad` and `train_grad_ce`, which add up over epochs, `train_gradient_ratio`, the one over the
        other, and `train_gradient_factor`, the mean of the ratio over images; and what the head logs. A mean
        beyond the number format is left out.
        """
        rows = {name: values.sum(0) for name, values in self.gathered(world).items()}
        loss, right, images, factor, told, push, q = rows.pop("sums").tolist()
        found = {"train_loss": loss / images, "train_accuracy": right / images}
        if told and q > 0:
            pushed = {"train_gradient_factor": factor / told, "train_gradient_ratio": push / q}
            pushed |= {"train_grad": push / images, "train_grad_ce": q / images}
            found |= {name: value for name, value in pushed.items() if math.isfinite(value)}
        return found | {f"train_{name}": float(values) / images for name, values in rows.items()}


def pushes(
    loss: Callable[[Tensor, Tensor], Tensor],
    output: HeadOutput,
    target: Tensor,
    bare: LossModule | None = None,
) -> tuple[Tensor, Tensor] | None:
    """Return push and q of each image under the loss on the main logits (see `core_losses.gradient_factor`).

    None where they have no meaning: with soft targets, with a margin, and for a loss of another package.
    `bare` is what `core_losses.factor.bare_loss` makes of the loss, where that was done before.
    """
    if not isinstance(loss, LossModule) or output.plain is not None or target.is_floating_point():
        return None
    return factor_of_bare(bare or bare_loss(loss), output.logits.detach(), target)
