from __future__ import annotations

import numpy as np
import pytest

from agecls.faces.alignment import (
    Face,
    aligning_matrix,
    crop_face,
    fit_affine,
    region_size,
    template,
    upright_matrix,
    warp_square,
)
from agecls.faces.crop import FaceCrop
from finetune.errors import UsageError

BLACK = np.zeros((600, 500, 3), np.uint8)


def spots(points: np.ndarray, height: int = 600, width: int = 500) -> np.ndarray:
    """A black image with a soft white spot at each point (continuous coordinates)."""
    rows, columns = np.mgrid[0:height, 0:width] + 0.5
    light = sum(np.exp(-((columns - x) ** 2 + (rows - y) ** 2) / 8) for x, y in points)
    return np.repeat((255 * np.minimum(light, 1))[:, :, None], 3, axis=2).astype(np.uint8)


def brightest(picture: np.ndarray, near: np.ndarray, reach: int) -> np.ndarray:
    """The centre of light within `reach` px of a place, in continuous coordinates."""
    low = np.maximum(np.floor(near - reach), 0).astype(int)
    part = picture[low[1] : low[1] + 2 * reach, low[0] : low[0] + 2 * reach, 0].astype(float)
    rows, columns = np.mgrid[0 : part.shape[0], 0 : part.shape[1]] + 0.5
    return low + np.array([(columns * part).sum(), (rows * part).sum()]) / part.sum()


def pattern(height: int = 120, width: int = 100) -> np.ndarray:
    """An image in which every pixel has a colour of its own."""
    rows, columns = np.mgrid[0:height, 0:width]
    return np.stack([rows, columns, (rows * 7 + columns * 3) % 256], axis=2).astype(np.uint8)


def test_the_template_is_adiences():
    assert template(816)[:2].tolist() == [[318, 241.3], [498, 241.3]]
    assert template(256).round(1).tolist() == [
        [99.8, 75.7], [156.2, 75.7], [128.0, 114.5], [109.2, 153.1], [146.8, 153.1],
    ]  # fmt: skip
    assert template(224)[[0, 1, 3, 4]].round(1).tolist() == [
        [87.3, 66.2], [136.7, 66.2], [95.5, 134.0], [128.5, 134.0],
    ]  # fmt: skip


