"""Random numbers as a pure function of counters on any device: Philox-4x32-10, and dropout's masks by it."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from finetune.seeding import derive_seed
from generalcls.networks.dropout import LEVELS, Drops

ROUNDS = 10
MULTIPLIERS = (0xD2511F53, 0xCD9E8D57)
KEY_STEPS = (0x9E3779B9, 0xBB67AE85)  # the golden ratio and sqrt(3) - 1, in 32 bits
WORD = 0xFFFFFFFF
NUMBERS = 8  # of 16 bits, that one counter gives


def philox(counter: Sequence[Tensor], key: Sequence[Tensor]) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Return four random words for every counter and key.

    Args:
        counter: four words, int64 in [0, 2^32); they broadcast with each other and with the key.
        key: two words, likewise.

    >>> zero = torch.tensor(0)
    >>> [hex(word.item()) for word in philox([zero] * 4, [zero] * 2)]
    ['0x6627e8d5', '0xe169c58d', '0xbc57ac4c', '0x9b00dbd8']

    Source: Salmon, Moraes, Dror, Shaw, Parallel random numbers: as easy as 1, 2, 3 (2011), section 3.3.
    """
    c0, c1, c2, c3 = counter
    k0, k1 = key
    for _ in range(ROUNDS):
        low, high = MULTIPLIERS[0] * c0, MULTIPLIERS[1] * c2
        c0, c1, c2, c3 = _upper(high) ^ c1 ^ k0, high & WORD, _upper(low) ^ c3 ^ k1, low & WORD
        k0, k1 = (k0 + KEY_STEPS[0]) & WORD, (k1 + KEY_STEPS[1]) & WORD
    return c0, c1, c2, c3


def mask_keys(seeds: Sequence[int], device: torch.device) -> Tensor:
    """Return the keys by which seeds draw their masks, int64 (S, 2) on the device."""
    whole = [derive_seed(seed, "dropout") for seed in seeds]
    return torch.tensor([[number & WORD, number >> 32] for number in whole], device=device)


def device_masks(
    dropouts: Mapping[str, Drops], keys: Tensor, epoch: Tensor, step: Tensor, batch_size: int
) -> dict[str, Tensor]:
    """Return what `draw_masks` does, other masks of the same kind, drawn where the keys lie.

    Everything is a fixed row of operations on tensors, so that it can be compiled with the step.

    Args:
        dropouts: {name: (p, shape of the input without the batch)}; p is rounded to 16 bits.
        keys: of the seeds, (S, 2).
        epoch, step: int64 tensors of no dimension, on the device.
        batch_size: B.
    """
    if not dropouts:
        return {}
    sizes = [batch_size * math.prod(shape) for _, shape in dropouts.values()]
    places = torch.arange(-(-sum(sizes) // NUMBERS), device=keys.device)
    words = philox((places, torch.zeros_like(places), epoch, step), keys[:, :, None].unbind(1))
    both = torch.stack([half for word in words for half in (word & (LEVELS - 1), word >> 16)], dim=-1)
    parts = torch.split(both.flatten(1)[:, : sum(sizes)], sizes, dim=1)
    found = {}
    for (name, (p, shape)), part in zip(dropouts.items(), parts, strict=True):
        # Maps lie in memory pixel by pixel, as the images do.
        apart = len(shape) == 3
        laid = (*shape[1:], shape[0]) if apart else shape
        mask = (part >= round(p * LEVELS)).view(len(keys), batch_size, *laid)
        found[name] = mask.movedim(-1, 2) if apart else mask
    return found


def _upper(product: Tensor) -> Tensor:
    """Return the upper word of a product of two words, of which the sign is but a bit."""
    return (product >> 32) & WORD
