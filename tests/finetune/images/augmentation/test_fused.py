from __future__ import annotations

import random

import cv2
import numpy as np
import pytest

from finetune.images.augmentation.crops import draw_crop
from finetune.images.augmentation.fused import Change, colour_map, crop_to_prepared
from finetune.images.augmentation.policies import build_augment
from finetune.images.preprocess import PreprocessSpec, prepare
from tests.finetune.pictures import WARP, smooth_picture

SPEC = PreprocessSpec(64, "warp", 80, "bicubic", (0.5,) * 3, (0.5,) * 3)
PREPARED = prepare(smooth_picture(1, 90, 90), SPEC)


def place(matrix: object, x: float, y: float) -> tuple[float, float]:
    return tuple(np.array(matrix) @ [x, y, 1])


def test_the_corners_of_the_result_are_the_corners_of_the_crop() -> None:
    crop = (10, 20, 30, 40)  # top, left, height, width
    matrix = crop_to_prepared(crop, 8, False, (0, 0, 80, 80), (0, 1, 0, 0))
    assert place(matrix, -0.5, -0.5) == pytest.approx((19.5, 9.5))
    assert place(matrix, 7.5, 7.5) == pytest.approx((59.5, 39.5))
    mirrored = crop_to_prepared(crop, 8, True, (0, 0, 80, 80), (0, 1, 0, 0))
    assert place(mirrored, -0.5, -0.5) == pytest.approx((59.5, 9.5))


def test_the_turn_is_anti_clockwise_about_the_middle_and_the_shift_goes_right_and_down() -> None:
    whole = (0, 0, 81, 81)
    quarter = crop_to_prepared(whole, 81, False, whole, (90, 1, 0, 0))
    assert place(quarter, 40, 40) == pytest.approx((40, 40))
    assert place(quarter, 40, 10) == pytest.approx((70, 40)), "what was on the right is on top"
    larger = crop_to_prepared(whole, 81, False, whole, (0, 2, 0, 0))
    assert place(larger, 0, 0) == pytest.approx((20, 20))
    moved = crop_to_prepared(whole, 81, False, whole, (0, 1, 0.1, 0.2))
    assert place(moved, 40, 40) == pytest.approx((40 - 8.1, 40 - 16.2))


@pytest.mark.parametrize("policy", ["face", "strong"])
def test_one_warp_shows_what_two_steps_show(policy: str) -> None:
    """The same draws, made by turning the whole image in full precision and cropping then."""
    area, of_crop, always = ((0.8, 1.0), False, 1.0) if policy == "face" else ((0.08, 1.0), True, 0.5)
    fast = build_augment(f"{policy}_fast", SPEC)
    degrees, compared = (10 if policy == "face" else 15), 0
    for seed in range(40):
        rng = random.Random(seed)
        top, left, height, width = draw_crop(rng, 80, 80, area)
        mirrored = rng.random() < 0.5
        turned = PREPARED.astype(np.float32)
        frame = (top, left, height, width) if of_crop else (0, 0, 80, 80)
        if rng.random() < always:
            angle, scale = rng.uniform(-degrees, degrees), rng.uniform(0.9, 1.1)
            middle = frame[1] + (frame[3] - 1) / 2, frame[0] + (frame[2] - 1) / 2
            turn = cv2.getRotationMatrix2D(middle, angle, scale)
            turn[:, 2] += rng.uniform(-0.05, 0.05) * frame[3], rng.uniform(-0.05, 0.05) * frame[2]
            turned = cv2.warpAffine(turned, turn, (80, 80), borderMode=cv2.BORDER_REFLECT_101)
        if rng.random() < (0.5 if policy == "face" else 0.8) or (policy == "strong" and rng.random() < 0.1):
            continue  # colours are compared below
        crop = np.ascontiguousarray(turned[top : top + height, left : left + width])
        slow = cv2.resize(crop, (64, 64), interpolation=cv2.INTER_LINEAR)
        slow = slow[:, ::-1] if mirrored else slow
        blurred = random.Random(~seed)
        if policy == "strong" and (blurred.random() < 0.1 or blurred.random() < 0.25):
            continue
        difference = np.abs(fast(PREPARED, seed) - slow)[4:-4, 4:-4]
        assert difference.mean() < 1.5, "grey levels"
        compared += 1
    assert compared >= 4


def test_the_colour_map_is_brightness_saturation_and_contrast_one_after_the_other() -> None:
    picture = smooth_picture(2, 20, 20).astype(np.float64) / 4 + 80  # far from the ends of the range
    mean = picture.reshape(-1, 3).mean(0)
    change = Change(1.1, 0.8, 0.7)
    slow = picture * 1.1
    slow = 0.7 * slow + 0.3 * (slow @ [0.299, 0.587, 0.114])[..., None]
    slow = 0.8 * slow + 0.2 * (slow @ [0.299, 0.587, 0.114]).mean()
    fast = cv2.transform(picture, colour_map(change, mean).astype(np.float64))
    np.testing.assert_allclose(fast, slow, atol=1e-3)


def test_hue_keeps_luma_and_greys_and_turns_back() -> None:
    turn, back = (colour_map(Change(hue=sign * 0.05), np.zeros(3))[:, :3] for sign in (1, -1))
    np.testing.assert_allclose(turn @ back, np.eye(3), atol=1e-5)
    np.testing.assert_allclose(turn @ [90, 90, 90], [90, 90, 90], atol=1e-3)
    luma = np.array([0.299, 0.587, 0.114])
    assert luma @ turn @ [200, 30, 60] == pytest.approx(luma @ [200, 30, 60], abs=1e-3)
    red = turn @ [200, 30, 30]
    assert red[1] > 40 > 30 > red[2], "red turns towards yellow, as a larger hue does in HSV"
    np.testing.assert_allclose(colour_map(Change(), np.array([9.0, 8, 7])), np.eye(3, 4), atol=1e-6)


def test_shrinking_is_antialiased() -> None:
    spec = PreprocessSpec(32, "warp", 128, "bicubic", (0.5,) * 3, (0.5,) * 3)
    board = (np.indices((128, 128)).sum(axis=0) % 2 * 255).astype(np.uint8)
    prepared = np.repeat(board[:, :, None], 3, axis=2)
    spread = [build_augment("face_fast", spec)(prepared, seed).std() for seed in range(20)]
    assert np.median(spread) < 40  # picked pixels alone would keep the board's 127


def test_strong_fast_greys_and_erases_at_times() -> None:
    colourful = np.tile(np.array([220, 40, 90], np.uint8), (40, 40, 1))
    results = [build_augment("strong_fast", WARP)(colourful, seed) for seed in range(300)]
    grey = sum(int(np.ptp(picture, axis=2).max() <= 2) for picture in results)
    erased = sum(bool((picture == 0).all(2).any()) for picture in results)
    assert 15 <= grey <= 50
    assert 50 <= erased <= 100
