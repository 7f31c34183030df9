"""Randomness as a pure function of counters: no generator state is ever saved, so none can be lost.

An epoch's order comes from (seed, epoch), a sample's augmentation from (seed, epoch, row), the model's own
randomness (dropout, mixup) from (seed, epoch, step, rank). A resumed run computes them again.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np


def derive_seed(seed: int, *counters: int | str) -> int:
    """Return a 63-bit seed that depends on `seed` and every counter, equal on every machine and process.

    >>> derive_seed(0, "augment", 1, 2) == derive_seed(0, "augment", 1, 2) != derive_seed(0, "augment", 2, 1)
    True
    """
    plain = (counter if isinstance(counter, str) else int(counter) for counter in counters)
    key = repr((int(seed), *plain)).encode()
    return int.from_bytes(hashlib.blake2b(key, digest_size=8).digest(), "big") >> 1


def numpy_generator(seed: int, *counters: int | str) -> np.random.Generator:
    """Return a fresh numpy generator for these counters."""
    return np.random.default_rng(derive_seed(seed, *counters))


def epoch_order(count: int, seed: int, epoch: int) -> np.ndarray:
    """Return the permutation of range(count) for this epoch, int64 (count,)."""
    return numpy_generator(seed, "order", epoch).permutation(count)


def seed_torch(seed: int) -> None:
    """Seed torch's global generators: the CPU's, and those of accelerators where there are any.

    Without accelerators `torch.manual_seed` draws alike, but notes the caller's stack for every kind that may
    still appear. That takes longer than a small step of training.
    """
    import torch

    if torch.accelerator.is_available():
        torch.manual_seed(seed)
    else:
        torch.default_generator.manual_seed(seed)


def seed_step(seed: int, epoch: int, step: int, rank: int = 0) -> None:
    """Seed torch's global generators (CPU and accelerators) for one training step: dropout, drop path."""
    seed_torch(derive_seed(seed, "step", epoch, step, rank))


@contextmanager
def torch_left_as_it_was() -> Iterator[None]:
    """Give torch's random state and its switches back at the end: they belong to whoever called."""
    import torch

    state, cudnn = torch.get_rng_state(), torch.backends.cudnn
    strict, benchmark = torch.are_deterministic_algorithms_enabled(), cudnn.benchmark
    warn_only = torch.is_deterministic_algorithms_warn_only_enabled()
    try:
        yield
    finally:
        torch.set_rng_state(state)
        torch.use_deterministic_algorithms(strict, warn_only=warn_only)
        cudnn.benchmark = benchmark
