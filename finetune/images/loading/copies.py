"""Copies to a GPU that the host does not wait for, and memory that is not reused before they are done."""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence

import torch
from torch import Tensor

# What a GPU may still be reading, with the event behind each copy.
_under_way: deque[tuple[torch.cuda.Event, Tensor]] = deque()


def to_device(tensor: Tensor, device: torch.device | str) -> Tensor:
    """Return `tensor` on `device`; for a GPU by way of page-locked memory, so that the host goes on at once.

    A copy from ordinary memory waits until the GPU has done all that was asked of it before, whatever
    `non_blocking` says. Torch keeps page-locked memory for the next copy, and until this one is done. A
    tensor that lies in page-locked memory itself (a slot of a ring) is kept until then here.
    """
    there = torch.device(device)
    if there.type != "cuda" or tensor.device.type != "cpu":
        return tensor.to(there, non_blocking=True)
    if not tensor.is_pinned():
        return tensor.pin_memory().to(there, non_blocking=True)
    moved = tensor.to(there, non_blocking=True)
    forget_done(keep=1)
    _under_way.append((torch.cuda.current_stream(there).record_event(), tensor))
    return moved


def _done(event: torch.cuda.Event) -> bool:
    return bool(event.query())  # type: ignore[no-untyped-call]


def forget_done(*, keep: int) -> None:
    """Let go of what was copied; wait until at most `keep` copies are under way."""
    while _under_way and (len(_under_way) > keep or _done(_under_way[0][0])):
        _under_way[0][0].synchronize()
        _under_way.popleft()


def wait_for_copies(device: torch.device) -> None:
    """Wait until what the current stream was asked to copy to a GPU is there, for use on another stream."""
    if device.type == "cuda":
        torch.cuda.current_stream(device).synchronize()


def to_device_together(tensors: Sequence[Tensor], device: torch.device) -> list[Tensor]:
    """Return int64 tensors on `device`; for a GPU they travel in one block."""
    if device.type != "cuda" or len(tensors) < 2:
        return [to_device(tensor, device) for tensor in tensors]
    block = to_device(torch.cat([tensor.flatten() for tensor in tensors]), device)
    parts = torch.split(block, [tensor.numel() for tensor in tensors])
    return [part.view(tensor.shape) for part, tensor in zip(parts, tensors, strict=True)]
