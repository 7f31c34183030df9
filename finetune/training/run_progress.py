"""How far a run has come, and how that is written down."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch

from finetune.training.epoch_metrics import Totals
from finetune.training.optimization.distributed import World


@dataclass
class Progress:
    """How far a run has come: what a checkpoint holds beside the learner's own state.

    `best` is the best validation metric of the run; `stage_best` that of its last stage, which early stopping
    looks at.
    """

    epoch: int = 0
    step: int = 0
    totals: Totals | None = None
    best: float | None = None
    best_epoch: int = -1
    stage_best: float | None = None
    stage_best_epoch: int = -1
    seconds: float = 0.0

    def take_score(self, metric: float, epoch: int, last_start: int) -> bool:
        """Note an epoch's validation metric; return whether it is the run's best so far.

        `last_start` is the epoch that begins the last stage.
        """
        if epoch >= last_start and (self.stage_best is None or metric > self.stage_best):
            self.stage_best, self.stage_best_epoch = metric, epoch
        if self.best is not None and metric <= self.best:
            return False
        self.best, self.best_epoch = metric, epoch
        return True

    def in_vain(self, last_start: int) -> int:
        """Return how many epochs of the last stage came after its best one; below 1 before there is any."""
        return self.epoch - 1 - max(self.stage_best_epoch, last_start - 1)

    def state(self, world: World) -> dict[str, Any]:
        """Return it as plain values and tensors, with a row of totals per process; all must call this."""
        totals = self.totals
        return {**self.__dict__, "totals": None if totals is None else totals.gathered(world)}

    @classmethod
    def restored(cls, state: dict[str, Any], device: torch.device, world: World) -> Progress:
        """Return what `state` held, with this process's totals on the device.

        Among another number of processes the first one takes the totals of all.
        """
        rows = state["totals"]
        former = {"stage_best": state["best"], "stage_best_epoch": state["best_epoch"]}
        state = {**former, **state}  # a checkpoint of an older version knows the run's best only
        if rows is None:
            return cls(**state)
        rows = rows if isinstance(rows, dict) else {"sums": rows}  # an older version's: three sums alone
        own = {name: _own_row(values, world).to(device) for name, values in rows.items()}
        return cls(**{**state, "totals": Totals(own.pop("sums"), own)})


def _own_row(rows: torch.Tensor, world: World) -> torch.Tensor:
    return rows[world.rank] if len(rows) == world.size else rows.sum(0) * world.is_main
