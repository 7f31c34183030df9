from __future__ import annotations

import multiprocessing
import os
import pickle
import socket
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode

from finetune.errors import UsageError
from finetune.training.optimization.distributed import (
    World,
    all_true,
    any_true,
    barrier,
    follow_first,
    from_first,
    gather_rows,
    start_world,
    stop_world,
    wrap_model,
)

SIZE = 2


def make_model(seed: int) -> nn.Module:
    torch.manual_seed(seed)
    return nn.Sequential(nn.Linear(5, 7), nn.Tanh(), nn.Linear(7, 3)).double()


def make_data() -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(3)
    return torch.randn(8, 5, generator=generator, dtype=torch.float64), torch.arange(8) % 3


def train(model: nn.Module, world: World, steps: int = 3) -> dict[str, Tensor]:
    """Train on this process's fraction of each global batch of 8."""
    model = wrap_model(model, world, "cpu")
    optimizer = torch.optim.SGD(model.parameters(), lr=0.5)
    images, target = make_data()
    for _ in range(steps):
        optimizer.zero_grad()
        share = slice(world.rank, None, world.size)
        loss = nn.functional.cross_entropy(model(images[share]), target[share])
        loss.backward()  # type: ignore[no-untyped-call]
        optimizer.step()
    return {name.removeprefix("module."): value for name, value in model.state_dict().items()}


def work(rank: int, port: int, result: Path) -> None:
    place = {
        "RANK": rank,
        "LOCAL_RANK": rank,
        "WORLD_SIZE": SIZE,
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": port,
    }
    os.environ |= {name: str(value) for name, value in place.items()}
    world = start_world("cpu")
    rows = 3 if rank == 0 else 0
    found: dict[str, Any] = {
        "world": world,
        "backend": dist.get_backend(),
        "device": str(world.device("cuda")),
        "uneven": gather_rows(
            {"index": np.arange(rank + 2) * 10 + rank, "name": np.full(rank + 2, f"r{rank}")}, world
        ),
        "empty": gather_rows({"probs": torch.full((rows, 2), float(rank)).bfloat16()}, world),
        "shapeless": gather_rows({"probs": torch.ones(rows, 2) if rank == 0 else torch.empty(0)}, world),
        "any": [any_true(rank == 1, world), any_true(False, world)],
        "all": [all_true(rank == 1, world), all_true(True, world)],
        "first": from_first(f"chosen by {rank}", world),
        "weights": train(make_model(seed=rank), world),  # rank 0's weights count
    }
    taken = {
        "float": torch.full((2, 3), float(rank)),
        "flag": torch.tensor(rank == 0),
        "count": torch.tensor(7 * rank),
        "half": torch.full((3,), 0.5 + rank).bfloat16(),
        "last": torch.full((2, 3, 2, 2), float(rank)).to(memory_format=torch.channels_last),
    }
    follow_first(taken.values(), world)
    found["taken"] = taken
    sent: list[int] = []
    by_object = dist.all_gather_object
    dist.all_gather_object = lambda parts, own: (sent.append(len(pickle.dumps(own))), by_object(parts, own))
    gather_rows({"records": torch.zeros((50 - rank, 10_000), dtype=torch.uint8)}, world)
    dist.all_gather_object = by_object
    found["sent"] = sent
    try:
        gather_rows({f"only{rank}": np.zeros(1)}, world)
    except ValueError as error:
        found["error"] = str(error)
    barrier(world)
    stop_world()
    stop_world()
    found["left"] = not dist.is_initialized()
    torch.save(found, result)


@pytest.fixture(scope="module")
def results(tmp_path_factory: pytest.TempPathFactory) -> list[dict[str, Any]]:
    """What two gloo processes on this machine found."""
    folder = tmp_path_factory.mktemp("world")
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(
        ["finetune.training.optimization.distributed", "finetune.training.checkpoint"]
    )
    processes = [context.Process(target=work, args=(rank, port, folder / str(rank))) for rank in range(SIZE)]
    for process in processes:
        process.start()
    for process in processes:
        process.join(60)
        process.kill()
    assert [process.exitcode for process in processes] == [0] * SIZE
    return [torch.load(folder / str(rank), weights_only=False) for rank in range(SIZE)]


def test_each_process_knows_its_place(results: list[dict[str, Any]]) -> None:
    assert [found["world"] for found in results] == [World(0, 2, 0), World(1, 2, 1)]
    assert [found["world"].is_main for found in results] == [True, False]
    assert [found["device"] for found in results] == ["cuda:0", "cuda:1"]
    assert {found["backend"] for found in results} == {"gloo"}
    assert all(found["left"] for found in results)


def test_rows_of_uneven_processes_are_joined_in_the_order_of_ranks(results: list[dict[str, Any]]) -> None:
    for found in results:
        assert found["uneven"]["index"].tolist() == [0, 10, 1, 11, 21]
        assert found["uneven"]["name"].tolist() == ["r0", "r0", "r1", "r1", "r1"]


