"""Check 8: two processes that train together end in equal weights, those of one process alone."""

from __future__ import annotations

import math
import os
import socket
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from apps.doctor.gpu.bounds import RANKS_ERROR
from apps.doctor.gpu.outcome import Findings, Outcome
from apps.doctor.gpu.setup import Setup
from apps.doctor.gpu.work.training import task_for

RANKS = 2
REPAIR = "train in one process until this is fixed, and send gpu-check.json"
NCCL_REPAIR = f"{REPAIR}. Does NCCL_P2P_DISABLE=1 change it?"

Answer = Mapping[str, Any]


def run_ranks(setup: Setup, backend: str) -> tuple[Answer, list[Answer]]:
    """Return what one process alone ended in, and what each of two together did.

    `backend` is cpu (gloo; both on this GPU) or cuda (NCCL; each on a GPU of its own).
    """
    folder = setup.folder
    task_for(folder, setup.sizes, setup.sizes.runs_side)
    setup.card.release()
    alone = folder / f"{backend}-alone.pt"
    together = [folder / f"{backend}-rank{rank}.pt" for rank in range(RANKS)]
    processes = [setup.start("ranks", str(folder), str(alone))]
    shared = {
        "WORLD_SIZE": str(RANKS),
        "LOCAL_WORLD_SIZE": str(RANKS),
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": str(_free_port()),
        "CRL_DOCTOR_BACKEND": backend,
        **(_every_gpu(setup) if backend == "cuda" else {}),
    }
    for rank, file in enumerate(together):
        own = {"RANK": str(rank), "LOCAL_RANK": str(rank if backend == "cuda" else 0)}
        processes.append(setup.start("ranks", str(folder), str(file), more={**shared, **own}))
    setup.finish(processes)
    return _read(alone), [_read(file) for file in together]


def check_ranks(setup: Setup) -> Outcome:
    """Return how two processes differ from each other and from one, and how often their gradients met."""
    found = Findings()
    _compare(found, "two gloo processes on this GPU", REPAIR, *run_ranks(setup, "cpu"))
    if setup.card.count > 1 and setup.card.has_nccl:
        _compare(found, "two NCCL processes on two GPUs", NCCL_REPAIR, *run_ranks(setup, "cuda"))
    else:
        found.add("NCCL was not tried: there is one GPU")
    return found.outcome()


def _compare(found: Findings, name: str, repair: str, alone: Answer, together: list[Answer]) -> None:
    first = together[0]["weights"]
    equal = all(same(first, other["weights"]) for other in together[1:])
    error = distance(first, alone["weights"])
    met, windows = together[0]["met"], together[0]["windows"]
    found.numbers[name] = {"equal": equal, "error": error, "reductions": met, "windows": windows}
    found.require(equal, f"{name}: the processes hold different weights", repair)
    found.require(error <= RANKS_ERROR, f"{name}: off from one process by {error:.1e}", repair)
    told = f"{name}: gradients met {met} times in {windows} optimiser steps of two batches each"
    found.require(met == windows, told, "training is slower than it could be, and its results stand", "note")
    if equal and error <= RANKS_ERROR:
        found.add(
            f"{name}: equal weights, {error:.1e} from one process's, one reduction a step of two batches"
        )


def same(one: Mapping[str, Tensor], other: Mapping[str, Tensor]) -> bool:
    """Return whether two models are equal to the last bit."""
    return one.keys() == other.keys() and all(torch.equal(value, other[name]) for name, value in one.items())


def distance(found: Mapping[str, Tensor], wanted: Mapping[str, Tensor]) -> float:
    """Return the relative difference (L2) of all weights; infinite for NaN."""
    pairs = [(found[name].double().flatten(), value.double().flatten()) for name, value in wanted.items()]
    one, other = torch.cat([pair[0] for pair in pairs]), torch.cat([pair[1] for pair in pairs])
    error = float((one - other).norm() / other.norm())
    return math.inf if math.isnan(error) else error


def _read(file: Path) -> Answer:
    read: Answer = torch.load(file, weights_only=True)
    return read


def _every_gpu(setup: Setup) -> dict[str, str]:
    """Return the variable that shows a process all GPUs again, where one was chosen."""
    known = os.environ.get("CUDA_VISIBLE_DEVICES")
    return {"CUDA_VISIBLE_DEVICES": known or ",".join(map(str, range(setup.card.count)))}


def _free_port() -> int:
    with socket.socket() as listening:
        listening.bind(("127.0.0.1", 0))
        port: int = listening.getsockname()[1]
        return port
