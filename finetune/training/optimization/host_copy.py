"""A training's state copied off the device, so that it can be written while the training goes on."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

Copies = dict[tuple[Any, ...], Tensor]


def writes_beside(device: torch.device) -> bool:
    """Return whether files are written beside the training: a processor would only take turns."""
    return device.type == "cuda"


def host_copy(state: Any, device: torch.device) -> tuple[Any, Callable[[], object]]:
    """Return a copy of `state` in the processor's memory, and what waits until it is complete.

    Steps that begin later do not change it. On a GPU a stream of its own copies into page-locked memory: the
    next step waits for that, some milliseconds, and the host does not.

    Args:
        state: tensors of any device, other values, and dicts, lists and tuples of them; tensors that share
            their memory share it in the copy too.
        device: what trains.
    """
    if device.type != "cuda":
        return _copied(state, {}), lambda: None
    main, side = torch.cuda.current_stream(device), torch.cuda.Stream(device)  # type: ignore[no-untyped-call]
    side.wait_stream(main)
    with torch.cuda.stream(side):
        copy = _copied(state, {})
        complete = side.record_event()
    main.wait_stream(side)
    return copy, complete.synchronize


def _copied(value: Any, made: Copies) -> Any:
    if isinstance(value, Tensor):
        key = (value.device, value.data_ptr(), value.dtype, value.shape, value.stride())
        if key not in made or not value.numel():
            made[key] = _on_host(value.detach())
        return made[key]
    if isinstance(value, dict):
        copy = type(value)((name, _copied(item, made)) for name, item in value.items())
        if isinstance(value, OrderedDict):  # a module's state carries the versions of its parts
            vars(copy).update(vars(value))
        return copy
    if isinstance(value, list | tuple):
        return type(value)(_copied(item, made) for item in value)
    return value


def _on_host(tensor: Tensor) -> Tensor:
    if tensor.device.type != "cuda":
        return tensor.clone()
    return torch.empty_like(tensor, device="cpu", pin_memory=True).copy_(tensor, non_blocking=True)
