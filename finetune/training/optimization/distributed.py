"""Several processes as one run: torchrun's environment in, a World out; one process costs nothing.

Every function takes the World and returns at once when it has one process, so that the loop reads the same
for one and for many.
"""

from __future__ import annotations

import math
import os
from collections.abc import Iterable, Mapping
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from datetime import timedelta
from typing import Any, TypeVar

import numpy as np
import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from finetune.errors import ResourceError, UsageError

ALONE = timedelta(minutes=30)  # what one process may take for work that the others wait for

Rows = TypeVar("Rows", Tensor, np.ndarray)
T = TypeVar("T")


@dataclass(frozen=True)
class World:
    """This process among all: `rank` in [0, size), `local_rank` counts the processes of one machine."""

    rank: int = 0
    size: int = 1
    local_rank: int = 0

    @property
    def is_main(self) -> bool:
        """Whether this process speaks, saves and reports."""
        return self.rank == 0

    def device(self, kind: str) -> torch.device:
        """Return this process's own device of a kind: "cpu", or "cuda" with the local rank as its index."""
        return torch.device(kind, self.local_rank) if kind == "cuda" and self.size > 1 else torch.device(kind)


def start_world(device: torch.device | str) -> World:
    """Join the processes that torchrun started (gloo on CPU, nccl on CUDA) and return this one's place.

    Without WORLD_SIZE in the environment, or with WORLD_SIZE=1, there is one process and torch.distributed is
    left alone.

    Raises:
        UsageError: the environment names several processes but is incomplete or not a number.
        ResourceError: a machine has fewer GPUs than processes.
    """
    if os.environ.get("WORLD_SIZE", "1") == "1":
        return World()
    rank, size, local_rank = (_read_number(name) for name in ("RANK", "WORLD_SIZE", "LOCAL_RANK"))
    world = World(rank, size, local_rank)
    if torch.device(device).type != "cuda":
        dist.init_process_group("gloo", rank=rank, world_size=size, timeout=ALONE)
        return world
    if local_rank >= torch.cuda.device_count():
        raise ResourceError(
            f"process {local_rank} of this machine has no GPU of its own: {torch.cuda.device_count()} usable;"
            " lower --nproc_per_node"
        )
    torch.cuda.set_device(local_rank)
    own = world.device("cuda")
    backend = "nccl" if dist.is_nccl_available() else "gloo"  # Windows has no NCCL
    dist.init_process_group(backend, rank=rank, world_size=size, device_id=own, timeout=ALONE)
    return world


def stop_world() -> None:
    """Leave the group of processes, if there is one."""
    if dist.is_available() and dist.is_initialized():
        dist.destroy_process_group()


def wrap_model(module: nn.Module, world: World, device: torch.device | str) -> nn.Module:
    """Return `module` as it is for one process, or averaging its gradients over all processes.

    The first process's weights go to all. Each keeps its own buffers (BatchNorm statistics), which training
    does not read; evaluation gives all of them the first one's.
    """
    if world.size == 1:
        return module
    device_ids = [world.local_rank] if torch.device(device).type == "cuda" else None
    return DistributedDataParallel(
        module, device_ids=device_ids, gradient_as_bucket_view=True, broadcast_buffers=False
    )


def kept_apart(model: nn.Module, *, until_later: bool) -> AbstractContextManager[Any]:
    """Return the context in which several processes add up gradients, exchanged later where `until_later`."""
    if until_later and isinstance(model, DistributedDataParallel):
        return model.no_sync()
    return nullcontext()


def gather_rows(arrays: Mapping[str, Rows], world: World) -> dict[str, Rows]:
    """Return every array with the rows of all processes, in the order of their ranks, on every process.

    Processes may hold different numbers of rows, also none; an array without rows still needs its type, and
    a numpy array its column shape. Tensors come back on the device that they came from. Numpy arrays travel
    as objects and should be small.

    Raises ValueError when the processes hold arrays of different names.
    """
    if world.size == 1:
        return dict(arrays)
    own = {name: tuple(rows.shape) if isinstance(rows, Tensor) else rows for name, rows in arrays.items()}
    parts: list[dict[str, Any] | None] = [None] * world.size
    dist.all_gather_object(parts, own)
    whole = [part for part in parts if part is not None]
    if any(part.keys() != own.keys() for part in whole):
        raise ValueError(f"the processes gather different arrays: {[sorted(part) for part in whole]}")
    return {name: _joined(rows, [part[name] for part in whole]) for name, rows in arrays.items()}


def follow_first(tensors: Iterable[Tensor], world: World) -> None:
    """Give every process the first one's values of these tensors, in place; they travel as one."""
    own = [tensor.detach() for tensor in tensors]
    if world.size == 1 or not own:
        return
    flat = torch.cat([_bytes(tensor) for tensor in own]).to(_meeting_place())
    dist.broadcast(flat, src=0)
    pieces = torch.split(flat, [tensor.numel() * tensor.element_size() for tensor in own])
    for tensor, piece in zip(own, pieces, strict=True):
        tensor.copy_(piece.clone().view(tensor.dtype).view(tensor.shape))  # a piece may begin anywhere


def any_true(flag: bool, world: World) -> bool:
    """Return whether `flag` is true in at least one process (a stop request reaches all of them)."""
    return flag if world.size == 1 else _reduce(flag, dist.ReduceOp.MAX)


def all_true(flag: bool, world: World) -> bool:
    """Return whether `flag` is true in every process."""
    return flag if world.size == 1 else _reduce(flag, dist.ReduceOp.MIN)


def from_first(value: T, world: World) -> T:
    """Return the first process's value in every process; that of the others is not looked at."""
    if world.size == 1:
        return value
    box = [value]
    dist.broadcast_object_list(box, 0)
    return box[0]


def barrier(world: World) -> None:
    """Wait until every process is here."""
    if world.size > 1:
        dist.barrier()


def _reduce(flag: bool, operation: dist.ReduceOp.RedOpType) -> bool:
    value = torch.tensor(int(flag), device=_meeting_place())
    dist.all_reduce(value, operation)
    return bool(value.item())


def _meeting_place() -> str:
    """Return the kind of device on which the processes exchange tensors."""
    return "cuda" if dist.get_backend() == "nccl" else "cpu"


def _joined(rows: Rows, told: list[Any]) -> Rows:
    """Return the rows of all processes: `told` holds their arrays, or the shapes of their tensors."""
    if not isinstance(rows, Tensor):
        return np.concatenate(told)
    most, *shape = max(told)  # one with rows, if there is any
    width = math.prod(shape) * rows.element_size()
    own = torch.zeros((most, width), dtype=torch.uint8, device=_meeting_place())
    if len(rows):
        own[: len(rows)] = _bytes(rows).view(len(rows), width)
    parts = [torch.empty_like(own) for _ in told]
    if own.numel():
        dist.all_gather(parts, own)
    joined = torch.cat([part[: count[0]] for part, count in zip(parts, told, strict=True)])
    return joined.view(rows.dtype).view(len(joined), *shape).to(rows.device)


def _bytes(tensor: Tensor) -> Tensor:
    """Return a tensor's values one after the other, as bytes."""
    return tensor.reshape(-1).view(torch.uint8)


def _read_number(name: str) -> int:
    text = os.environ.get(name)
    if text is None or not text.isdigit():
        arrived = "it is not set" if text is None else f"got {text!r}"
        raise UsageError(
            f"WORLD_SIZE asks for several processes, so {name} must be a number ({arrived}): use torchrun"
        )
    return int(text)
