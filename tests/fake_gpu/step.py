"""One training step on CUDA tensors without data: every copy from the host, every value read back.

Run as a program, with the library of devices.c loaded ahead of torch's: it writes one JSON object of what
each case copied and read from its last batch on to the file that it is given. That batch is copied before
the step of the one before it, so two whole steps are counted.
"""

from __future__ import annotations

import ctypes
import json
import os
import sys
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack, contextmanager, nullcontext, suppress
from pathlib import Path
from typing import Any
from unittest.mock import Mock, patch

import numpy as np
import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode

from apps.doctor.gpu.checks.traffic import HostCopies
from finetune.images.batches import Batch
from finetune.images.loading import ahead
from finetune.images.loading import batch as batches
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


class Log(HostCopies):
    """Notes copies and reads, where page-locked memory is a mark on a tensor."""

    def __init__(self) -> None:
        super().__init__("cuda")
        self.pinned: dict[int, Tensor] = {}  # also held, so that no other tensor takes the number
        self.scattered: list[str] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Run the operation and note what it moves, and whether it scatters."""
        if "scatter" in str(func) or "index_put" in str(func):
            self.scattered.append(str(func))
        return super().__torch_dispatch__(func, types, args, kwargs)

    def pin(self, tensor: Tensor, *_: Any) -> Tensor:
        """Mark a tensor as one in page-locked memory."""
        self.pinned[id(tensor)] = tensor
        return tensor

    @contextmanager
    def without_driver(self) -> Iterator[None]:
        """Let page-locked memory be a mark on a tensor; streams and threads have nothing to wait for."""
        stream = Mock(**{"record_event.return_value.query.return_value": True})
        with ExitStack() as patches:
            for place, name, value in (
                (Tensor, "pin_memory", lambda tensor, *_: self.pin(tensor)),
                (Tensor, "is_pinned", lambda tensor, *_: id(tensor) in self.pinned),
                (Tensor, "record_stream", lambda _tensor, _stream: None),
                (torch.cuda, "Stream", lambda _device: stream),
                (torch.cuda, "current_stream", lambda _device: stream),
                (torch.cuda, "stream", lambda _stream: nullcontext()),
                (ahead, "ThreadPoolExecutor", AtOnce),
            ):
                patches.enter_context(patch.object(place, name, value))
            yield


class AtOnce(ThreadPoolExecutor):
    """A thread would know nothing of tensors without data: the caller does its work."""

    def submit(self, work: Any, *given: Any) -> Future[Any]:  # type: ignore[override]
        """Return what is done already."""
        done: Future[Any] = Future()
        done.set_result(work(*given))
        return done


class Thrice:
    """Three batches, as a loader would make them; what is done before the last one is forgotten.

    In `slots` their images lie in page-locked memory.
    """

    steps_per_epoch = 3

    def __init__(self, views: int, log: Log, *, slots: bool) -> None:
        self.log = log
        self.batches = [
            Batch(
                torch.zeros(COUNT * views, SIZE, SIZE, 3, dtype=torch.uint8),
                torch.arange(COUNT) % CLASSES,
                torch.arange(COUNT),
            )
            for _ in range(3)
        ]
        for batch in self.batches if slots else ():
            log.pin(batch.images)

    def epoch(self, _epoch: int, _start: int) -> Iterator[Batch]:
        for batch in self.batches:
            self.log.seen.clear()
            self.log.scattered.clear()
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
    """Return what the last of three batches and the steps after it copy and read."""
    config = quick()
    core = build(case)
    views = core.head.hooks().views
    batches._scaling.cache_clear()
    log = Log()
    three = Thrice(views, log, slots=case != "linear")
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
        with log.without_driver(), log:
            train_one_epoch(learner, three, 0, totals=totals)  # type: ignore[arg-type]
        seen = [*log.seen, *(log.scattered if case == "linear" else [])]  # others may, in their own maps
        check(learner)
    batches._scaling.cache_clear()
    return seen


def evaluation() -> list[str]:
    """Return what the last of three evaluated batches copies and reads."""
    core = build("linear")
    batches._scaling.cache_clear()
    log = Log()
    three = Thrice(1, log, slots=True)
    precision = Precision(torch.device("cuda"), torch.float32, True, False, "cuda", "without data")
    spec = PreprocessSpec(SIZE, "warp", SIZE, "bicubic", (0.5,) * 3, (0.5,) * 3)

    def until_the_end() -> Iterator[Batch]:
        yield from three.epoch(0, 0)
        raise StopAsyncIteration

    with FakeTensorMode(allow_non_fake_inputs=True):
        on_fake_gpu(core)
        plain = evaluate.__wrapped__  # type: ignore[attr-defined]  # tensors without data know no inference mode
        with log.without_driver(), log, torch.no_grad(), suppress(StopAsyncIteration):
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
