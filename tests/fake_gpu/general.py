"""One step of the general engine on CUDA tensors without data: every copy from the host, every value read.

Run as a program, as `step` is: it writes what each case copied and read in its second step.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensorMode

from finetune.training.optimization.precision import Precision
from generalcls.parallel.device_data import Batches, ResidentImages
from generalcls.parallel.engine import Training
from generalcls.parallel.optimizers import build_optimizer
from tests.fake_gpu.step import Log, believing_in_devices
from tests.generalcls.small_study import arms, training

CUDA = torch.device("cuda")
WORDS = (
    "cel",
    "nllr",
    "crl:alpha=0.1",
    "focal",
    "tce",
    "cce",
    "dualce",
    "cel:label_smoothing=0.1",
    "lsoftmax",
)
NETWORKS = ("logistic", "mlp", "mnist_cnn", "norm")
AUGMENTS = ("none", "crop_flip", "shift_flip")


def without_data(value: Tensor) -> Tensor:
    """Return a CUDA tensor like this one, without data."""
    return torch.empty_like(value, device=CUDA).requires_grad_(value.requires_grad)


def on_fake_gpu(found: Training, dtype: torch.dtype, *, resident: bool) -> None:
    """Put CUDA tensors without data in place of a training's own."""
    stack, images = found.stack, found.train
    stack.precision = Precision(CUDA, dtype, True, False, "cuda", "without data")
    for held in (stack.params, stack.buffers, stack.fixed):
        held.update({name: without_data(value) for name, value in held.items()})
    moved = object.__new__(ResidentImages)
    moved.__dict__.update(images.__dict__)
    moved.device, moved.target = CUDA, without_data(images.target)
    assert images.pictures is not None
    moved.pictures = without_data(images.pictures) if resident else None
    moved._scale, moved._shift = without_data(images._scale), without_data(images._shift)
    found.train = moved
    found.batches = Batches(moved, found.seeds, found.config.batch_size, found.config.augment)
    for name in ("sums", "all_sums", "_index", "_numbers", "_keys"):
        setattr(found, name, without_data(getattr(found, name)))
    for part in found.objective.parts:
        part[2].loss.to(CUDA)
    found.optimizer = build_optimizer(found.config, stack, found.members)
    found.optimizer.step = lambda: None  # type: ignore[method-assign,assignment]  # fused: no kernel without data


def step(name: str, dtype: torch.dtype, augment: Any = "none", *, resident: bool = True) -> list[str]:
    """Return what the second of two steps copies and reads."""
    cells = [(arm, seed) for arm in arms(*WORDS) for seed in (0, 1)]
    found = training(name, cells, side_by_side=True, dtype=torch.float32, augment=augment)
    log = Log()
    with FakeTensorMode(allow_non_fake_inputs=True):
        on_fake_gpu(found, dtype, resident=resident)
        plan = found.batches.epoch(0)
        with log.without_driver(), log:
            found.train_step(plan)
            found.step, log.seen = 1, []
            found.train_step(plan)
            seen = list(log.seen)
        for name_, value in found.stack.params.items():
            grad = found.stack.gradient(name_)
            assert (grad.device.type, grad.dtype) == ("cuda", torch.float32), name_
            assert grad.stride() == value.stride(), name_
    return seen


def main() -> None:
    """Write what each case copies and reads."""
    believing_in_devices()
    found = {}
    torch.backends.cudnn.enabled = False  # it asks the driver which kernel takes grouped convolutions
    for name in NETWORKS:
        for dtype in (torch.float16, torch.float32):
            found[f"{name}, {dtype}"] = step(name, dtype)
    for augment in AUGMENTS:
        found[f"logistic, {augment}"] = step("logistic", torch.float32, augment)
    found["from the host"] = step("logistic", torch.float32, resident=False)
    Path(sys.argv[1]).write_text(json.dumps(found))


if __name__ == "__main__":
    main()
