"""One training step on CUDA tensors without data: every copy from the host, every value read back.

Run as a program, with the library of devices.c loaded ahead of torch's: it writes one JSON object of
what each case copied and read in its second step to the file that it is given.
"""

from __future__ import annotations

import ctypes
import json
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from finetune.images import batches
from finetune.images.batches import Batch
from finetune.images.preprocess import PreprocessSpec
from finetune.training.config import LossConfig, TrainConfig
from finetune.training.epoch_metrics import Totals
from finetune.training.learner import Learner, build_recipe
from finetune.training.loop import LossWatch, evaluate, train_one_epoch
from finetune.training.objective import Objective
from finetune.training.optimization.distributed import World
from finetune.training.optimization.optim import Ema, parameter_groups
from finetune.training.optimization.precision import Precision
from tests.finegrained.every_head import CASES, CLASSES, build
from tests.finetune.quick import quick

SIZE, COUNT = 64, 6
HALVES = {"float16": torch.float16, "float32": torch.float32}
MIXES = {"mixup": TrainConfig(mixup=0.2), "cutmix": TrainConfig(cutmix=1.0)}
LOSSES = ("cel", "nllr", "crl", "crl:alpha=0.1", "focal", "cce", "dualce", "dualce:alpha=0.1", "tce")


class Log(TorchDispatchMode):
    """Notes each copy between host and device, and each value that the host reads."""

    def __init__(self) -> None:
        super().__init__()
        self.pinned: dict[int, Tensor] = {}  # also held, so that no other tensor takes the number
        self.seen: list[str] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        made = func(*args, **(kwargs or {}))
        given = [value for value in tree_leaves((args, kwargs)) if isinstance(value, Tensor)]
        places = {value.device.type for value in (*given, *tree_leaves(made)) if isinstance(value, Tensor)}
        name = str(func)
        if "local_scalar_dense" in name and places == {"cuda"}:
            self.seen.append("read")
        elif places >= {"cpu", "cuda"} and ("copy" in name or "where" in name or "index" in name):
            shape = "x".join(map(str, given[0].shape)) or "number"
            how = "pinned" if id(given[0]) in self.pinned else "blocking"
            self.seen.append(f"{how} {shape}")
        return made

    @contextmanager
    def pinning(self) -> Iterator[None]:
        """Let page-locked memory be a mark on a tensor: without a driver there is none."""
        plain = Tensor.pin_memory, Tensor.is_pinned

        def pin(tensor: Tensor, *_: Any) -> Tensor:
            self.pinned[id(tensor)] = tensor
            return tensor

        Tensor.pin_memory = pin  # type: ignore[method-assign,assignment]
        Tensor.is_pinned = lambda tensor, *_: id(tensor) in self.pinned  # type: ignore[method-assign,assignment]
        try:
            yield
        finally:
            Tensor.pin_memory, Tensor.is_pinned = plain  # type: ignore[method-assign]


class Twice:
    """Two batches, as a loader would make them; what the first step does is forgotten."""

    steps_per_epoch = 2

    def __init__(self, views: int, log: Log) -> None:
        self.log = log
        self.batches = [
            Batch(
                torch.zeros(COUNT * views, SIZE, SIZE, 3, dtype=torch.uint8),
                torch.arange(COUNT) % CLASSES,
                torch.arange(COUNT),
            )
            for _ in range(2)
        ]

    def epoch(self, _epoch: int, _start: int) -> Iterator[Batch]:
        for batch in self.batches:
            self.log.seen.clear()
            yield batch


def on_fake_gpu(module: nn.Module) -> None:
    """Put CUDA tensors without data in place of a network's own."""
    for part in module.modules():
        for name, value in part._parameters.items():
            if value is not None:
                fake = torch.empty_like(value, device="cuda")
                part._parameters[name] = nn.Parameter(fake, requires_grad=value.requires_grad)
        for name, value in part._buffers.items():
            if value is not None:
                part._buffers[name] = torch.empty_like(value, device="cuda")


