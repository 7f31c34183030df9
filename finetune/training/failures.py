"""What a run says when it cannot go on, or not exactly: a loss that is not finite, no memory, a stop."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch

from finetune.cli.command import command_line, goes_on_when_repeated
from finetune.cli.environment import WORKER_DIED, refusal
from finetune.errors import CrlError, DivergedError, InterruptedRunError, ResourceError, UsageError
from finetune.images.augmentation.crops import PLACES
from finetune.images.workers import StoppedWaitingError
from finetune.models.classifier import Classifier, has_batch_norm
from finetune.runs.folder import versions
from finetune.runs.interrupts import stop_requested
from finetune.training.config import FitConfig
from finetune.training.data import TrainingData
from finetune.training.loop import NotFiniteLossError
from finetune.training.optimization.determinism import inexact_operations
from finetune.training.optimization.distributed import World


@contextmanager
def told_failures(task: TrainingData, config: FitConfig) -> Iterator[None]:
    """Turn a loss that is not finite and a device without memory into errors that say what to do."""
    try:
        yield
    except NotFiniteLossError as error:
        files = ", ".join(str(task.manifest["path"][row]) for row in error.rows[:8])
        raise DivergedError(
            f"{error}; the batch's first files: {files}. The last good checkpoint is untouched. Lower "
            "--train.lr, give --train.clip_grad 1, or look at these images and labels."
        ) from None
    except StoppedWaitingError as error:
        raise InterruptedRunError(f"{error}, what is saved is kept; {resume_line()}") from None
    except (MemoryError, RuntimeError) as error:  # torch's own OutOfMemoryError is a RuntimeError
        if WORKER_DIED in str(error):  # told by a signal, wherever the program stood
            raise _worker_died(error) from None
        if isinstance(error, RuntimeError) and not says_out_of_memory(error):
            raise
        raise ResourceError(
            f"out of memory with --train.batch_size {config.train.batch_size} at {task.spec.image_size} px: "
            "halve the batch size (and double --train.accumulate to keep the optimiser step), or lower "
            f"--model.image_size{_where_images_stay(config, error)}"
        ) from error


def _where_images_stay(config: FitConfig, error: Exception) -> str:
    """Return a further remedy where a GPU's memory may hold the images too (`predict.keep_on_gpu`)."""
    may_stay = config.run.workers < 0 and config.train.augment in PLACES
    stays = may_stay and isinstance(error, torch.OutOfMemoryError)
    return ", or give --run.workers 0: then no images stay on the GPU" if stays else ""


def _worker_died(error: Exception) -> CrlError:
    if stop_requested():
        return InterruptedRunError(f"stopped, what is saved is kept; {resume_line()}")
    return refusal(error) or ResourceError(str(error))


def check_finite_weights(model: Classifier, epoch: int, step: int) -> None:
    """Raise DivergedError when a weight is NaN or infinite: a finite loss can have a gradient that is not."""
    finite = torch.stack([torch.isfinite(parameter).all() for parameter in model.parameters()])
    if not bool(finite.all()):
        raise DivergedError(
            f"weights are no longer finite after step {step} of epoch {epoch + 1}, although every loss was: "
            "a gradient overflowed. The last good checkpoint is untouched. Lower --train.lr or give "
            "--train.clip_grad 1"
        )


def says_out_of_memory(error: RuntimeError) -> bool:
    """Return whether a device, or the CPU's allocator, reports that memory ran out."""
    words = ("out of memory", "can't allocate memory", "not enough memory")
    return isinstance(error, torch.OutOfMemoryError) or any(word in str(error).lower() for word in words)


def check_batch_norm(model: Classifier, batch_size: int) -> None:
    """Raise UsageError for one image per process and step in a network with batch normalisation."""
    if batch_size == 1 and has_batch_norm(model):
        raise UsageError(
            "batch normalisation cannot learn from one image at a time: give --train.batch_size 2 or more "
            "for each process"
        )


def resume_line() -> str:
    """Return the words that name the command to go on with."""
    line = re.sub(r" --run\.resume[= ]\S+", "", command_line())
    return f"go on with:\n  {line}{'' if goes_on_when_repeated() else ' --run.resume auto'}"


def inexact_reasons(state: Mapping[str, Any], world: World, device: str, deterministic: bool) -> list[str]:
    """Return why a run resumed from `state` may differ in its last bits from an unbroken one.

    Empty when it cannot. `device` is what computes now, and in what precision.
    """
    now, before = versions(), state["versions"]
    changed = [f"{name} {before.get(name)} -> {now[name]}" for name in now if now[name] != before.get(name)]
    reasons = {
        f"{world.size} processes instead of {state['world_size']}": state["world_size"] != world.size,
        f"other versions ({', '.join(changed)})": bool(changed),
        f"on {device} instead of {state['device']}": state["device"] != device,
        "run.deterministic is off": not deterministic,
    }
    operations = inexact_operations(state["learner"]["notes"])
    return [reason for reason, holds in reasons.items() if holds] + operations
