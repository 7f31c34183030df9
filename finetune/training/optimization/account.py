"""What a step makes of a head's output: the loss to go back from, and the epoch's totals, as one function."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from core_losses import LossModule
from core_losses.factor import bare_loss
from finetune.cli.console import say
from finetune.errors import CrlError
from finetune.models.heads.base import HeadOutput
from finetune.training.epoch_metrics import Totals, pushes
from finetune.training.objective import Objective

_OF_THE_COMPILER = r"The \.grad attribute of a Tensor that is not a leaf"  # which it asks of each input


class Account:
    """The loss of a batch, and its sums added to the totals.

    One after the other these are some ninety small operations. Compiled they are few, and their values differ
    in the last digits at most. Where compiling fails, one line says so and they are done one by one.
    """

    def __init__(self, objective: Objective) -> None:
        self.objective = objective
        self._bare = bare_loss(objective.main) if isinstance(objective.main, LossModule) else None
        self._compiled: Callable[..., Tensor] | None = None
        self._tried = False

    def __call__(
        self, output: HeadOutput, target: Tensor, totals: Totals, *, compiled: bool = False
    ) -> Tensor:
        """Return the value to minimise."""
        if not compiled:
            return self._take(output, target, totals)
        if self._tried:
            return (self._compiled or self._take)(output, target, totals)
        self._tried = True
        warnings.filterwarnings("ignore", message=_OF_THE_COMPILER)
        whole: Any = torch.compile(self._take, fullgraph=True)
        try:
            loss: Tensor = whole(output, target, totals)
        except (CrlError, torch.OutOfMemoryError):
            raise
        except Exception as error:  # the compiler has dozens of kinds; what else is wrong is raised again
            loss = self._take(output, target, totals)
            reason = next(iter(str(error).strip().splitlines()), type(error).__name__)
            say(f"notice: loss and totals are not compiled: {reason}")
            return loss
        self._compiled = whole
        return loss

    def _take(self, output: HeadOutput, target: Tensor, totals: Totals) -> Tensor:
        loss = self.objective(output, target).total
        seen = self.objective.softened(target)
        totals.add(loss, output, target, pushes(self.objective.main, output, seen, self._bare))
        return loss


def is_compiled(model: nn.Module) -> bool:
    """Return whether a module's calls go through `torch.compile`."""
    return model._compiled_call_impl is not None
