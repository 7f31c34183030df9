"""The door: names, `build_loss`, and every loss as a drop-in under torch's transforms."""

from __future__ import annotations

import copy
import inspect
import os
import pickle
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import core_losses
from core_losses import LOSSES, LossTable, build_loss, loss_keywords, loss_named

NAMES = list(LOSSES)


def _batch(dtype: torch.dtype = torch.float32) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(6)
    logits = torch.randn(6, 4, generator=generator).to(dtype)
    return logits, torch.tensor([0, 1, 2, 3, -100, 1])


def test_table_holds_the_nine_losses_and_the_door_names_everything_it_exports() -> None:
    assert NAMES == ["cel", "nllr", "crl", "focal", "cce", "dualce", "tce", "olog", "mean_variance"]
    for name in NAMES:
        assert LOSSES.reads_order(name) == LOSSES[name].ordered == (name in ("olog", "mean_variance"))
    assert sorted(core_losses.__all__) == sorted(set(core_losses.__all__))
    for name in core_losses.__all__:
        assert inspect.getdoc(getattr(core_losses, name)), name


def test_a_loss_is_found_by_its_class_imported_or_not() -> None:
    for name in NAMES:
        assert loss_named(LOSSES[name].__name__) == name
    untouched = LossTable({"toy": "nowhere:ToyLoss"})
    assert untouched.class_name("toy") == "ToyLoss"
    with pytest.raises(ValueError, match="no loss has the class 'CRL'; there are CrossEntropyLoss, NLLRLoss"):
        loss_named("CRL")


def test_build_loss_passes_keywords_and_says_its_settings() -> None:
    loss = build_loss("crl", alpha=2.0, beta=0.5, reduction="sum", weight=torch.ones(4))
    assert repr(loss) == "CompetingRatioLoss(alpha=2.0, beta=0.5)"
    assert loss.reduction == "sum"
    assert list(loss.state_dict()) == ["weight"]


@pytest.mark.parametrize("name", NAMES)
def test_a_loss_survives_pickling_copying_and_its_state_dict(name: str) -> None:
    logits, target = _batch()
    weight = torch.tensor([0.5, 1.0, 2.0, 3.0])
    loss = build_loss(name, weight=weight, label_smoothing=0.1, reduction="sum")
    for twin in (pickle.loads(pickle.dumps(loss)), copy.deepcopy(loss)):
        assert repr(twin) == repr(loss)
        assert torch.equal(twin(logits, target), loss(logits, target))
        twin.load_state_dict({"weight": torch.zeros(4)})
        assert twin(logits, target) == 0
        twin.load_state_dict(nn.CrossEntropyLoss(weight=weight).state_dict())
        assert torch.equal(twin(logits, target), loss(logits, target))


@pytest.mark.parametrize("name", NAMES)
def test_repr_names_every_setting_of_the_losss_own(name: str) -> None:
    loss = build_loss(name)
    own = [key for key in loss_keywords(name)[:-4] if vars(loss)[key] is not None]
    assert repr(loss) == f"{type(loss).__name__}({', '.join(f'{key}={vars(loss)[key]}' for key in own)})"


