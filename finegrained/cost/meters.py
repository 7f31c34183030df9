"""What a model needs, whatever its weights: multiply-adds, the weights that are read, memory, and time."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from finetune.models.classifier import Classifier
from finetune.training.optimization.memory import TensorMemory
from finetune.training.optimization.trial_steps import training_step


def count_macs(function: Callable[..., object], *given: object) -> int:
    """Return the multiply-adds of one call, half of its floating-point operations.

    Convolutions, products of matrices and attention count as they are. A Fourier transform of n real numbers
    counts as (5/2) n log2(n) operations. Everything else (norms, pooling, roots, sums into buckets) counts
    nothing: it is bound by memory rather than by arithmetic. No gradient is computed, and tensors on the meta
    device, which have shapes and no values, do as well as others.

    >>> count_macs(torch.matmul, torch.zeros(2, 3), torch.zeros(3, 5))
    30

    Source: the operations of a transform of real numbers are half of the 5 n log2(n) that the radix-2
    algorithm of Cooley and Tukey, 1965, takes for complex ones.
    """
    rules = {torch.ops.aten._fft_r2c: _operations_to, torch.ops.aten._fft_c2r: _operations_back}
    with torch.no_grad(), FlopCounterMode(display=False, custom_mapping=rules) as counter:
        function(*given)
    return int(counter.get_total_flops() // 2)


def _operations_to(shape: Sequence[int], dims: Sequence[int], *_: Any, **__: Any) -> int:
    """Return the operations of transforms of real numbers of this shape along `dims`."""
    return _operations(math.prod(shape), math.prod(shape[dim] for dim in dims))


def _operations_back(
    shape: Sequence[int],  # noqa: ARG001
    dims: Sequence[int],
    *_: Any,
    out_shape: Sequence[int],
    **__: Any,
) -> int:
    """Return the operations of transforms back to real numbers, which have the shape `out_shape`."""
    return _operations_to(out_shape, dims)


def _operations(numbers: int, length: int) -> int:
    return round(2.5 * numbers * math.log2(length))


def parameters_read(module: nn.Module, result: Tensor) -> int:
    """Return how many of a module's parameters the result depends on: helpers for training alone are not.

    >>> layers = nn.ModuleList([nn.Linear(2, 3), nn.Linear(2, 50)])
    >>> parameters_read(layers, layers[0](torch.zeros(1, 2)))
    9
    """
    weights = list(module.parameters())
    gradients = torch.autograd.grad(result.sum(), weights, allow_unused=True)
    pairs = zip(weights, gradients, strict=True)
    return sum(weight.numel() for weight, gradient in pairs if gradient is not None)


def step_bytes(core: Classifier, images: Tensor, target: Tensor) -> int:
    """Return the most bytes of tensors that are alive at once in a step of training in float32.

    Weights, gradients, momentum, the batch and what is kept of the forward pass; see `TensorMemory` for what
    is not seen. Nothing is computed where the model lies on the meta device.
    """
    memory = TensorMemory([*core.parameters(), *core.buffers(), images, target])
    with memory:
        step = training_step(core, images, target)
        step()
        step()  # the momentum, made by the first, is there from the start
    return memory.peak


def step_seconds(
    step: Callable[[], object], repeats: int, device: torch.device, warm_up: int = 2
) -> list[float]:
    """Return the seconds on the clock that each of `repeats` steps takes, after `warm_up` others."""
    for _ in range(warm_up):
        step()
    _finish(device)
    taken = []
    for _ in range(repeats):
        start = time.perf_counter()
        step()
        _finish(device)
        taken.append(time.perf_counter() - start)
    return taken


def _finish(device: torch.device) -> None:
    """Wait until the device has done everything that it was given."""
    if device.type != "cpu":
        torch.accelerator.synchronize(device)
