"""Whether steps are compiled: decided by one run, or once for all runs of a study."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from finetune.training.data import TrainingData
from finetune.training.learner import build_learner, workload
from finetune.training.optimization import rehearsal
from finetune.training.optimization.distributed import World
from finetune.training.optimization.precision import Choice
from finetune.training.optimization.rehearsal import compile_step, compiled_for_all
from tests.finetune.quick import QUICK

PLAIN = Choice("float32", "as asked")


@pytest.fixture
def _as_it_is(monkeypatch: pytest.MonkeyPatch) -> None:
    """Compiling takes no time: the compiled call is the plain one."""

    def leave(module: torch.nn.Module) -> None:
        module._compiled_call_impl = module._call_impl

    monkeypatch.setattr(torch.nn.Module, "compile", leave)


@pytest.mark.usefixtures("_as_it_is")
@pytest.mark.parametrize(("for_all", "timed"), [(None, 1), (True, 0)])
def test_a_run_of_a_study_does_not_time_again_what_was_decided_for_all(
    task: TrainingData, monkeypatch: pytest.MonkeyPatch, for_all: bool | None, timed: int
) -> None:
    asked: list[Any] = []
    monkeypatch.setattr(rehearsal, "compiling_pays", lambda *given: asked.append(given) or True)
    learner = build_learner(task, QUICK, World())
    learner.compiled_for_all = for_all
    assert compile_step(learner, features=False, by_name=False)
    assert len(asked) == timed


@pytest.mark.usefixtures("_as_it_is")
@pytest.mark.parametrize(
    ("fits", "pays", "expected"), [(True, True, True), (True, False, False), (False, True, False)]
)
def test_one_model_with_random_weights_decides_for_all(
    task: TrainingData, monkeypatch: pytest.MonkeyPatch, fits: bool, pays: bool, expected: bool
) -> None:
    monkeypatch.setattr(
        rehearsal, "compiles", lambda _wish, _device, steps: fits and steps == 99
    )  # as on a GPU

    def time_both(rehearse: Any, to_eager: Any, to_compiled: Any, _clock: Any) -> bool:
        for switch in (to_eager, to_compiled):
            switch()
            rehearse()
        return pays

    monkeypatch.setattr(rehearsal, "compiling_pays", time_both)
    before = torch.get_rng_state()
    work = workload(QUICK, 3, task.spec, 99)
    assert compiled_for_all("cpu", work, PLAIN, 99) == expected
    assert torch.equal(torch.get_rng_state(), before)


def test_on_a_processor_nothing_is_compiled_for_all(task: TrainingData) -> None:
    assert not compiled_for_all("cpu", workload(QUICK, 3, task.spec, 10**9), PLAIN, 10**9)
