"""Check 9: a training step never makes the host wait for the GPU.

Torch's own mode raises at what waits, but overlooks copies from ordinary memory that claim to be
asynchronous; `HostCopies` sees those.
"""

from __future__ import annotations

import traceback
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from apps.doctor.gpu.outcome import Findings, Outcome, error_text
from apps.doctor.gpu.setup import Setup
from apps.doctor.gpu.work import general
from apps.doctor.gpu.work.training import Ready, learner_for, ready_batch, recipe, task_for, train_steps

WARM_UP, WATCHED = 2, 10
REPAIR = "training is slower than it could be, and its results stand; send gpu-check.json"
CASES: dict[str, dict[str, Any]] = {
    "linear": {},
    "DCL": {"head": "dcl", "options": {"regions": 4}},
    "mixup": {"mixup": 0.2},
}


class HostCopies(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Notes each copy between host and device, and each value that the host reads, in `seen`.

    "pinned 6x64x64x3" is a copy from page-locked memory, "blocking ..." one from other memory, whatever it
    claims, or back to the host; "read" is a value that the host waited for.

    Args:
        kind: of the device, such as cuda.
    """

    def __init__(self, kind: str = "cuda") -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.kind = kind
        self.seen: list[str] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Run the operation and note what it moves."""
        del types
        made = func(*args, **(kwargs or {}))
        given = [value for value in tree_leaves((args, kwargs)) if isinstance(value, Tensor)]
        places = {value.device.type for value in (*given, *tree_leaves(made)) if isinstance(value, Tensor)}
        name = str(func)
        if "local_scalar_dense" in name and places == {self.kind}:
            self.seen.append("read")
        elif (
            self.kind != "cpu"
            and places >= {"cpu", self.kind}
            and any(word in name for word in ("copy", "where", "index"))
        ):
            source = next((value for value in given if value.device.type == "cpu"), given[0])
            shape = "x".join(map(str, source.shape)) or "number"
            pinned = source.device.type == "cpu" and source.is_pinned()
            self.seen.append(f"{'pinned' if pinned else 'blocking'} {shape}")
        return made


def check_traffic(setup: Setup) -> Outcome:
    """Return what ten steps of each kind of training wait for, and what they copy from ordinary memory."""
    found = Findings()
    for name, watched in _trainings(setup):
        copies = HostCopies(setup.device.type)
        problem = ""
        try:
            watched(copies)
        except RuntimeError as error:  # torch's word for an operation that waits
            problem = f"{error_text(error)}{place_of(error)}"
        blocking = [seen for seen in copies.seen if seen.startswith("blocking")]
        found.numbers[name] = {
            "copies": sorted(set(copies.seen)),
            "blocking": len(blocking),
            "waits": problem,
        }
        found.require(not problem, f"{name}: {problem}", REPAIR)
        told = f"{name}: {len(blocking)} copies from ordinary memory ({', '.join(sorted(set(blocking)))})"
        found.require(not blocking, told, REPAIR)
    if not found.faults:
        found.add(f"{WATCHED} steps of {', '.join([*CASES, 'general'])} never wait")
    return found.outcome()


Watched = Callable[[HostCopies], None]


def _trainings(setup: Setup) -> Iterator[tuple[str, Watched]]:
    for name, more in CASES.items():
        yield name, lambda copies, more=more: _watch(setup, more, copies)  # type: ignore[misc]
    yield "general", lambda copies: _watch_general(setup, copies)


def _watch(setup: Setup, more: dict[str, Any], copies: HostCopies) -> None:
    sizes, card = setup.sizes, setup.card
    config = recipe(
        sizes.trunk, sizes.side, str(setup.device), precision="auto", batch_size=sizes.batch, **more
    )
    learner = learner_for(task_for(setup.folder, sizes, sizes.side), config)
    batch = ready_batch(sizes.batch, sizes.side, learner.recipe.hooks.views)
    with ExitStack() as open_modes:
        let: list[Callable[[], None]] = []

        def after(done: int) -> None:
            if done == WARM_UP:
                let.append(open_modes.enter_context(card.waiting_is_an_error()))
                open_modes.enter_context(copies)
            elif done == WARM_UP + WATCHED:  # the loss watch reads once in 20 steps, and at an epoch's end
                open_modes.pop_all().close()

        train_steps(learner, Ready(batch, WARM_UP + WATCHED), WARM_UP + WATCHED, after)


def _watch_general(setup: Setup, copies: HostCopies) -> None:
    network = setup.sizes.general[0]
    trainer = general.trainer_for(network, str(setup.device), setup.folder / "traffic", together=2)
    training = general.begin(trainer)
    general.train_steps(training, WARM_UP)
    plan = training.batches.epoch(0)
    steps = training.batches.steps_per_epoch
    with setup.card.waiting_is_an_error(), copies:
        for step in range(WATCHED):
            training.step = step % steps
            training.train_step(plan)


def place_of(error: BaseException) -> str:
    """Return where in the toolkit an error rose, as (file:line); empty where it is not known."""
    frames = traceback.extract_tb(error.__traceback__)
    own = [
        frame for frame in frames if "site-packages" not in frame.filename and "/torch/" not in frame.filename
    ]
    return f" ({Path(own[-1].filename).name}:{own[-1].lineno})" if own else ""
