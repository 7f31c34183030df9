"""A training's step compiled, and tried out on drawn images before the first real one."""

from __future__ import annotations

from collections.abc import Callable

import torch

from finetune.cli.console import say
from finetune.training.learner import Learner
from finetune.training.loop import Sent, network_input, with_draws
from finetune.training.optimization.compiling import (
    compiled_or_eager,
    compiles,
    nothing_kept,
    random_state_kept,
)
from finetune.training.optimization.distributed import from_first, kept_apart
from finetune.training.optimization.measuring import Clock, Workload, clock_of, most_exact, time_formats
from finetune.training.optimization.precision import Choice, choose_precision
from finetune.training.optimization.torch_settings import prepare_torch
from finetune.training.optimization.trial_steps import random_batch, training_step

EAGER, COMPILED = "without", "compiled"


def compile_step(learner: Learner, *, features: bool, by_name: bool, settled: bool = False) -> bool:
    """Compile the learner's model, and return whether it stays so; else it goes on as it is.

    Steps are done on random images, and nothing of them is kept. Where compiling was left to auto they are
    timed too: a step that takes nearly as long without it is not compiled. What was decided for all runs of
    a study is not timed again.

    Args:
        learner: before its first step, or that of a stage.
        features: whether it learns from cached features and not from images.
        by_name: compiling was asked for: where it fails, ResourceError is raised.
        settled: earlier steps of this stage were compiled: none is timed, for these must go on alike.
    """
    core, model, precision = learner.core, learner.model, learner.precision
    count = learner.config.train.batch_size // learner.world.size
    learner.was_compiled = settled
    model.train()
    model.compile()

    compiled_call = model._compiled_call_impl

    def to_eager() -> None:
        model._compiled_call_impl = None

    def to_compiled() -> None:
        model._compiled_call_impl = compiled_call

    def rehearse() -> None:
        images, target = random_batch(core, learner.spec.image_size, count, learner.num_classes)
        batch = Sent(precision.arrange(images), target.cpu(), torch.arange(count))
        given, wanted = network_input(learner, with_draws(learner, batch, 0))
        with kept_apart(model, until_later=True):
            with precision.autocast():
                if features:
                    with torch.no_grad():
                        given = core.backbone(given)
                output = model(given, wanted)
            learner.objective(output, wanted).total.backward()  # type: ignore[no-untyped-call]

    with nothing_kept(core.parameters(), core.buffers()):
        if not compiled_or_eager(
            rehearse, to_eager, by_name=by_name, world=learner.world, was_compiled=settled
        ):
            return False
        if by_name or settled or learner.compiled_for_all:
            return True
        stays = compiling_pays(rehearse, to_eager, to_compiled, clock_of(precision.device))
        stays = from_first(stays, learner.world)
    (to_compiled if stays else to_eager)()
    return stays


def compiled_for_all(device: str, work: Workload, choice: Choice, steps: int) -> bool:
    """Return whether `run.compile auto` compiles the steps of all runs of a study, as one would decide.

    Where many steps follow on a GPU, steps of a model with random weights are timed with and without.

    Args:
        device: as the configuration names it.
        work: one of the trainings.
        choice: its number format.
        steps: of the longest of them.
    """
    precision = choose_precision(device, choice.name)
    if not compiles("auto", precision.device, steps):
        return False
    prepare_torch(precision, deterministic=work.config.run.deterministic)
    with random_state_kept():
        core = precision.place(work.build())
        images, target = random_batch(core, work.image_size, work.batch, work.classes)  # type: ignore[arg-type]
        step = training_step(core, precision.arrange(images), target, precision)  # type: ignore[arg-type]
        core.compile()
        compiled_call = core._compiled_call_impl

        def to_eager() -> None:
            core._compiled_call_impl = None

        def to_compiled() -> None:
            core._compiled_call_impl = compiled_call

        def rehearse() -> None:
            with precision.products():
                step()

        if not compiled_or_eager(rehearse, to_eager, by_name=False):
            return False
        return compiling_pays(rehearse, to_eager, to_compiled, clock_of(precision.device))


def compiling_pays(
    rehearse: Callable[[], object],
    to_eager: Callable[[], object],
    to_compiled: Callable[[], object],
    clock: Clock,
) -> bool:
    """Return whether a step takes a tenth less when it is compiled, and say what both take.

    Args:
        rehearse: does a step.
        to_eager, to_compiled: switch how it is done.
        clock: the seconds now, after all that was begun is done.
    """
    switches = {EAGER: to_eager, COMPILED: to_compiled}

    def step_of(name: str, _images: int) -> Callable[[], object]:
        def step() -> None:
            switches[name]()
            rehearse()

        return step

    seconds, _ = time_formats((EAGER, COMPILED), step_of, 1, clock, shorten=False)
    pays = bool(seconds) and most_exact(seconds) == COMPILED
    told = ", ".join(f"{name} {value:.3g} s" for name, value in seconds.items())
    say(f"the training step is {'' if pays else 'not '}compiled: {told} a step")
    return pays
