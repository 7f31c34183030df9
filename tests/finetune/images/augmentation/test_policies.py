from __future__ import annotations

import multiprocessing
import pickle
import random
import subprocess
import sys
from pathlib import Path

import cv2
import numpy as np
import pytest

from finetune.errors import UsageError
from finetune.images.augmentation.crops import draw_crop, rotate
from finetune.images.augmentation.policies import POLICIES, Augment, build_augment
from finetune.images.preprocess import PreprocessSpec, center_crop, prepare
from tests.finetune.pictures import SHORT, WARP, smooth_picture

PREPARED = prepare(smooth_picture(0, 80, 80), WARP)
RANDOM_POLICIES = [name for name in POLICIES if name != "none"]


def results(task: tuple[str, list[int]]) -> list[np.ndarray]:
    policy, seeds = task
    augment = build_augment(policy, WARP)
    return [augment(PREPARED, seed) for seed in seeds]


@pytest.mark.parametrize("policy", POLICIES)
def test_a_policy_is_a_pure_function_of_picture_and_seed(policy: str) -> None:
    augment = build_augment(policy, WARP)
    before = PREPARED.copy()
    first = [augment(PREPARED, seed) for seed in range(12)]
    np.random.seed(0)
    random.seed(0)
    again = [augment(PREPARED, seed) for seed in reversed(range(12))][::-1]
    np.testing.assert_array_equal(first, again)
    np.testing.assert_array_equal(PREPARED, before)
    assert first[0].shape == (32, 32, 3)
    assert first[0].dtype == np.uint8


def test_other_processes_give_the_same_pictures_in_any_order() -> None:
    seeds = list(range(8))
    here = {policy: results((policy, seeds)) for policy in POLICIES}
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        there = pool.map(results, [(policy, seeds[::-1]) for policy in POLICIES])
    for policy, pictures in zip(POLICIES, there, strict=True):
        np.testing.assert_array_equal(here[policy], pictures[::-1], err_msg=policy)


@pytest.mark.parametrize("policy", RANDOM_POLICIES)
def test_seeds_give_different_pictures(policy: str) -> None:
    augment = build_augment(policy, WARP)
    different = {augment(PREPARED, seed).tobytes() for seed in range(20)}
    assert len(different) == 2 if policy == "flip" else len(different) >= 18


def test_none_is_the_centre_crop_and_flip_mirrors_half_of_the_time() -> None:
    crop = center_crop(PREPARED, 32)
    np.testing.assert_array_equal(build_augment("none", WARP)(PREPARED, 5), crop)
    flip = build_augment("flip", WARP)
    mirrored = 0
    for seed in range(400):
        picture = flip(PREPARED, seed)
        is_mirror = bool((picture == crop[:, ::-1]).all())
        assert is_mirror or (picture == crop).all()
        mirrored += is_mirror
    assert 150 < mirrored < 250


def test_standard_is_the_drawn_crop_resized_and_perhaps_mirrored() -> None:
    augment = build_augment("standard", WARP)
    for seed in range(30):
        rng = random.Random(seed)
        top, left, height, width = draw_crop(rng, 40, 40, (0.08, 1.0))
        crop = np.ascontiguousarray(PREPARED[top : top + height, left : left + width])
        expected = cv2.resize(crop, (32, 32), interpolation=cv2.INTER_CUBIC)
        if rng.random() < 0.5:
            expected = expected[:, ::-1]
        np.testing.assert_array_equal(augment(PREPARED, seed), expected)


def places_of(crop: np.ndarray, picture: np.ndarray) -> list[tuple[int, int]]:
    """Return every (top, left) at which a square crop lies in an image."""
    side = len(crop)
    spots = np.ndindex(picture.shape[0] - side + 1, picture.shape[1] - side + 1)
    return [
        (top, left) for top, left in spots if (picture[top : top + side, left : left + side] == crop).all()
    ]


def test_crop_shows_every_place_of_the_prepared_picture_unresized() -> None:
    wide = prepare(smooth_picture(3, 48, 60), SHORT)
    augment = build_augment("crop", SHORT)
    tops, lefts, mirrored = set(), set(), 0
    for seed in range(300):
        picture = augment(wide, seed)
        found = places_of(picture, wide)
        if not found:
            mirrored += 1
            found = places_of(picture[:, ::-1], wide)
        ((top, left),) = found
        tops.add(top)
        lefts.add(left)
    assert tops == set(range(wide.shape[0] - 32 + 1))
    assert lefts == set(range(wide.shape[1] - 32 + 1))
    assert 110 < mirrored < 190


def test_rotation_turns_about_the_middle_and_leaves_black_behind() -> None:
    picture = np.full((41, 41, 3), 255, np.uint8)
    picture[20, 30] = (0, 255, 255)
    quarter = rotate(picture, 90)
    assert quarter[10, 20].tolist() == [0, 255, 255], "what was on the right is on top"
    turned = rotate(picture, 15)
    assert turned[0, 0].tolist() == turned[-1, -1].tolist() == [0, 0, 0]
    assert turned[20, 20].tolist() == [255, 255, 255]
    np.testing.assert_array_equal(rotate(picture, 0), picture)


