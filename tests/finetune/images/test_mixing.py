import numpy as np
import pytest
import torch

from finetune.errors import UsageError
from finetune.images.mixing import mix

IMAGES = torch.arange(6, dtype=torch.float32)[:, None, None, None].expand(6, 3, 8, 10).contiguous()
TARGET = torch.arange(6)


def mixed(seed=0, **options):
    return mix(IMAGES, TARGET, 6, generator=np.random.default_rng(seed), **options)


@pytest.mark.parametrize("options", [{"mixup": 0.4}, {"cutmix": 1.0}, {"mixup": 0.4, "cutmix": 1.0}])
def test_targets_hold_exactly_the_shares_that_the_pixels_hold(options):
    for seed in range(20):
        images, soft = mixed(seed, **options)
        torch.testing.assert_close(soft.sum(1), torch.ones(6))
        # Image i is filled with the number i, so its mean pixel is the target's mean class.
        torch.testing.assert_close(images.mean((1, 2, 3)), soft @ torch.arange(6.0))
        assert images.shape == IMAGES.shape


def test_mixup_blends_every_pixel_alike_and_cutmix_blends_none():
    images, _ = mixed(3, mixup=1.0)
    assert all(len(image.unique()) == 1 for image in images)
    for seed in range(20):
        pasted, _ = mixed(seed, cutmix=1.0)
        assert set(pasted.unique().tolist()) <= set(range(6))


def test_cutmix_pastes_one_box_from_the_same_place():
    images = torch.arange(6 * 8 * 10, dtype=torch.float32).reshape(6, 1, 8, 10)
    pasted, soft = mix(images, TARGET, 6, cutmix=1.0, generator=np.random.default_rng(1))
    changed = (pasted != images).any(0)[0]
    rows, columns = changed.nonzero(as_tuple=True)
    box = changed[rows.min() : rows.max() + 1, columns.min() : columns.max() + 1]
    assert box.all()
    assert ((pasted - images) % 80 == 0).all()
    assert float(soft.max(1).values.min()) <= max(1 - box.numel() / 80, box.numel() / 80) + 1e-6


def test_equal_generators_give_equal_batches_and_the_input_stays():
    before = IMAGES.clone()
    first, second, other = mixed(5, mixup=0.4), mixed(5, mixup=0.4), mixed(6, mixup=0.4)
    assert torch.equal(first[0], second[0])
    assert torch.equal(first[1], second[1])
    assert not torch.equal(first[0], other[0])
    assert torch.equal(IMAGES, before)


def test_with_both_on_each_is_taken_about_half_the_time():
    blended = sum(bool((mixed(seed, mixup=0.4, cutmix=1.0)[0] % 1 != 0).any()) for seed in range(200))
    assert 70 < blended < 130


def test_the_memory_layout_is_kept():
    images, _ = mix(
        IMAGES.contiguous(memory_format=torch.channels_last),
        TARGET,
        6,
        cutmix=1.0,
        generator=np.random.default_rng(0),
    )
    assert images.is_contiguous(memory_format=torch.channels_last)


@pytest.mark.parametrize("options", [{}, {"mixup": -0.1}, {"mixup": 0.2, "cutmix": -1.0}])
def test_switched_off_or_negative_is_refused(options):
    with pytest.raises(UsageError, match="mixup and cutmix must not be negative, and one must be on"):
        mixed(**options)