def test_a_process_without_rows_adds_none(results: list[dict[str, Any]]) -> None:
    for found in results:
        assert torch.equal(found["empty"]["probs"], torch.zeros(3, 2).bfloat16())
        assert found["empty"]["probs"].dtype == torch.bfloat16
        assert torch.equal(found["shapeless"]["probs"], torch.ones(3, 2))


def test_tensors_travel_as_they_are_not_as_pickled_objects(results: list[dict[str, Any]]) -> None:
    assert all(0 < size < 200 for found in results for size in found["sent"])
    assert all(len(found["sent"]) == 1 for found in results)


def test_all_go_on_with_the_first_process_s_values_of_any_type(results: list[dict[str, Any]]) -> None:
    for found in results:
        first = found["taken"]
        assert first["float"].tolist() == [[0.0] * 3] * 2
        assert (first["flag"].item(), first["count"].item()) == (True, 0)
        assert torch.equal(first["half"], torch.full((3,), 0.5).bfloat16())
        assert torch.equal(first["last"], torch.zeros(2, 3, 2, 2))
        assert first["last"].is_contiguous(memory_format=torch.channels_last)


def test_flags_of_all_processes_are_combined(results: list[dict[str, Any]]) -> None:
    assert [found["any"] for found in results] == [[True, False]] * SIZE
    assert [found["all"] for found in results] == [[False, True]] * SIZE
    assert [found["first"] for found in results] == ["chosen by 0"] * SIZE


def test_processes_that_gather_different_things_are_told(results: list[dict[str, Any]]) -> None:
    assert all("[['only0'], ['only1']]" in found["error"] for found in results)


def test_two_processes_train_what_one_would(results: list[dict[str, Any]]) -> None:
    alone = train(make_model(seed=0), World())
    untrained = make_model(seed=0).state_dict()
    for found in results:
        for name, weights in found["weights"].items():
            torch.testing.assert_close(weights, alone[name], rtol=0, atol=1e-12)
            assert not torch.allclose(weights, untrained[name], atol=1e-3)


@pytest.mark.parametrize(("backend", "place"), [("nccl", "cuda"), ("gloo", "cpu")])
def test_tensors_are_exchanged_where_the_backend_can(
    monkeypatch: pytest.MonkeyPatch, backend: str, place: str
) -> None:
    seen: list[tuple[str, int]] = []

    def gather(parts: list[Tensor], own: Tensor) -> None:
        seen.append((own.device.type, own.numel()))

    monkeypatch.setattr(dist, "get_backend", lambda: backend)
    monkeypatch.setattr(
        dist, "all_gather_object", lambda parts, own: parts.__setitem__(slice(None), [own] * 2)
    )
    monkeypatch.setattr(dist, "all_gather", gather)
    monkeypatch.setattr(dist, "broadcast", lambda flat, src: seen.append((flat.device.type, flat.numel())))
    with FakeTensorMode():
        rows = torch.empty(3, 2, device=place)
        found = gather_rows({"rows": rows}, World(0, 2))["rows"]
        follow_first([rows, torch.empty((), dtype=torch.int64, device=place)], World(0, 2))
    assert (found.device.type, tuple(found.shape), found.dtype) == (place, (6, 2), torch.float32)
    assert seen == [(place, 24), (place, 32)]


def test_one_process_leaves_torch_distributed_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    for value in (None, "1"):
        monkeypatch.delenv("WORLD_SIZE", raising=False)
        if value:
            monkeypatch.setenv("WORLD_SIZE", value)
        world = start_world("cpu")
        assert world == World(0, 1, 0)
        assert not dist.is_initialized()
        assert world.is_main
    model, rows = nn.Linear(2, 2), {"a": np.arange(3)}
    assert wrap_model(model, world, "cpu") is model
    assert gather_rows(rows, world)["a"] is rows["a"]
    assert from_first(rows, world) is rows
    assert (any_true(True, world), all_true(False, world)) == (True, False)
    assert str(world.device("cuda")) == "cuda"
    barrier(world)
    stop_world()


@pytest.mark.parametrize(
    ("name", "value", "arrived"), [("RANK", None, "not set"), ("LOCAL_RANK", "x", "got 'x'")]
)
def test_an_incomplete_environment_is_told(
    monkeypatch: pytest.MonkeyPatch, name: str, value: str | None, arrived: str
) -> None:
    for variable in ("RANK", "LOCAL_RANK"):
        monkeypatch.setenv(variable, "0")
    monkeypatch.setenv("WORLD_SIZE", "2")
    monkeypatch.delenv(name)
    if value:
        monkeypatch.setenv(name, value)
    with pytest.raises(UsageError, match=f"{name} must be a number .*{arrived}.*torchrun"):
        start_world("cpu")
