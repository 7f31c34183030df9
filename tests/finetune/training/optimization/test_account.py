"""Loss and totals as one function: the values of the parts, one graph, and a way on where compiling fails."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor

from core_losses import LOSSES, chosen
from finetune.errors import UsageError
from finetune.models.heads.base import HeadOutput
from finetune.training.config import LossConfig
from finetune.training.data import TrainingData
from finetune.training.epoch_metrics import Totals
from finetune.training.learner import build_learner
from finetune.training.objective import Objective
from finetune.training.optimization import compiling
from finetune.training.optimization.account import Account
from finetune.training.optimization.distributed import World
from tests.finegrained.every_head import CASES, build, shown
from tests.finetune.quick import QUICK

Taken = tuple[Tensor, Tensor, Tensor]
TARGET = torch.arange(6) % 5


def an_output() -> HeadOutput:
    return HeadOutput(torch.randn(6, 5, requires_grad=True))


def account(loss: str = "crl") -> Account:
    return Account(Objective(LossConfig(loss).build()))


def taken(own: Account, output: HeadOutput, target: Tensor, *, compiled: bool) -> Taken:
    """Return loss, gradient and totals of the second of two steps."""
    for _ in range(2):
        totals = Totals.zero(torch.device("cpu"))
        loss = own(output, target, totals, compiled=compiled)
    (gradient,) = torch.autograd.grad(loss, output.logits, retain_graph=True)
    assert (own._way is not None) == compiled
    return loss, gradient, totals.sums


@pytest.fixture
def _graph_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    """No code is generated: the operations of the one graph are done as they were written down."""
    torch._dynamo.reset()
    make = torch.compile
    monkeypatch.setattr(torch, "compile", lambda whole, **how: make(whole, backend="eager", **how))


def assert_one_graph_gives_the_same(output: HeadOutput, target: Tensor, loss: str) -> None:
    torch._dynamo.reset()
    whole = taken(account(loss), output, target, compiled=True)
    parts = taken(account(loss), output, target, compiled=False)
    assert all(torch.equal(one, other) for one, other in zip(whole[:2], parts[:2], strict=True))
    torch.testing.assert_close(whole[2], parts[2], rtol=1e-6, atol=0)


@pytest.mark.usefixtures("_graph_alone")
def test_loss_and_totals_are_one_graph_with_the_values_of_the_parts() -> None:
    assert_one_graph_gives_the_same(an_output(), TARGET, "crl")


@pytest.mark.exhaustive  # 40 seconds
@pytest.mark.usefixtures("_graph_alone")
@pytest.mark.parametrize("masked", [False, True])
def test_every_loss_and_every_head_is_one_graph(masked: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(chosen, "by_mask", lambda _: masked)
    for loss in (*LOSSES, "dualce:alpha=0.1"):
        assert_one_graph_gives_the_same(an_output(), TARGET, loss)
        assert_one_graph_gives_the_same(an_output(), torch.rand(6, 5).softmax(1), loss)
    for case in CASES:
        core = build(case).train()
        images, target = shown(core, torch.randn(4, 3, 64, 64), torch.arange(4) % 5)
        assert_one_graph_gives_the_same(core(images, target), target, "crl")


@pytest.mark.parametrize("was_compiled", [False, True])
def test_where_compiling_fails_one_line_says_so_and_the_parts_are_done(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], was_compiled: bool
) -> None:
    tried: list[Any] = []

    def without_compiler(whole: Any, **_: Any) -> Any:
        tried.append(whole)

        def fail(*_: Any) -> Tensor:
            raise RuntimeError("no C compiler\nand much more")

        return fail

    monkeypatch.setattr(torch, "compile", without_compiler)
    output, totals = an_output(), Totals.zero(torch.device("cpu"))
    own = Account(account().objective, was_compiled=was_compiled)
    for _ in range(3):
        loss = own(output, TARGET, totals, compiled=True)
    plain = Totals.zero(torch.device("cpu"))
    assert torch.equal(loss, account()(output, TARGET, plain))
    torch.testing.assert_close(totals.sums, 3 * plain.sums)
    told = capsys.readouterr().out.splitlines()
    assert told[0].startswith("notice: loss and totals are not compiled: RuntimeError: no C compiler; ")
    assert [("no longer bit-exact" in line) for line in told[1:]] == [True] * was_compiled
    assert len(tried) == 1


def test_processes_count_once_where_another_one_cannot_compile(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch, "compile", lambda whole, **_: whole)
    monkeypatch.setattr(compiling, "any_true", lambda _flag, _world: True)
    own, output, totals = account(), an_output(), Totals.zero(torch.device("cpu"))
    own(output, TARGET, totals, compiled=True)
    plain = Totals.zero(torch.device("cpu"))
    account()(output, TARGET, plain)
    assert torch.equal(totals.sums, plain.sums)


def test_what_is_wrong_without_a_compiler_too_is_no_fault_of_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch, "compile", lambda whole, **_: whole)
    wrong = Account(Objective(LossConfig("crl").build(), {"nowhere": torch.nn.CrossEntropyLoss()}))
    with pytest.raises(UsageError, match="no branch is called nowhere"):
        wrong(an_output(), TARGET, Totals.zero(torch.device("cpu")), compiled=True)


@pytest.mark.parametrize(
    ("device", "model", "compiled"), [("cuda", True, True), ("cuda", False, False), ("cpu", True, False)]
)
def test_only_a_gpu_whose_model_is_compiled_compiles_them(
    task: TrainingData, monkeypatch: pytest.MonkeyPatch, device: str, model: bool, compiled: bool
) -> None:
    learner = build_learner(task, QUICK, World())
    learner.precision = replace(learner.precision, device=torch.device(device))
    if model:
        monkeypatch.setattr(learner.model, "_compiled_call_impl", learner.model.forward)
    asked: list[bool] = []
    own = Account.__call__

    def note(each: Account, *given: Any, compiled: bool) -> Tensor:
        asked.append(compiled)
        return own(each, *given)

    monkeypatch.setattr(Account, "__call__", note)
    output, totals = HeadOutput(torch.randn(6, 3)), Totals.zero(torch.device("cpu"))
    learner.settle(output, torch.arange(6) % 3, totals)
    first = learner.account
    learner.settle(output, torch.arange(6) % 3, totals)
    assert asked == [compiled] * 2
    assert learner.account is first
