from __future__ import annotations

import random
import re

import numpy as np
import pytest
import torch

from finetune.errors import UsageError
from finetune.images.augmentation.policies import EXTRAS, POLICIES, build_augment, policy_parts
from finetune.images.preprocess import prepare
from finetune.training.config import TrainConfig
from tests.finetune.pictures import WARP, smooth_picture

PREPARED = prepare(smooth_picture(0, 80, 80), WARP)


@pytest.mark.parametrize("extra", EXTRAS)
def test_an_extra_is_a_pure_function_of_picture_and_seed_and_leaves_generators_alone(extra: str) -> None:
    augment = build_augment(f"none+{extra}", WARP)
    random.seed(3)
    torch.manual_seed(3)
    expected = random.random(), torch.rand(2).tolist()
    random.seed(3)
    torch.manual_seed(3)
    first = [augment(PREPARED, seed) for seed in range(12)]
    assert (random.random(), torch.rand(2).tolist()) == expected
    np.testing.assert_array_equal(first, [augment(PREPARED, seed) for seed in reversed(range(12))][::-1])
    assert len({picture.tobytes() for picture in first}) >= 3
    plain = build_augment("none", WARP)(PREPARED, 0)
    assert {picture.shape for picture in first} == {plain.shape}


def test_an_extra_follows_the_policy_before_it() -> None:
    base, both = build_augment("flip", WARP), build_augment("flip+random_erasing", WARP)
    same = sum(bool((base(PREPARED, seed) == both(PREPARED, seed)).all()) for seed in range(200))
    assert 130 <= same <= 170, "three quarters are not erased"


def test_erased_rectangles_have_the_stated_areas_and_random_pixels() -> None:
    grey = np.full((40, 40, 3), 128, np.uint8)
    augment = build_augment("none+random_erasing", WARP)
    areas, values = [], []
    for seed in range(400):
        changed = (augment(grey, seed) != 128).any(2)
        if changed.any():
            rows, columns = np.flatnonzero(changed.any(1)), np.flatnonzero(changed.any(0))
            areas.append(float(np.ptp(rows) + 1) * float(np.ptp(columns) + 1) / 32**2)
            values.append(augment(grey, seed)[changed])
    assert 70 <= len(areas) <= 130
    assert 0.015 <= min(areas) < 0.1
    assert 0.25 < max(areas) <= 0.36
    pixels = np.concatenate(values)
    assert pixels.min() < 3
    assert pixels.max() > 252
    assert abs(pixels.mean() - 127.5) < 3


def test_an_extra_alone_follows_the_standard_policy() -> None:
    assert policy_parts("random_erasing") == ("standard", ["random_erasing"])
    assert policy_parts("crop+randaugment+random_erasing") == ("crop", ["randaugment", "random_erasing"])


@pytest.mark.parametrize("name", ["", "standard+", "face+strong", "randaugment+randaugment", "flip+blur"])
def test_other_combinations_are_refused(name: str) -> None:
    with pytest.raises(UsageError, match=re.escape("random_erasing behind it, each once and joined by +")):
        policy_parts(name)


def test_help_lists_every_policy_with_its_contents() -> None:
    help_text = " ".join((TrainConfig.__doc__ or "").split())
    for name, entry in [*POLICIES.items(), *EXTRAS.items()]:
        assert f"{name}: {entry[1]}" in help_text
