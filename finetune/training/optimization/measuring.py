"""Which number format trains a model fastest on this machine: a few of its own steps tell.

Nothing else does: on a CPU with instructions for bfloat16 that format is 1.6 to 2 times as fast as float32
for plain convolutions, and half as fast for depthwise ones. What was measured is remembered in the user's
cache folder. The steps are of a second model with random weights, so that no bit of a training depends on
whether they were done.
"""

from __future__ import annotations

import hashlib
import json
import math
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch

from finetune.cli.console import silently
from finetune.cli.machine import user_cache
from finetune.errors import ResourceError, UsageError
from finetune.models.classifier import Classifier
from finetune.runs.files import write_bytes
from finetune.runs.folder import versions
from finetune.training.config import FitConfig, to_dict
from finetune.training.optimization.compiling import random_state_kept
from finetune.training.optimization.distributed import World, from_first
from finetune.training.optimization.precision import Choice, Precision, candidates, choose_precision
from finetune.training.optimization.torch_settings import prepare_torch
from finetune.training.optimization.trial_steps import random_batch, training_step

FEW_STEPS = 50  # of a training that is over before measuring pays
CLOSE = 1.1  # the most exact format that takes at most this much longer than the fastest is chosen
ROUNDS = 3  # timed steps of each format, after one that is not; one less where the times lie far apart
FAR = 1.3
LONGEST_STEP = 0.4  # seconds; longer steps are timed with fewer images
FEW_IMAGES = 8  # by which it is told how long a step is
FOLDER = "precision"  # in the user's cache folder

Clock = Callable[[], float]
StepOf = Callable[[str, int], Callable[[], object]]


@dataclass(frozen=True)
class Workload:
    """A training whose number format is to be chosen.

    Args:
        config: its settings.
        classes: that the head tells apart.
        image_size: pixels.
        batch: images of a step in each process.
        steps: that the backbone is trained for, in all trainings that share the choice.
        build: returns the model with random weights.
        threads: of each process; 0 are those of this one.
    """

    config: FitConfig
    classes: int
    image_size: int
    batch: int
    steps: int
    build: Callable[[], Classifier]
    threads: int = 0

    def key(self, plain: Precision) -> dict[str, Any]:
        """Return all that the time of a step depends on, as plain values."""
        model, device = self.config.model, plain.device
        now = versions()
        if device.type == "cuda":
            hardware: Any = list(torch.cuda.get_device_capability(device))
        else:
            hardware = {name: str(value) for name, value in torch.cpu.get_capabilities().items()}
        return {
            "backbone": model.backbone,
            "second": model.second,
            "drop": [model.drop_rate, model.drop_path_rate],
            "head": to_dict(self.config.head),
            "classes": self.classes,
            "image_size": self.image_size,
            "batch": self.batch,
            "threads": torch.get_num_threads(),
            "deterministic": self.config.run.deterministic,
            "device": f"{device.type} {plain.device_name}",
            "hardware": hardware,
            "versions": {name: now[name] for name in ("torch", "timm")} | {"cuda": str(torch.version.cuda)},
        }