@pytest.mark.parametrize("size", [816, 256, 224])
def test_landmarks_land_on_the_template(size):
    turn = np.array([[0.21, -0.06], [0.05, 0.15]])
    landmarks = (template(816) - 400) @ turn.T + (240, 310)
    face = Face((100, 100, 200, 250), 0.9, landmarks)
    for index, point in enumerate(landmarks):
        crop = crop_face(spots(point[None]), face, FaceCrop.of("aligned"), size)
        wanted = template(size)[index]
        assert np.abs(brightest(crop, wanted, size // 16) - wanted).max() < 0.5


def test_six_parameters_reach_what_turning_and_scaling_cannot():
    landmarks = template(100) * (1, 1 / 1.29)
    assert np.allclose(aligning_matrix(landmarks, 100), [[1, 0, 0], [0, 1.29, 0]], atol=1e-9)


def test_a_head_seen_from_the_side_is_not_stretched():
    profile = template(200) * (0.2, 1)
    wide, narrow = np.linalg.svd(aligning_matrix(profile, 200)[:, :2], compute_uv=False)
    assert wide == pytest.approx(narrow)
    slightly = np.linalg.svd(aligning_matrix(template(200) * (0.5, 1), 200)[:, :2], compute_uv=False)
    assert slightly[0] == pytest.approx(2 * slightly[1])


def test_mirrored_landmarks_do_not_mirror_the_face():
    mirrored = template(200)[[1, 0, 2, 4, 3]]
    assert np.linalg.det(aligning_matrix(mirrored, 200)[:, :2]) > 0


def test_outside_the_picture_an_aligned_face_is_black():
    face = Face((0, 0, 100, 120), 0.9, template(120) - (40, 0))
    crop = crop_face(np.full((120, 100, 3), 200, np.uint8), face, FaceCrop.of("aligned"), 120)
    assert (crop[:, :38] == 0).all()
    assert (crop[:, 42:] == 200).sum() > 0.7 * 120 * 60
    assert (crop[50, 45:95] == 200).all()


def test_a_plain_crop_is_the_widened_square():
    image = pattern()
    crop = crop_face(image, Face((30, 40, 40, 30), 0.9), FaceCrop("plain", 0.25), 60)
    assert (crop == image[25:85, 20:80]).all()
    moved = crop_face(image, Face((30, 40, 40, 30), 0.9), FaceCrop("plain", 0.25, 0.25), 60)
    assert (moved == image[35:95, 20:80]).all()


def test_a_narrow_plain_crop_by_hand():
    image, face = pattern(), Face((30, 40, 40, 30), 0.9)
    narrow = FaceCrop("plain", 0.25, 0, 0.5)
    # 40 px and a quarter of them above and below are 60 px of height, half of that is the width; the middle
    # is (50, 55).
    assert region_size(face, narrow).tolist() == [30, 60]
    region = image[25:85, 35:65].astype(float)
    crop = crop_face(image, face, narrow, 30)
    assert np.abs(crop - (region[::2] + region[1::2]) / 2).max() <= 0.5, "only the height is averaged"
    wide = crop_face(image, face, FaceCrop("plain", 0.25, 0, 1.5), 30)
    region = image[25:85, 5:95].astype(float)
    cells = region.reshape(30, 2, 30, 3, 3).mean(axis=(1, 3))
    assert np.abs(wide - cells).max() <= 0.5, "three columns and two rows make a pixel"


def test_a_narrow_plain_crop_repeats_the_edge():
    image = pattern()
    crop = crop_face(image, Face((-20, 90, 40, 40), 0.9), FaceCrop("plain", 0, 0, 0.5), 40)
    # 20 x 40 px in the middle of (0, 110): ten columns and ten rows lie outside; a column becomes two.
    assert (crop[:, :18] == crop[:, :1]).all()
    assert (crop[30:] == crop[29:30]).all()
    assert (crop[:30, 0] == image[90:120, 0]).all()
    small = crop_face(image, Face((-20, 90, 40, 40), 0.9), FaceCrop("plain", 0, 0, 0.5), 20)
    inside = image[90:120, :10].astype(float)
    assert np.abs(small[:15, 10:] - (inside[::2] + inside[1::2]) / 2).max() <= 0.5, "the width is not shrunk"


@pytest.mark.parametrize("style", ["aligned", "faces", "plain"])
@pytest.mark.parametrize("aspect", [0.2, 0.77, 5])
def test_every_shape_gives_exactly_the_square_asked_for(style, aspect):
    for place in (20, -15.3, 85.7):
        face = Face((place, place, 30.4, 41.9), 0.9, template(60) + place)
        for size in (1, 33, 64):
            crop = FaceCrop(style, FaceCrop.of(style).margin, 0, aspect)
            assert crop_face(pattern(), face, crop, size).shape == (size, size, 3)


def test_an_aligned_face_ignores_the_shape():
    face = Face((20, 20, 50, 60), 0.9, template(100))
    square = crop_face(pattern(), face, FaceCrop.of("aligned"), 48)
    assert (crop_face(pattern(), face, FaceCrop("aligned", 0, 0, 0.5), 48) == square).all()


def test_a_plain_crop_repeats_the_edge_where_the_picture_ends():
    image = pattern()
    crop = crop_face(image, Face((-10, 90, 40, 40), 0.9), FaceCrop("plain", 0), 40)
    assert (crop[:30, 10:] == image[90:120, :30]).all()
    assert (crop[:30, :10] == image[90:120, :1]).all()
    assert (crop[30:, 10:] == image[119:, :30]).all()


def test_a_face_outside_the_picture_shows_its_edge():
    image = pattern()
    for style in ("plain", "faces"):
        crop = crop_face(image, Face((500, 30, 20, 20), 0.9), FaceCrop(style, 0), 20)
        assert np.abs(crop.astype(int) - image[30:50, 99:].astype(int)).max() <= 1


@pytest.mark.parametrize("turns", [0, 1, 2, 3])
def test_a_turned_picture_gives_the_same_upright_face(turns):
    rng = np.random.default_rng(0)
    image = np.kron(rng.integers(0, 256, (30, 30, 3)), np.ones((8, 8, 1))).astype(np.uint8)
    landmarks = np.array([(100, 110), (140, 110), (120, 130), (105, 150), (135, 150)], dtype=float)
    upright = crop_face(image, Face((80, 80, 80, 80), 0.9, landmarks), FaceCrop.of("faces"), 96)
    points = landmarks
    for _ in range(turns):  # np.rot90 turns against the clock: (x, y) -> (y, width - x)
        points = np.column_stack([points[:, 1], 240 - points[:, 0]])
    turned = crop_face(
        np.ascontiguousarray(np.rot90(image, turns)),
        Face((80, 80, 80, 80), 0.9, points),
        FaceCrop.of("faces"),
        96,
    )
    assert np.abs(upright.astype(int) - turned.astype(int)).mean() < 1


def test_the_faces_crop_by_hand():
    level = Face((40, 50, 20, 40), 0.9, np.array([(45, 60), (55, 60), (50, 66), (46, 75), (54, 75)], float))
    matrix = upright_matrix(level, FaceCrop("faces", 0.25, 0.05), 120)
    # A side of 40 x 1.5 = 60 px becomes 120; the middle (50, 70) drops by 0.05 x 40 = 2 px.
    assert matrix == pytest.approx(np.array([[2, 0, 60 - 2 * 50], [0, 2, 60 - 2 * 72]]))
    narrow = upright_matrix(level, FaceCrop("faces", 0.25, 0.05, 0.5), 120)
    # Half of 60 px becomes 120 as well.
    assert narrow == pytest.approx(np.array([[4, 0, 60 - 4 * 50], [0, 2, 60 - 2 * 72]]))
    lying = Face((40, 50, 20, 40), 0.9, np.array([(55, 65), (55, 75), (50, 70), (45, 66), (45, 74)], float))
    # Turned by a quarter: the face's width runs down the image, its chin lies to the left.
    turned = upright_matrix(lying, FaceCrop("faces", 0.25, 0.05, 0.5), 120)
    assert turned == pytest.approx(np.array([[0, 4, 60 - 4 * 70], [-2, 0, 60 + 2 * 48]]))
    tilted = Face((40, 50, 20, 40), 0.9, np.array([(40, 60), (50, 70), (45, 70), (40, 75), (45, 80)], float))
    assert tilted.tilt == pytest.approx(45)
    eyes = (
        upright_matrix(tilted, FaceCrop("faces", 0.25, 0.0), 120)
        @ np.column_stack([tilted.landmarks[:2], np.ones(2)]).T
    )
    assert eyes[1, 0] == pytest.approx(eyes[1, 1])
    assert eyes[0, 0] < eyes[0, 1]


@pytest.mark.parametrize("aspect", [0.7, 1.3])
@pytest.mark.parametrize("style", ["faces", "plain"])
def test_a_large_face_of_another_shape_is_averaged_on_both_axes(style, aspect):
    checks = (np.indices((1501, 1501)).sum(axis=0) % 2 * 255).astype(np.uint8)
    face = Face((450, 450, 600, 600), 0.9, template(1200) + 150)
    crop = crop_face(np.repeat(checks[:, :, None], 3, axis=2), face, FaceCrop(style, 0.25, 0, aspect), 64)
    assert crop[8:-8, 8:-8].std() < 12


@pytest.mark.parametrize("style", ["aligned", "faces", "plain"])
def test_a_large_face_is_averaged_not_sampled(style):
    checks = (np.indices((1501, 1501)).sum(axis=0) % 2 * 255).astype(np.uint8)
    image = np.repeat(checks[:, :, None], 3, axis=2)
    face = Face((350, 350, 800, 800), 0.9, template(1200) + 150)
    crop = crop_face(image, face, FaceCrop.of(style), 64)
    middle = crop[8:-8, 8:-8].astype(float)
    assert middle.std() < 12
    assert middle.mean() == pytest.approx(127.5, abs=3)


def test_an_identity_map_changes_nothing():
    image = pattern(100, 100)
    assert (warp_square(image, np.eye(2, 3), 100, repeat_edge=True) == image).all()
    shifted = warp_square(image, np.array([[1.0, 0, -10], [0, 1, -20]]), 60, repeat_edge=True)
    assert (shifted == image[20:80, 10:70]).all()


@pytest.mark.parametrize("style", ["aligned", "faces", "plain"])
def test_pictures_wider_than_opencv_warps_and_boxes_far_too_large_are_cut_all_the_same(style):
    image = np.zeros((60, 40_000, 3), np.uint8)
    image[:, 39_900:39_960] = 255
    face = Face((39_910, 10, 40, 40), 0.9, template(80) + np.array([39_890, 0]))
    crop = crop_face(image, face, FaceCrop.of(style), 32)
    assert crop.shape == (32, 32, 3)
    assert crop[16, 16].tolist() == [255, 255, 255]
    huge = Face((-9e4, -9e4, 2e5, 2e5), 0.9, template(200_000) - 100_000)
    assert crop_face(image, huge, FaceCrop.of(style), 32).shape == (32, 32, 3)


def test_an_aligned_crop_needs_landmarks():
    with pytest.raises(UsageError, match="YuNet"):
        crop_face(BLACK, Face((10, 10, 50, 50), 0.9), FaceCrop.of("aligned"), 64)
    assert crop_face(BLACK, Face((10, 10, 50, 50), 0.9), FaceCrop.of("faces"), 64).shape == (64, 64, 3)
    with pytest.raises(UsageError, match="at least 1 px"):
        crop_face(BLACK, Face((10, 10, 50, 50), 0.9), FaceCrop.of("plain"), 0)


def test_the_least_squares_fit_is_the_best_one():
    rng = np.random.default_rng(1)
    points, target = rng.normal(size=(5, 2)), rng.normal(size=(5, 2))
    best = fit_affine(points, target)

    def miss(matrix: np.ndarray) -> float:
        return float(np.square(points @ matrix[:, :2].T + matrix[:, 2] - target).sum())

    assert all(miss(best) < miss(best + 0.01 * rng.normal(size=(2, 3))) for _ in range(50))
