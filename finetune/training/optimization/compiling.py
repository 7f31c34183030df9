"""When a training step is compiled, and what happens where that fails: one rule for every trainer.

A trainer asks `compiles`, switches its step to torch.compile, and hands one step to `compiled_or_eager`
inside `nothing_kept`: torch compiles at the first call, so that is where a missing C compiler shows.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager

import numpy as np
import torch
from torch import Tensor

from finetune.cli.console import say
from finetune.errors import CrlError, ResourceError
from finetune.training.optimization.distributed import World, any_true

MANY_STEPS = 2000  # compiling takes about a minute, which fewer steps on a GPU do not earn back
LONGEST_REASON = 160


def compiles(wish: bool | str, device: torch.device, steps: int, for_all: bool | None = None) -> bool:
    """Return whether to compile the step: as asked, or for auto on an NVIDIA GPU where many steps follow.

    Args:
        wish: true or on, false or off, or auto.
        device: what trains.
        steps: that are left to train with this model.
        for_all: what auto came to for all runs of a study; None where this run decides.

    >>> compiles("auto", torch.device("cpu"), 10**6), compiles("on", torch.device("cpu"), 1)
    (False, True)
    """
    if wish == "auto" and for_all is not None:
        return for_all
    if wish == "auto":
        return device.type == "cuda" and steps > MANY_STEPS
    return wish in (True, "on")


def compiled_or_eager(
    rehearse: Callable[[], object],
    to_eager: Callable[[], object],
    *,
    by_name: bool,
    world: World | None = None,
    what: str = "the training step is",
    was_compiled: bool = False,
) -> bool:
    """Do one step with the compiled model, and return whether it stays compiled.

    Where compiling fails, `to_eager` is called and one line says why. What fails without the compiler too is
    raised as it is: it is no fault of the compiler. Several processes go on alike.

    Args:
        rehearse: does a whole step, forward and backward, with the model as it is then (see `nothing_kept`).
        to_eager: takes the compiled code away.
        by_name: compiling was asked for, and not left to auto.
        world: the processes that train together.
        what: is compiled, as the line begins.
        was_compiled: it was when the run was interrupted: a second line says what is lost without.

    Raises ResourceError where compiling by name fails.
    """
    why = ""
    try:
        rehearse()
    except (CrlError, torch.OutOfMemoryError):
        raise
    except Exception as error:
        why = _reason(error)
    if not any_true(bool(why), world or World()):
        return True
    to_eager()
    rehearse()
    why = why or "compiling failed in another process"
    remedy = "torch.compile needs a C compiler and Python's headers (packages gcc and python3-dev)"
    if by_name:
        raise ResourceError(
            f"the training step cannot be compiled: {why}; {remedy}. Give --run.compile auto to go on without"
        )
    say(f"notice: {what} not compiled: {why}; {remedy}")
    if was_compiled:
        say("the step was compiled: the resumed run is statistically equivalent, no longer bit-exact")
    return False


@contextmanager
def nothing_kept(parameters: Iterable[Tensor], buffers: Iterable[Tensor]) -> Iterator[None]:
    """Take back what steps inside the `with` leave: gradients, statistics in buffers, random numbers drawn.

    Weights are not put back: do not update them inside.
    """
    weights, kept = list(parameters), [(buffer, buffer.detach().clone()) for buffer in buffers]
    gradients = [weight.grad for weight in weights]
    for weight in weights:
        weight.grad = None
    with random_state_kept():
        try:
            yield
        finally:
            with torch.no_grad():
                for buffer, value in kept:
                    buffer.copy_(value)
            for weight, gradient in zip(weights, gradients, strict=True):
                weight.grad = gradient


@contextmanager
def random_state_kept() -> Iterator[None]:
    """Give back the random state of Python, NumPy, and torch on the processor and on GPUs that were used."""
    python, numpy = random.getstate(), np.random.get_state()
    devices = list(range(torch.cuda.device_count())) if torch.cuda.is_initialized() else []  # type: ignore[no-untyped-call]
    try:
        with torch.random.fork_rng(devices):
            yield
    finally:
        random.setstate(python)
        np.random.set_state(numpy)


def _reason(error: BaseException) -> str:
    """Return the first line of what a compiler reports, without the layers that pass it on."""
    inner = getattr(error, "inner_exception", None) or error
    lines = [line.strip() for line in str(inner).splitlines() if line.strip()]
    told = lines[0] if lines else "no message"
    return f"{type(inner).__name__}: {told}"[:LONGEST_REASON]