def planned_steps(config: FitConfig, images: int) -> int:
    """Return the steps in which the backbone is trained on `images` training images.

    >>> from finetune.training.config import TrainConfig
    >>> planned_steps(FitConfig(train=TrainConfig(epochs=5, frozen_epochs=2, batch_size=32)), 100)
    9
    """
    train = config.train
    return (train.epochs - train.frozen_epochs) * max(1, images // train.batch_size)


def training_precision(work: Workload, world: World, begun: Choice | None = None) -> Precision:
    """Return where and how finely a training computes: as asked, as it began, or what is measured to be best.

    Args:
        work: the training.
        world: its processes; the first one measures for all.
        begun: the choice that this training, or one that it is to be compared with, began with.
    """
    config, asked = work.config, work.config.run.precision
    device = config.device
    if world.size > 1 and choose_precision(device, "float32").device.type == "cuda":
        device = f"cuda:{world.local_rank}"
    if asked != "auto":
        return choose_precision(device, asked)
    choice = begun if begun is not None and _is_usable(device, begun) else None
    if choice is None:
        choice = from_first(choose_format(device, work) if world.is_main else None, world)
    assert choice is not None
    return replace(choose_precision(device, choice.name, reason=choice.reason), choice=choice)


def choose_format(device: str, work: Workload, *, clock: Clock | None = None) -> Choice:
    """Return the format to train in on a device, remembered or measured.

    The most exact of the candidates is taken that needs at most 10 % more than the fastest.
    Where few steps are planned nothing is measured: what is remembered counts, else float32 on a CPU and
    the fast format of the hardware on a GPU.

    Args:
        device: as the configuration names it.
        work: the training.
        clock: the seconds now, after all that was begun is done; the machine's own where it is None.
    """
    today = choose_precision(device)
    names = candidates(today.device)
    if len(names) == 1:
        return Choice(names[0], today.reason)
    plain = choose_precision(device, "float32")
    with _threads(work.threads):
        key = work.key(plain)
        seconds, images = _recall(key, names)
        remembered = bool(seconds)
        if not remembered:
            if work.steps < FEW_STEPS:
                few = f"{work.steps} steps are too few to measure which format is fastest"
                return Choice(today.dtype_name if plain.device.type == "cuda" else "float32", few)
            prepare_torch(plain, deterministic=work.config.run.deterministic)
            seconds, images = _measure(device, work, names, clock or clock_of(plain.device))
            _remember(key, seconds, images)
    if not seconds:
        return Choice(today.dtype_name, "no format leaves memory to measure it")
    told = ", ".join(f"{name} {value:.3g} s" for name, value in seconds.items())
    when = "measured earlier" if remembered else "measured"
    return Choice(most_exact(seconds), f"{when}: {told} a step of {images}", seconds, images, remembered)


def most_exact(seconds: Mapping[str, float]) -> str:
    """Return the first format, of those from the most to the least exact, that is nearly the fastest.

    >>> most_exact({"float32": 1.1, "bfloat16": 1.0}), most_exact({"float32": 1.2, "bfloat16": 1.0})
    ('float32', 'bfloat16')
    """
    fastest = min(seconds.values())
    return next(name for name, value in seconds.items() if value <= CLOSE * fastest)


def time_formats(
    names: Sequence[str], step_of: StepOf, batch: int, clock: Clock, *, shorten: bool = True
) -> tuple[dict[str, float], int]:
    """Return the seconds that a step takes in each format, the fastest that was timed, and the images in it.

    The formats take turns, so that what else the machine does meets all of them. One for which the memory
    is too small is left out.

    Args:
        names: the formats, the most exact one first.
        step_of: returns what one step of a format does, on so many images.
        batch: images of the training's step.
        clock: the seconds now.
        shorten: take fewer images where a step is long.
    """
    images = _affordable(step_of(names[0], min(batch, FEW_IMAGES)), batch, clock) if shorten else batch
    steps = {name: step_of(name, images) for name in names}
    best = dict.fromkeys(names, math.inf)
    for number in range(1 + ROUNDS):
        for name, step in list(steps.items()):
            start = clock()
            try:
                step()
            except torch.OutOfMemoryError:
                del steps[name], best[name]
                continue
            if number:
                best[name] = min(best[name], clock() - start)
        if number == ROUNDS - 1 and _far_apart(list(best.values())):
            break
    return best, images


def _far_apart(seconds: Sequence[float]) -> bool:
    fastest, *others = sorted(seconds) or [0.0]
    return all(value > FAR * fastest for value in others)


def clock_of(device: torch.device) -> Clock:
    """Return the clock that steps on a device are timed by.

    On a CPU with one thread it is the time that this process computed, which a busy machine does not
    lengthen.
    """
    if device.type == "cpu":
        return time.process_time if torch.get_num_threads() == 1 else time.perf_counter

    def after_all_work() -> float:
        torch.accelerator.synchronize(device)
        return time.perf_counter()

    return after_all_work


def _affordable(step: Callable[[], object], batch: int, clock: Clock) -> int:
    """Return how many images of the batch a timed step may have."""
    few = min(batch, FEW_IMAGES)
    step()
    start = clock()
    step()
    whole = (clock() - start) * batch / few
    return batch if whole <= LONGEST_STEP else max(few, int(batch * LONGEST_STEP / whole))


def _measure(device: str, work: Workload, names: Sequence[str], clock: Clock) -> tuple[dict[str, float], int]:
    """Time the formats on a model of their own; nothing of this process is changed."""
    with random_state_kept(), silently():
        core = choose_precision(device, "float32").place(work.build())

        def step_of(name: str, images: int) -> Callable[[], object]:
            precision = choose_precision(device, name)
            pictures, target = random_batch(core, work.image_size, images, work.classes)  # type: ignore[arg-type]
            step = training_step(core, precision.arrange(pictures), target, precision)  # type: ignore[arg-type]

            def inside() -> None:
                with precision.products():
                    step()

            return inside

        on_gpu = next(core.parameters()).device.type != "cpu"
        found = time_formats(names, step_of, work.batch, clock, shorten=not on_gpu)
    if on_gpu:
        del core
        torch.cuda.empty_cache()
    return found


def _is_usable(device: str, choice: Choice) -> bool:
    try:
        choose_precision(device, choice.name)
    except UsageError:
        return False
    return True


def _file(key: Mapping[str, Any]) -> Path | None:
    folder = user_cache()
    digest = hashlib.sha256(json.dumps(key, sort_keys=True).encode()).hexdigest()[:24]
    return None if folder is None else folder / FOLDER / f"{digest}.json"


def _recall(key: Mapping[str, Any], names: Sequence[str]) -> tuple[dict[str, float], int]:
    """Return what was measured for a key; nothing where the file is not there, damaged, or of another key."""
    file = _file(key)
    try:
        content = json.loads(file.read_text(encoding="utf-8")) if file is not None else {}
        seconds = {str(name): float(value) for name, value in content["seconds"].items()}
        images = int(content["images"])
    except (OSError, ValueError, TypeError, KeyError, AttributeError):
        return {}, 0
    right = content["key"] == key and all(math.isfinite(value) and value > 0 for value in seconds.values())
    ordered = {name: seconds[name] for name in names if name in seconds}
    return (ordered, images) if right and ordered.keys() == seconds.keys() else ({}, 0)


def _remember(key: Mapping[str, Any], seconds: Mapping[str, float], images: int) -> None:
    """Keep what was measured, where the user's cache folder can be written to."""
    file = _file(key)
    if file is None or not seconds:
        return
    text = json.dumps({"key": key, "seconds": seconds, "images": images}, indent=1)
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        write_bytes(file, text.encode())
    except (OSError, ResourceError):
        return


@contextmanager
def _threads(count: int) -> Iterator[None]:
    """Compute with so many threads inside the `with`; with this process's own where it is 0."""
    before = torch.get_num_threads()
    if count in (0, before):
        yield
        return
    torch.set_num_threads(count)
    try:
        yield
    finally:
        torch.set_num_threads(before)