def step(case: str, loss: str, dtype: torch.dtype, train: TrainConfig) -> list[str]:
    """Return what the second of two steps copies and reads."""
    config = quick()
    core = build(case)
    views = core.head.hooks().views
    batches._scaling.cache_clear()
    log = Log()
    two = Twice(views, log)
    with FakeTensorMode(allow_non_fake_inputs=True):
        on_fake_gpu(core)
        config = type(config)(train=train, device="cuda", loss=LossConfig(loss))
        learner = Learner(
            core=core,
            objective=Objective(LossConfig(loss).build()),
            optimizer=Unmoved(parameter_groups(core, lr=0.1), lr=0.1),
            recipe=build_recipe(config, core),
            precision=Precision(torch.device("cuda"), dtype, True, False, "cuda", "without data"),
            world=World(),
            spec=PreprocessSpec(SIZE, "warp", SIZE, "bicubic", (0.5,) * 3, (0.5,) * 3),
            config=config,
            num_classes=CLASSES,
            ema=Ema(core, 0.9),
        )
        totals = Totals(torch.zeros(7, dtype=torch.float64, device="cuda"))
        with log.pinning(), log:
            train_one_epoch(learner, two, 0, totals=totals)  # type: ignore[arg-type]
        seen = list(log.seen)
        check(learner)
    batches._scaling.cache_clear()
    return seen


def evaluation() -> list[str]:
    """Return what the second of two evaluated batches copies and reads."""
    core = build("linear")
    batches._scaling.cache_clear()
    log = Log()
    two = Twice(1, log)
    precision = Precision(torch.device("cuda"), torch.float32, True, False, "cuda", "without data")
    spec = PreprocessSpec(SIZE, "warp", SIZE, "bicubic", (0.5,) * 3, (0.5,) * 3)

    def until_the_end() -> Iterator[Batch]:
        yield from two.epoch(0, 0)
        raise StopAsyncIteration

    with FakeTensorMode(allow_non_fake_inputs=True):
        on_fake_gpu(core)
        plain = evaluate.__wrapped__  # type: ignore[attr-defined]  # tensors without data know no inference mode
        with log.pinning(), log, torch.no_grad(), suppress(StopAsyncIteration):
            plain(core, until_the_end(), spec, precision, World())
    batches._scaling.cache_clear()
    return list(log.seen)


class Unmoved(torch.optim.SGD):
    """The fused optimisers know no tensors without data: they get gradients and leave the weights."""

    def step(self, closure: Any = None) -> None:  # type: ignore[override]
        """Check that the gradients lie in memory as the weights do, as one fused pass needs it."""
        for group in self.param_groups:
            for weight in group["params"]:
                assert weight.grad is None or weight.grad.device == weight.device


def check(learner: Learner) -> None:
    """Everything that learned is on the device, in float32."""
    for name, weight in learner.core.named_parameters():
        assert (weight.device.type, weight.dtype) == ("cuda", torch.float32), name


def believing_in_devices() -> None:
    """Let the autograd engine believe in a device while it goes backward, and autocast in one that scales."""
    devices = ctypes.CDLL(os.environ["FAKE_DEVICES"])
    devices.fake_devices(0)
    backward = torch.autograd._engine_run_backward

    def believing(*given: Any, **named: Any) -> Any:
        devices.fake_devices(8)
        try:
            with torch.autograd.set_multithreading_enabled(False):
                return backward(*given, **named)
        finally:
            devices.fake_devices(0)

    torch.autograd._engine_run_backward = believing
    torch.cuda.amp.common.amp_definitely_not_available = lambda: False  # autocast asks


def main() -> None:
    """Print what each case copies and reads."""
    np.random.seed(0)
    believing_in_devices()
    LossWatch.look = lambda watch: watch.recent.clear()  # type: ignore[method-assign]  # one read in 20 steps
    found = {}
    for name, dtype in HALVES.items():
        for case in CASES:
            found[f"{case}, {name}"] = step(case, "crl", dtype, TrainConfig(batch_size=COUNT))
    for loss in LOSSES:
        found[f"linear, {loss}"] = step("linear", loss, torch.float16, TrainConfig(batch_size=COUNT))
    for mixed, train in MIXES.items():
        found[mixed] = step("linear", "cel", torch.float16, train)
    found["evaluation"] = evaluation()
    Path(sys.argv[1]).write_text(json.dumps(found))


if __name__ == "__main__":
    main()