def test_rotate_crop_turns_first_and_crops_then() -> None:
    white = np.full((40, 40, 3), 255, np.uint8)
    augment = build_augment("rotate_crop", WARP)
    for seed in range(40):
        rng = random.Random(seed)
        turned = rotate(white, rng.uniform(-15, 15), cv2.INTER_CUBIC)
        top, left = rng.randint(0, 8), rng.randint(0, 8)
        expected = turned[top : top + 32, left : left + 32]
        if rng.random() < 0.5:
            expected = expected[:, ::-1]
        np.testing.assert_array_equal(augment(white, seed), expected)


def test_drawn_crops_fit_and_cover_the_stated_areas_and_ratios() -> None:
    rng = random.Random(0)
    crops = [draw_crop(rng, 200, 300, (0.2, 0.6)) for _ in range(2000)]
    for top, left, height, width in crops:
        assert top >= 0
        assert left >= 0
        assert top + height <= 200
        assert left + width <= 300
    areas = np.array([height * width / 60_000 for _, _, height, width in crops])
    ratios = np.array([width / height for _, _, height, width in crops])
    assert 0.19 < areas.min() < 0.22 < 0.55 < areas.max() < 0.61
    assert 0.74 < ratios.min() < 0.78 < 1.28 < ratios.max() < 1.35
    assert abs(np.log(ratios).mean()) < 0.03


def test_a_shape_that_no_crop_fits_gives_the_centred_square() -> None:
    assert draw_crop(random.Random(0), 10, 1000, (0.9, 1.0)) == (0, 495, 10, 10)


def test_strong_shrinking_is_antialiased() -> None:
    spec = PreprocessSpec(32, "warp", 128, "bicubic", (0.5,) * 3, (0.5,) * 3)
    board = (np.indices((128, 128)).sum(axis=0) % 2 * 255).astype(np.uint8)
    prepared = np.repeat(board[:, :, None], 3, axis=2)
    spread = [build_augment("standard", spec)(prepared, seed).std() for seed in range(20)]
    assert np.median(spread) < 60  # picked pixels alone would keep the board's 127


def test_the_result_is_written_where_asked() -> None:
    for policy in POLICIES:
        augment = build_augment(policy, WARP)
        batch = np.zeros((3, 32, 32, 3), np.uint8)
        assert np.shares_memory(augment(PREPARED, 7, out=batch[1]), batch)
        np.testing.assert_array_equal(batch[1], augment(PREPARED, 7))
        assert not batch[[0, 2]].any()


def test_a_read_only_picture_can_be_augmented() -> None:
    frozen = PREPARED.copy()
    frozen.flags.writeable = False
    for policy in POLICIES:
        np.testing.assert_array_equal(
            build_augment(policy, WARP)(frozen, 3), build_augment(policy, WARP)(PREPARED, 3)
        )


def test_face_keeps_most_of_the_picture() -> None:
    """A light policy: on average close to the centre crop, closer than the standard one."""
    crop = center_crop(PREPARED, 32).astype(float)

    def distance(policy: str) -> float:
        augment = build_augment(policy, WARP)
        differences = []
        for seed in range(60):
            picture = augment(PREPARED, seed).astype(float)
            differences.append(min(np.abs(picture - crop).mean(), np.abs(picture[:, ::-1] - crop).mean()))
        return float(np.mean(differences))

    assert 1 < distance("face") < 0.8 * distance("strong")


def test_an_unknown_policy_is_refused_with_the_names() -> None:
    with pytest.raises(UsageError, match="none, flip, face, face_fast, standard, strong"):
        build_augment("weak", WARP)


def test_an_augment_survives_pickling() -> None:
    augment = pickle.loads(pickle.dumps(build_augment("face", WARP)))
    assert isinstance(augment, Augment)
    np.testing.assert_array_equal(augment(PREPARED, 4), build_augment("face", WARP)(PREPARED, 4))


def test_albumentations_is_imported_late_and_kept_from_calling_home() -> None:
    program = (
        "import os, sys; import finetune.images.augmentation.policies as a\n"
        "from tests.finetune.pictures import WARP\n"
        "os.environ.pop('NO_ALBUMENTATIONS_UPDATE', None)\n"
        "a.build_augment('standard', WARP); assert 'albumentations' not in sys.modules\n"
        "a.build_augment('face', WARP); assert 'albumentations' in sys.modules\n"
        "assert os.environ['NO_ALBUMENTATIONS_UPDATE'] == '1'\n"
    )
    root = Path(__file__).resolve().parents[4]
    subprocess.run([sys.executable, "-c", program], cwd=root, check=True)
