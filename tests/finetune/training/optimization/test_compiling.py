from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import nn

from finetune.errors import ResourceError
from finetune.training.optimization.compiling import (
    MANY_STEPS,
    compiled_or_eager,
    compiles,
    nothing_kept,
)
from finetune.training.optimization.rehearsal import compiling_pays


@pytest.mark.parametrize(
    ("wish", "device", "steps", "expected"),
    [
        ("auto", "cuda", MANY_STEPS + 1, True),
        ("auto", "cuda", MANY_STEPS, False),
        ("auto", "cpu", 10**9, False),
        (True, "cpu", 1, True),
        ("on", "cuda", 1, True),
        (False, "cuda", 10**9, False),
        ("off", "cuda", 10**9, False),
    ],
)
def test_auto_compiles_on_a_gpu_where_many_steps_follow(wish, device: str, steps: int, expected: bool):
    assert compiles(wish, torch.device(device), steps) == expected


@pytest.mark.parametrize(
    ("wish", "expected"), [("auto", [True, False]), (True, [True] * 2), (False, [False] * 2)]
)
def test_auto_means_what_was_decided_for_all_runs_of_a_study(wish: bool | str, expected: list[bool]):
    device = torch.device("cuda")
    assert [compiles(wish, device, 1, True), compiles(wish, device, 10**9, False)] == expected


def without_a_compiler(_graph: Any, _inputs: Any) -> Callable[..., Any]:
    raise RuntimeError("Failed to find C compiler.\nSet CC.")


class Net(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.norm, self.drop = nn.BatchNorm1d(3), nn.Dropout(0.5)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.drop(self.norm(x)).sum()


def stepping(network: Net, backend: Any, **options: Any) -> tuple[bool, list[Any]]:
    """Return whether the network stays compiled, and what its rehearsals used."""
    model: list[Any] = [torch.compile(network, backend=backend)]

    def to_eager() -> None:
        model[0] = network

    def rehearse() -> None:
        model[0](torch.randn(4, 3)).backward()

    with nothing_kept(network.parameters(), network.buffers()):
        return compiled_or_eager(rehearse, to_eager, **options), model


def test_a_failing_compiler_leaves_the_step_eager_and_nothing_else_changed(capsys):
    network, x = Net(), torch.randn(4, 3)
    before = {name: value.clone() for name, value in network.state_dict().items()}
    state = torch.get_rng_state()
    stays, model = stepping(network, without_a_compiler, by_name=False)
    assert (stays, model) == (False, [network])
    told = capsys.readouterr()
    line = next(line for line in (told.out + told.err).splitlines() if "not compiled" in line)
    assert "RuntimeError: Failed to find C compiler.; torch.compile needs a C compiler" in line
    assert torch.equal(torch.get_rng_state(), state)
    assert all(torch.equal(value, before[name]) for name, value in network.state_dict().items())
    assert all(weight.grad is None for weight in network.parameters())
    assert torch.isfinite(model[0](x))


def test_compiling_by_name_is_refused_where_it_fails():
    with pytest.raises(
        ResourceError,
        match=r"cannot be compiled: RuntimeError: Failed to find C compiler.*--run.compile auto",
    ):
        stepping(Net(), without_a_compiler, by_name=True)


def test_a_step_that_can_be_compiled_stays_so_and_leaves_no_trace():
    network = Net()
    before = {name: value.clone() for name, value in network.state_dict().items()}
    stays, model = stepping(network, "eager", by_name=False)
    assert stays
    assert model[0] is not network
    assert all(torch.equal(value, before[name]) for name, value in network.state_dict().items())


def test_what_fails_without_the_compiler_too_is_raised_as_it_is():
    def rehearse() -> None:
        raise ValueError("two classes, three targets")

    with pytest.raises(ValueError, match="three targets"):
        compiled_or_eager(rehearse, lambda: None, by_name=False)


def test_memory_that_runs_out_is_not_the_compilers_fault():
    undone: list[int] = []

    def rehearse() -> None:
        raise torch.OutOfMemoryError("CUDA out of memory")

    with pytest.raises(torch.OutOfMemoryError):
        compiled_or_eager(rehearse, lambda: undone.append(1), by_name=False)
    assert not undone


@pytest.mark.parametrize(("compiled", "pays"), [(0.5, True), (0.95, False), (1.5, False)])
def test_a_compiled_step_must_be_a_tenth_faster(capsys, compiled: float, pays: bool):
    seconds, now = [1.0], [0.0]

    def rehearse() -> None:
        now[0] += seconds[0]

    def switch(value: float) -> Callable[[], None]:
        return lambda: seconds.__setitem__(0, value)

    assert compiling_pays(rehearse, switch(1.0), switch(compiled), lambda: now[0]) == pays
    told = (
        f"the training step is {'' if pays else 'not '}compiled: without 1 s, compiled {compiled:g} s a step"
    )
    assert told in capsys.readouterr().out
