"""Seeds: functions of their counters alone, equal in every process."""

from __future__ import annotations

import subprocess
import sys

import numpy as np
import pytest
import torch

from finetune.seeding import (
    derive_seed,
    epoch_order,
    numpy_generator,
    seed_step,
    seed_torch,
    torch_left_as_it_was,
)


def test_seeds_are_fixed_for_ever():
    assert derive_seed(0, "order", 0) == 4819849257279361181
    assert derive_seed(3, "augment", 1, 2) == 6453858726989584379


def test_seeds_are_equal_in_another_process_with_another_hash_seed():
    code = "from finetune.seeding import derive_seed; print(derive_seed(5, 'batch', 1, 2, 3))"
    told = subprocess.run(
        [sys.executable, "-c", code], env={"PYTHONHASHSEED": "7"}, capture_output=True, check=True
    )
    assert int(told.stdout) == derive_seed(5, "batch", 1, 2, 3)


def test_seeds_differ_in_every_counter_and_fit_torch():
    seeds = {
        derive_seed(s, n, a, b) for s in (0, 1) for n in ("x", "y") for a in (0, 1, 10) for b in (0, 1, 11)
    }
    assert len(seeds) == 36
    assert derive_seed(1, 11) != derive_seed(11, 1) != derive_seed(1, 1, 1)
    assert all(0 <= seed < 2**63 for seed in seeds)


def test_numbers_of_numpy_and_python_make_equal_seeds():
    assert derive_seed(3, "x", np.int64(1)) == derive_seed(3, "x", 1)  # type: ignore[arg-type]


def test_an_epochs_order_is_a_permutation_of_its_own():
    first, second = epoch_order(50, 0, 0), epoch_order(50, 0, 1)
    assert sorted(first.tolist()) == list(range(50))
    assert first.tolist() != second.tolist()
    assert first.tolist() == epoch_order(50, 0, 0).tolist()
    assert numpy_generator(1, "a").random() != numpy_generator(1, "b").random()


def test_a_steps_randomness_does_not_depend_on_what_was_drawn_before():
    def drawn(epoch: int, step: int, rank: int) -> list[float]:
        torch.rand(7)
        seed_step(0, epoch, step, rank)
        return torch.rand(3).tolist()

    assert drawn(1, 2, 0) == drawn(1, 2, 0)
    assert len({tuple(drawn(e, s, r)) for e in (0, 1) for s in (0, 1) for r in (0, 1)}) == 8


@pytest.mark.parametrize("accelerator", [False, True])
def test_every_generator_is_seeded_that_a_machine_has(accelerator: bool, monkeypatch: pytest.MonkeyPatch):
    seeded: list[int] = []
    original = torch.manual_seed
    original(5)
    wanted = torch.rand(3).tolist()
    monkeypatch.setattr(torch.accelerator, "is_available", lambda: accelerator)
    monkeypatch.setattr(torch, "manual_seed", lambda seed: (seeded.append(seed), original(seed)))
    seed_torch(5)
    assert torch.rand(3).tolist() == wanted
    assert seeded == [5] * accelerator


FRESH_TORCH = """
import sys
from finetune.seeding import torch_left_as_it_was
with torch_left_as_it_was():
    assert "torch" not in sys.modules
    import torch
    torch.manual_seed(3)
    torch.use_deterministic_algorithms(True)
    torch.backends.cudnn.benchmark = True
    torch.backends.cudnn.conv.fp32_precision = "ieee"
    torch.backends.cuda.matmul.fp32_precision = "ieee"
assert torch.backends.cudnn.conv.fp32_precision == "tf32"
assert torch.backends.cuda.matmul.fp32_precision == "none"
assert torch.initial_seed() != 3
assert not torch.are_deterministic_algorithms_enabled() and not torch.backends.cudnn.benchmark
"""


def test_torch_is_left_as_it_was_or_as_it_is_when_just_imported():
    subprocess.run([sys.executable, "-c", FRESH_TORCH], check=True)
    torch.manual_seed(7)
    wanted = torch.rand(3)
    torch.manual_seed(7)
    with torch_left_as_it_was():
        torch.rand(3)
    assert torch.equal(torch.rand(3), wanted)