@pytest.mark.parametrize(
    ("name", "keywords", "message"),
    [
        (
            "clr",
            {},
            r"no loss 'clr'; did you mean '\w+'\? Known losses: cel, nllr, crl, focal, cce, dualce, tce, ",
        ),
        ("xyz", {}, r"no loss 'xyz'; Known losses: cel"),
        (
            "crl",
            {"alhpa": 1.0},
            r"no keyword 'alhpa'; did you mean 'alpha'\? Known keywords: alpha, beta, clamp, weight",
        ),
        ("focal", {"alpha": 1.0}, r"loss 'focal' has no keyword 'alpha'.*Known keywords: gamma, weight"),
    ],
)
def test_build_loss_refuses_what_it_does_not_know(name: str, keywords: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        build_loss(name, **keywords)


@pytest.mark.parametrize("name", NAMES)
def test_every_loss_takes_the_keywords_of_torchs_cross_entropy_with_its_defaults(name: str) -> None:
    theirs = inspect.signature(nn.CrossEntropyLoss).parameters
    current = [
        keyword for keyword in theirs if keyword not in ("size_average", "reduce")
    ]  # torch's deprecated two
    assert set(current) <= set(loss_keywords(name))
    loss = build_loss(name)
    for keyword in current:
        assert vars(loss).get(keyword, loss.weight) == theirs[keyword].default


@pytest.mark.parametrize("name", NAMES)
def test_replaces_cross_entropy_in_a_training_step(name: str) -> None:
    torch.manual_seed(0)
    model = nn.Linear(3, 4)
    optimiser = torch.optim.SGD(model.parameters(), lr=0.05)
    images, target = torch.randn(16, 3), torch.randint(0, 4, (16,))
    criterion = build_loss(name)
    values = []
    for _ in range(20):
        loss = criterion(model(images), target)
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        values.append(loss.item())
    assert values[-1] < values[0]


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_types_are_computed_in_float32_and_give_half_gradients(name: str, dtype: torch.dtype) -> None:
    logits, target = _batch(dtype)
    logits.requires_grad_()
    value = build_loss(name)(logits, target)
    assert value.dtype == torch.float32
    assert value == build_loss(name)(logits.detach().float(), target)
    value.backward()
    assert logits.grad is not None
    assert logits.grad.dtype == dtype


@pytest.mark.parametrize("name", NAMES)
def test_autocast_changes_nothing_but_the_logits_type(name: str) -> None:
    images, target = torch.randn(6, 3), _batch()[1]
    model, criterion = nn.Linear(3, 4), build_loss(name)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        logits = model(images)
        value = criterion(logits, target)
        value.backward()
    assert logits.dtype == torch.bfloat16
    assert value.dtype == torch.float32
    assert value.item() == criterion(logits.detach().float(), target).item()
    assert model.weight.grad is not None
    assert model.weight.grad.abs().sum() > 0


@pytest.mark.parametrize("name", NAMES)
def test_per_sample_gradients_by_vmap_equal_a_loop(name: str) -> None:
    logits, target = _batch(torch.float64)
    criterion = build_loss(name, reduction="sum", weight=torch.tensor([0.5, 1.0, 2.0, 3.0]))
    together = torch.func.vmap(torch.func.grad(criterion))(logits, target)
    for row, goal, grad in zip(logits, target, together, strict=True):
        z = row.clone().requires_grad_()
        torch.testing.assert_close(grad, torch.autograd.grad(criterion(z, goal), z)[0])
    shared = torch.func.vmap(criterion, in_dims=(None, 0))(logits[0], target)
    torch.testing.assert_close(shared[0], criterion(logits[0], target[0]))


@pytest.mark.parametrize("name", NAMES)
def test_double_backward_through_the_whole_reduction(name: str) -> None:
    logits, target = _batch(torch.float64)
    logits.requires_grad_()
    criterion = build_loss(name, weight=torch.tensor([0.5, 1.0, 2.0, 3.0]), label_smoothing=0.1)
    assert torch.autograd.gradgradcheck(lambda z: criterion(z, target), logits)
    assert torch.autograd.gradgradcheck(lambda z: build_loss(name)(z, target), logits)


@contextmanager
def _third_party_deprecations_ignored() -> Iterator[None]:
    with warnings.catch_warnings():
        for category in (DeprecationWarning, FutureWarning):
            warnings.filterwarnings("ignore", category=category, module=r"torch\..*|setuptools.*|distutils.*")
        yield


@pytest.mark.parametrize("backend", ["aot_eager", pytest.param("inductor", marks=pytest.mark.exhaustive)])
@pytest.mark.parametrize("name", ["crl", "cce"])
def test_compiles_into_one_graph_with_the_same_value_and_gradient(name: str, backend: str) -> None:
    logits, target = _batch()
    criterion = build_loss(name, label_smoothing=0.0)
    with _third_party_deprecations_ignored():
        torch.compiler.reset()
        compiled: Any = torch.compile(criterion, fullgraph=True, backend=backend)
        z = logits.clone().requires_grad_()
        value = compiled(z, target)
        (grad,) = torch.autograd.grad(value, z)
    expected = criterion(z, target)
    torch.testing.assert_close(value, expected)
    torch.testing.assert_close(grad, torch.autograd.grad(expected, z)[0])


def test_trains_under_distributed_data_parallel(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(os.environ, "GLOO_SOCKET_IFNAME", "lo")
    torch.distributed.init_process_group(
        "gloo", init_method=f"file://{tmp_path / 'meeting'}", rank=0, world_size=1
    )
    try:
        model = nn.parallel.DistributedDataParallel(nn.Linear(3, 4))
        build_loss("crl")(model(torch.randn(6, 3)), _batch()[1]).backward()
        assert all(parameter.grad is not None for parameter in model.parameters())
    finally:
        torch.distributed.destroy_process_group()
