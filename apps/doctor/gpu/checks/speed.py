"""Check 11: whether the loader feeds the GPU, and how the loop compares with a plain one."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any, NamedTuple

import torch

from apps.doctor.gpu.bounds import BESIDE_PLAIN, FED, MAIN_THREAD
from apps.doctor.gpu.outcome import Findings, Outcome, error_text
from apps.doctor.gpu.setup import Setup
from apps.doctor.gpu.work.drawn import draw_task
from apps.doctor.gpu.work.plain_loop import plain_steps
from apps.doctor.gpu.work.training import Ready, batches_for, learner_for, ready_batch, recipe, train_steps
from finetune.training.data import TrainingData
from finetune.training.learner import Learner
from finetune.training.predict import worker_count

WARM_UP = 5
COMPILING = 90.0  # seconds that must be left to compile the large backbone and time it
STARVED = (
    "give the process more CPU cores (nproc, --cpus, cpuset) or --run.workers; keep images in the cache; "
    "--train.augment standard takes a seventh of face's time"
)
SLOWER = "our loop should not be slower than a plain one: send gpu-check.json"


class Speed(NamedTuple):
    """Images a second, and the share of a core that the main thread took."""

    images: float
    main: float


def timed(setup: Setup, batch: int, run: Callable[[Callable[[int], None]], object]) -> Speed:
    """Return the speed of the steps after the warm-up; `run` tells its argument how many are done."""
    marks: list[tuple[float, float]] = []

    def after(done: int) -> None:
        if done in (WARM_UP, WARM_UP + setup.sizes.timed):
            setup.card.finish()
            marks.append((time.perf_counter(), time.thread_time()))

    run(after)
    (start, busy), (end, spent) = marks
    return Speed(batch * setup.sizes.timed / (end - start), (spent - busy) / (end - start))


def measure(setup: Setup, batch: int, side: int) -> dict[str, Speed]:
    """Return the speed on a batch that lies on the device, of our loader, and of the plain loop."""
    learner, task = _learner(setup, batch, side)
    found = {"on device": _there(setup, learner, batch, side), "ours": _ours(setup, learner, task, batch)}
    precision, steps = learner.precision, WARM_UP + setup.sizes.timed
    root, workers = task.manifest.root, learner.config.run.workers
    del learner  # its memory is the plain loop's

    def plain(after: Callable[[int], None]) -> None:
        made = plain_steps(setup.sizes.large, root, batch, side, batch * steps, workers, precision)
        for done in range(1, steps + 1):
            next(made)
            after(done)

    return {**found, "plain": timed(setup, batch, plain)}


def _learner(setup: Setup, batch: int, side: int, *, compiled: bool = False) -> tuple[Learner, TrainingData]:
    """Return what trains the large backbone, and a table long enough that no epoch ends while it is timed."""
    sizes = setup.sizes
    more: dict[str, Any] = {"batch_size": batch, "workers": worker_count(-1), "compile": compiled}
    config = recipe(sizes.large, side, str(setup.device), precision="auto", **more)
    rows = batch * (WARM_UP + sizes.timed)
    task = draw_task(setup.folder / f"photographs{side}", sizes.photographs, side, rows=rows)
    return learner_for(task, config), task


def _there(setup: Setup, learner: Learner, batch: int, side: int) -> Speed:
    steps = WARM_UP + setup.sizes.timed
    there = Ready(ready_batch(batch, side).to(setup.device), steps)
    return timed(setup, batch, lambda after: train_steps(learner, there, steps, after))


def _ours(setup: Setup, learner: Learner, task: TrainingData, batch: int) -> Speed:
    loaded = batches_for(learner, task)
    steps = WARM_UP + setup.sizes.timed
    return timed(setup, batch, lambda after: train_steps(learner, loaded, steps, after))


def check_speed(setup: Setup) -> Outcome:
    """Return how fast the GPU trains on a batch that lies there, by our loader, and by timm's plain loop."""
    found, sizes = Findings(), setup.sizes
    for batch, side in sizes.speed:
        speeds = measure(setup, batch, side)
        where = f"{sizes.large}, {side} px"
        _judge(found, where, speeds)
        setup.card.release()
    _compiled(setup, found)
    torch._dynamo.reset()
    return found.outcome()


def _judge(found: Findings, where: str, speeds: dict[str, Speed]) -> None:
    there, ours, plain = speeds["on device"], speeds["ours"], speeds["plain"]
    found.numbers[where] = {name: speed._asdict() for name, speed in speeds.items()}
    found.add(
        f"{where}: {ours.images:,.0f} img/s by our loader, {there.images:,.0f} on a batch on the device, "
        f"{plain.images:,.0f} by timm's plain loop; main thread {100 * ours.main:.0f} % of a core"
    )
    fed = ours.images / there.images
    found.require(
        fed >= FED, f"{where}: the GPU waits for images ({100 * fed:.0f} % of its speed)", STARVED, "note"
    )
    told = f"{where}: our loop is slower than timm's plain one"
    found.require(ours.images >= BESIDE_PLAIN * plain.images, told, SLOWER)
    busy = f"{where}: the main thread takes {100 * ours.main:.0f} % of a core"
    found.require(ours.main <= MAIN_THREAD, busy, "send gpu-check.json; results stand", "note")


def _compiled(setup: Setup, found: Findings) -> None:
    """Tell the speed of the compiled model, where there is time; check 3 judges whether it compiles."""
    batch, side = setup.sizes.speed[0]
    if setup.seconds_left() < COMPILING:
        found.add("compiled: not timed, there is too little time left")
        return
    try:
        learner, _ = _learner(setup, batch, side, compiled=True)
        speed = _there(setup, learner, batch, side)
    except Exception as error:  # whatever breaks in a compiler; a training goes on without it
        found.add(f"compiled: fails ({error_text(error)})", compiled=None)
        return
    found.add(f"compiled: {speed.images:,.0f} img/s at {side} px", compiled=speed.images)
