"""What torch and the C library are told before anything is computed; one rule for every trainer."""

from __future__ import annotations

import os

import torch
import torch.utils.deterministic

from finetune.cli.allocator import keep_freed_memory
from finetune.cli.collector import collect_as_usual
from finetune.training.optimization.determinism import set_attention
from finetune.training.optimization.precision import Precision


def prepare_torch(precision: Precision, *, deterministic: bool = True) -> None:
    """Ask for the same numbers every time, or for speed, where the device offers the choice.

    Memory that is freed is kept. A GPU becomes the current one, computes float32 as `precision` says, and
    with `deterministic` takes algorithms whose results do not depend on the order of its threads.
    """
    keep_freed_memory()
    collect_as_usual()
    if precision.device.type != "cuda":
        return
    os.environ.setdefault("PYTORCH_CUDA_ALLOC_CONF", "expandable_segments:True")  # read at the first use
    if deterministic:
        os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")  # read when the library starts
    if precision.device.index is not None:
        torch.cuda.set_device(precision.device)
    torch.use_deterministic_algorithms(deterministic, warn_only=True)
    set_attention(deterministic)
    # Nothing here reads memory that was never written, which torch would fill at every use.
    torch.utils.deterministic.fill_uninitialized_memory = False  # type: ignore[attr-defined]
    torch.backends.cudnn.benchmark = not deterministic
    precision.set_products()
