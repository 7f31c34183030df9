from __future__ import annotations

import numpy as np
import pytest
import torch

from finetune.seeding import epoch_order
from generalcls.data.image_set import ImageSet
from generalcls.parallel import device_data
from generalcls.parallel.device_data import Batches, ResidentImages, Scaling, move
from tests.generalcls.small_study import CPU, images


def moved_slowly(picture: np.ndarray, down: int, right: int, mirrored: int, repeat_edge: bool) -> np.ndarray:
    """Return one image mirrored, then shifted, pixel by pixel."""
    height, width, _ = picture.shape
    source = picture[:, ::-1] if mirrored else picture
    result = np.zeros_like(picture)
    for row in range(height):
        for column in range(width):
            from_row, from_column = row - down, column - right
            inside = 0 <= from_row < height and 0 <= from_column < width
            if inside or repeat_edge:
                result[row, column] = source[
                    min(max(from_row, 0), height - 1), min(max(from_column, 0), width - 1)
                ]
    return result


@pytest.mark.parametrize("repeat_edge", [False, True])
def test_move_is_mirror_then_shift(repeat_edge: bool):
    generator = np.random.default_rng(3)
    pictures = generator.integers(1, 256, (2, 6, 5, 7, 3), dtype=np.uint8)
    moves = np.concatenate(
        [generator.integers(-3, 4, (2, 6, 2)), generator.integers(0, 2, (2, 6, 1))], axis=-1
    )
    got = move(torch.from_numpy(pictures), torch.from_numpy(moves), repeat_edge=repeat_edge).numpy()
    assert set(moves[..., 2].ravel()) == {0, 1}
    for place in np.ndindex(2, 6):
        assert (got[place] == moved_slowly(pictures[place], *moves[place], repeat_edge)).all()


def test_scaling_is_the_mean_and_spread_of_each_channel():
    pictures = images(30, channels=3).images
    scaling = Scaling.of(pictures, "standard")
    values = pictures / 255.0
    np.testing.assert_allclose(scaling.mean, values.mean((0, 1, 2)), rtol=1e-12)
    np.testing.assert_allclose(scaling.sd, values.std((0, 1, 2)), rtol=1e-12)
    assert Scaling.of(pictures, "unit") == Scaling((0.0,) * 3, (1.0,) * 3)


def test_scaled_pictures_are_what_the_formula_says():
    data = images(12, channels=3)
    scaling = Scaling((0.1, 0.2, 0.3), (0.5, 0.25, 2.0))
    resident = ResidentImages(data, CPU, scaling, torch.float64)
    got = resident.scaled(resident.take(torch.tensor([[4, 1], [0, 11]]))).numpy()
    expected = (data.images[[[4, 1], [0, 11]]] / 255.0 - scaling.mean) / scaling.sd
    np.testing.assert_allclose(got, np.moveaxis(expected, -1, 2), rtol=1e-12, atol=1e-12)


def test_images_stay_on_a_gpu_where_they_take_half_of_what_it_has_free(monkeypatch: pytest.MonkeyPatch):
    data, gpu = images(6), torch.device("meta")  # it keeps no numbers, and is no processor either
    size = data.images.nbytes
    for free, stay in ((2 * size, True), (2 * size - 1, False), (0, False)):
        monkeypatch.setattr(device_data, "free_gpu_bytes", lambda _device, free=free: free)
        found = ResidentImages(data, gpu, Scaling((0.0,), (1.0,)))
        assert (found.pictures is not None) == stay


def test_a_memory_map_gives_the_same_batches(tmp_path):
    data = images(24)
    file = np.memmap(tmp_path / "pictures", np.uint8, "w+", shape=data.images.shape)
    file[:] = data.images
    scaling = Scaling.of(data.images, "unit")
    rows = torch.tensor([[3, 20], [0, 7]])
    here = ResidentImages(data, CPU, scaling)
    there = ResidentImages(ImageSet(file, data.target), CPU, scaling)
    assert there.pictures is None
    assert torch.equal(here.take(rows), there.take(rows))


@pytest.mark.parametrize("augment", ["none", "crop_flip", "shift_flip"])
def test_a_seed_has_its_own_batches_whatever_stands_beside_it(augment):
    resident = ResidentImages(images(40, side=16), CPU, Scaling((0.0,), (1.0,)))
    alone = Batches(resident, (5,), 8, augment).epoch(1)
    together = Batches(resident, (2, 5, 9), 8, augment).epoch(1)
    for step in range(5):
        pictures, target = alone.batch(step)
        beside, targets = together.batch(step)
        assert torch.equal(pictures[0], beside[1])
        assert torch.equal(target[0], targets[1])
        assert not torch.equal(targets[0], targets[1])


def test_an_epoch_shows_every_picture_once_in_the_seeds_order():
    data = images(40)
    resident = ResidentImages(data, CPU, Scaling((0.0,), (1.0,)))
    batches = Batches(resident, (7,), 8)
    for epoch in (0, 3):
        plan = batches.epoch(epoch)
        seen = np.concatenate([plan.batch(step)[1][0].numpy() for step in range(batches.steps_per_epoch)])
        assert (seen == data.target[epoch_order(40, 7, epoch)]).all()
    assert Batches(resident, (7,), 64).steps_per_epoch == 1
    assert Batches(resident, (7,), 12).steps_per_epoch == 3


def test_augmentation_moves_as_far_as_it_says():
    resident = ResidentImages(images(400, side=16), CPU, Scaling((0.0,), (1.0,)))
    for augment, reach in (("crop_flip", 2), ("shift_flip", 1)):
        moves = Batches(resident, (0,), 8, augment).epoch(0).moves
        assert moves is not None
        assert set(moves[..., :2].unique().tolist()) == set(range(-reach, reach + 1))
        assert 0.4 < moves[..., 2].double().mean() < 0.6
