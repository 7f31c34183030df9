import numpy as np
import pytest
import torch
from torch.nn import functional as F

from finegrained.heads.dcl_regions import (
    inverse_plan,
    jittered_plan,
    nearest_regions,
    sequential_plan,
    shuffle_regions,
    shuffle_regions_as_released,
)
from finetune.errors import UsageError

DRAWS = 20_000
PLANS = {"paper": jittered_plan, "released": sequential_plan}


def displacements(plan: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return how far each region has come, in columns and rows: new place less old one, (B, N, N)."""
    side = plan.shape[1]
    rows, columns = np.indices((side, side))
    return columns - plan % side, rows - plan // side


def row_displacements(rule, neighbourhood: int) -> np.ndarray:
    """Return by how many columns regions move in 20,000 orders of a row of 7."""
    plan = rule(DRAWS // 7, 7, neighbourhood, np.random.default_rng(0))
    return displacements(plan)[0].ravel()


@pytest.mark.parametrize("rule", PLANS.values(), ids=PLANS)
@pytest.mark.parametrize(("regions", "neighbourhood"), [(2, 2), (3, 2), (7, 2), (7, 7)])
def test_every_region_keeps_exactly_one_place(rule, regions, neighbourhood):
    plan = rule(50, regions, neighbourhood, np.random.default_rng(1))
    assert plan.shape == (50, regions, regions)
    assert plan.dtype == np.int64
    assert np.array_equal(np.sort(plan.reshape(50, -1), axis=1), np.tile(np.arange(regions**2), (50, 1)))
    assert len(np.unique(plan.reshape(50, -1), axis=0)) > 1


@pytest.mark.parametrize("rule", PLANS.values(), ids=PLANS)
def test_equal_generators_draw_equal_plans_and_the_global_state_is_left_alone(rule):
    before = np.random.get_state()[1].copy()
    first, second = (rule(4, 7, 2, np.random.default_rng(5)) for _ in range(2))
    assert np.array_equal(first, second)
    assert np.array_equal(before, np.random.get_state()[1])


@pytest.mark.parametrize("neighbourhood", [1, 2, 3])
@pytest.mark.parametrize("axis", [0, 1], ids=["columns", "rows"])
def test_the_papers_rule_moves_a_region_by_less_than_two_k_along_either_side(neighbourhood, axis):
    plan = jittered_plan(2000, 7, neighbourhood, np.random.default_rng(2))
    assert np.abs(displacements(plan)[axis]).max() == 2 * neighbourhood - 1


@pytest.mark.parametrize(("neighbourhood", "fixed"), [(1, 0.787), (2, 0.467)])
def test_the_papers_rule_leaves_the_stated_share_of_regions_in_their_row_place(neighbourhood, fixed):
    moved = row_displacements(jittered_plan, neighbourhood)
    assert np.mean(moved == 0) == pytest.approx(fixed, abs=0.006)
    assert np.mean(moved > 0) == pytest.approx(np.mean(moved < 0), abs=0.01)


def test_the_papers_rule_gives_every_row_and_column_an_order_of_its_own():
    plan = jittered_plan(200, 7, 2, np.random.default_rng(3))
    columns, rows = displacements(plan)
    assert not (columns == columns[:, :1]).all()
    assert not (rows == rows[:, :, :1]).all()


@pytest.mark.parametrize(
    ("rule", "neighbourhood", "share"),
    [(jittered_plan, 1, (7 / 8) ** 4), (jittered_plan, 2, (23 / 32) ** 4), (sequential_plan, 2, 1 / 8)],
)
def test_of_four_regions_the_stated_share_of_plans_changes_nothing(rule, neighbourhood, share):
    plan = rule(DRAWS, 2, neighbourhood, np.random.default_rng(0)).reshape(DRAWS, 4)
    assert np.mean((plan == np.arange(4)).all(1)) == pytest.approx(share, abs=0.012)
    many = rule(DRAWS // 4, 7, neighbourhood, np.random.default_rng(0)).reshape(-1, 49)
    assert np.mean((many == np.arange(49)).all(1)) < 0.001


def test_the_released_rule_has_the_stated_histogram_of_displacements():
    moved = row_displacements(sequential_plan, 2)
    shares = [np.mean(moved == step) for step in (-1, 0, 1, 2, 3)] + [np.mean(moved >= 4)]
    assert shares == pytest.approx([0.429, 0.320, 0.143, 0.063, 0.027, 0.018], abs=0.006)
    assert moved.min() == -1
    carried = displacements(sequential_plan(DRAWS // 7, 7, 2, np.random.default_rng(0)))[0] == 6
    assert np.mean(carried.any(2)) == pytest.approx(1 / 64, abs=0.004)  # not bounded by 2 k = 4


def test_the_released_rule_moves_rows_as_blocks():
    plan = sequential_plan(500, 7, 2, np.random.default_rng(4))
    rows = displacements(plan)[1]
    assert (rows == rows[:, :, :1]).all()
    shares = [np.mean(rows[:, :, 0] == step) for step in (-1, 0, 1)]
    assert shares == pytest.approx([3 / 7, 0.320, 1 / 7], abs=0.025)


@pytest.mark.parametrize(
    ("rule", "regions", "neighbourhood", "message"),
    [
        (jittered_plan, 1, 1, "regions must be at least 2, got 1"),
        (jittered_plan, 7, 0, r"neighbourhood must lie in \[1, regions = 7\], got 0"),
        (jittered_plan, 3, 4, r"neighbourhood must lie in \[1, regions = 3\], got 4"),
        (sequential_plan, 7, 1, r"neighbourhood must lie in \[2, regions = 7\], got 1"),
    ],
)
def test_plans_that_cannot_be_are_refused(rule, regions, neighbourhood, message):
    with pytest.raises(UsageError, match=message):
        rule(1, regions, neighbourhood, np.random.default_rng(0))


def slowly_shuffled(image: torch.Tensor, plan: np.ndarray) -> torch.Tensor:
    """Paste one region after the other."""
    result = torch.full_like(image, torch.nan)
    side = len(plan)
    height, width = image.shape[1] // side, image.shape[2] // side
    for row in range(side):
        for column in range(side):
            top, left = divmod(int(plan[row, column]), side)
            tile = image[:, top * height : (top + 1) * height, left * width : (left + 1) * width]
            result[:, row * height : (row + 1) * height, column * width : (column + 1) * width] = tile
    return result


@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
@pytest.mark.parametrize("size", [(21, 28), (56, 56)])
def test_the_shuffle_equals_pasting_tile_by_tile_and_can_be_undone(layout, size):
    images = torch.randn(3, 3, *size).contiguous(memory_format=layout)
    plan = jittered_plan(3, 7, 2, np.random.default_rng(6))
    shuffled = shuffle_regions(images, torch.from_numpy(plan))
    expected = torch.stack([slowly_shuffled(image, order) for image, order in zip(images, plan, strict=True)])
    assert torch.equal(shuffled, expected)
    assert shuffled.is_contiguous(memory_format=layout)
    assert not torch.equal(shuffled, images)
    assert torch.equal(shuffle_regions(shuffled, torch.from_numpy(inverse_plan(plan))), images)


@pytest.mark.parametrize("size", [(64, 64), (50, 70), (15, 7)])
def test_a_side_that_is_no_multiple_is_resized_and_the_size_stays(size):
    ramp = torch.linspace(0, 1, size[1]).expand(1, 3, *size)
    stay = torch.arange(49).view(1, 7, 7)
    kept = shuffle_regions(ramp, stay)
    torch.testing.assert_close(kept, ramp, atol=0.03, rtol=0)  # only the resizing blurs it
    assert not torch.allclose(shuffle_regions(ramp, stay.flip(2)), ramp, atol=0.3)


def test_pictures_smaller_than_their_regions_are_refused():
    plan = torch.arange(49).view(1, 7, 7)
    with pytest.raises(UsageError, match=r"6 x 30 px cannot be cut into 7 x 7.*image_size"):
        shuffle_regions(torch.zeros(1, 3, 6, 30), plan)
    with pytest.raises(UsageError, match=r"6 x 12 px \(less 10 px on every side\)"):
        shuffle_regions_as_released(torch.zeros(1, 3, 26, 32), plan)


def test_the_released_shuffle_crops_ten_pixels_and_resizes_regions_and_mosaic():
    side, regions = 52, 3  # 32 px are left: regions of 10, 11 and 11 px, each resized to 10
    images = torch.randn(2, 3, side, side)
    plan = sequential_plan(2, regions, 2, np.random.default_rng(8))
    cuts = [0, 10, 21, 32]
    for image, order, got in zip(
        images, plan, shuffle_regions_as_released(images, torch.from_numpy(plan)), strict=True
    ):
        inner = image[:, 10:-10, 10:-10]
        mosaic = torch.zeros(3, 30, 30)
        for place, region in enumerate(order.ravel()):
            (row, column), (top, left) = divmod(place, regions), divmod(int(region), regions)
            tile = inner[:, cuts[top] : cuts[top + 1], cuts[left] : cuts[left + 1]]
            small = F.interpolate(tile[None], (10, 10), mode="bicubic", antialias=True)[0]
            mosaic[:, 10 * row : 10 * row + 10, 10 * column : 10 * column + 10] = small
        expected = F.interpolate(mosaic[None], (side, side), mode="bicubic", antialias=True)[0]
        torch.testing.assert_close(got, expected, atol=1e-5, rtol=0)


def test_the_released_shuffle_keeps_the_memory_layout():
    images = torch.randn(2, 3, 48, 48).contiguous(memory_format=torch.channels_last)
    plan = torch.arange(4).view(1, 2, 2).expand(2, -1, -1)
    assert shuffle_regions_as_released(images, plan).is_contiguous(memory_format=torch.channels_last)


def test_regions_of_clearly_different_colours_are_found_again():
    values = torch.randperm(49).float().view(1, 1, 7, 7)
    image = values.repeat_interleave(8, 2).repeat_interleave(8, 3).expand(1, 3, 56, 56)
    plan = torch.from_numpy(sequential_plan(1, 7, 2, np.random.default_rng(9)))
    assert torch.equal(nearest_regions(shuffle_regions(image, plan), image, 7), plan.flatten(1))


def test_the_nearest_colour_is_that_of_the_summed_channel_means_and_the_first_of_equals():
    originals = torch.tensor([[[5.0, 1.0], [1.0, 9.0]]]).view(1, 1, 2, 2)
    pictures = torch.tensor([[[2.0, 8.0], [4.0, 0.0]]]).view(1, 1, 2, 2)
    # 2 is nearest to 1, of which there are two; region 2 of the original is never named
    assert nearest_regions(pictures, originals, 2).tolist() == [[1, 3, 0, 1]]
    colours = torch.stack([pictures[:, 0] / 2, pictures[:, 0] / 2], 1)  # the channels' means are added
    assert nearest_regions(colours, originals, 2).tolist() == [[1, 3, 0, 1]]


def test_mean_colours_are_taken_over_the_cuts_of_odd_sizes():
    image = torch.arange(25.0).view(1, 1, 5, 5)
    means = [
        image[0, 0, rows, columns].mean()
        for rows in (slice(2), slice(2, 5))
        for columns in (slice(2), slice(2, 5))
    ]
    originals = torch.stack(means).view(1, 1, 2, 2)
    assert nearest_regions(image, originals, 2).tolist() == [[0, 1, 2, 3]]
    shifted = originals.flip(3)
    assert nearest_regions(image, shifted, 2).tolist() == [[1, 0, 3, 2]]
