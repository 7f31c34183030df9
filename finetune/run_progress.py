"""How far a run has come, and how that is written down."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch

from finetune.distributed import World, gather_rows
from finetune.loop import Totals


@dataclass
class Progress:
    """How far a run has come: what a checkpoint holds beside the learner's own state."""

    epoch: int = 0
    step: int = 0
    totals: Totals | None = None
    best: float | None = None
    best_epoch: int = -1
    seconds: float = 0.0

    def state(self, world: World) -> dict[str, Any]:
        """Return it as plain values and tensors, with a row of totals per process; all must call this."""
        totals = self.totals
        rows = None if totals is None else gather_rows({"sums": totals.sums[None].cpu()}, world)["sums"]
        return {**self.__dict__, "totals": rows}

    @classmethod
    def restored(cls, state: dict[str, Any], device: torch.device, world: World) -> Progress:
        """Return what `state` held, with this process's totals on the device.

        Among another number of processes the first one takes the totals of all.
        """
        rows = state["totals"]
        if rows is None:
            return cls(**state)
        own = rows[world.rank] if len(rows) == world.size else rows.sum(0) * world.is_main
        return cls(**{**state, "totals": Totals(own.to(device))})
