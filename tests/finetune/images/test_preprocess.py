from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from finetune.errors import UsageError
from finetune.images import preprocess as pre
from finetune.images.decode import decode_image
from finetune.images.preprocess import PreprocessSpec, center_crop, prepare, preprocess, resize
from tests.finetune.pictures import SHORT, WARP, smooth_picture

VALUES = WARP.to_dict()


def index_image(height: int, width: int) -> np.ndarray:
    """An image whose pixels tell their row, their column and zero."""
    rows, columns = np.indices((height, width))
    return np.stack([rows, columns, np.zeros_like(rows)], axis=2).astype(np.uint8)


def pillow_bicubic(image: np.ndarray, height: int, width: int) -> np.ndarray:
    return np.asarray(Image.fromarray(image).resize((width, height), Image.Resampling.BICUBIC))


def test_the_spec_survives_json() -> None:
    assert PreprocessSpec.from_dict(json.loads(json.dumps(WARP.to_dict()))) == WARP


@pytest.mark.parametrize(
    ("change", "word"),
    [
        ({"resize": "squash"}, "warp, short"),
        ({"interpolation": "nearest"}, "bilinear, bicubic, lanczos"),
        ({"color": "BGR"}, "RGB"),
        ({"image_size": 41}, "41 and 40"),
        ({"image_size": 0}, "0 and 40"),
        ({"std": [0.5, 0.0, 0.5]}, "std above 0"),
        ({"mean": [0.5]}, "three numbers"),
        ({"crop": 3}, "unknown keys \\['crop'\\]"),
    ],
)
def test_a_spec_that_cannot_be_applied_is_refused(change: dict[str, object], word: str) -> None:
    with pytest.raises(UsageError, match=word):
        PreprocessSpec.from_dict({**VALUES, **change})


def test_a_missing_key_is_named() -> None:
    with pytest.raises(UsageError, match="missing keys \\['mean'\\]"):
        PreprocessSpec.from_dict({key: value for key, value in VALUES.items() if key != "mean"})


@pytest.mark.parametrize("shape", [(40, 40), (33, 90), (500, 20), (8, 8)])
def test_warp_gives_the_square_and_short_keeps_the_shape(shape: tuple[int, int]) -> None:
    image = smooth_picture(0, *shape)
    assert prepare(image, WARP).shape == (40, 40, 3)
    height, width, _ = prepare(image, SHORT).shape
    assert min(height, width) == 40
    assert max(height, width) == 40 * max(shape) // min(shape)


def test_preparing_at_the_right_size_changes_nothing() -> None:
    image = smooth_picture(1, 40, 40)
    np.testing.assert_array_equal(prepare(image, WARP), image)


def test_shrinking_by_a_whole_factor_averages_areas() -> None:
    image = smooth_picture(2, 30, 40)
    blocks = image.reshape(10, 3, 10, 4, 3).mean(axis=(1, 3))
    np.testing.assert_allclose(resize(image, 10, 10), blocks, atol=0.51)


def test_shrinking_does_not_alias_a_checkerboard() -> None:
    board = np.indices((200, 200)).sum(axis=0) % 2 * 255
    image = np.repeat(board[:, :, None], 3, axis=2).astype(np.uint8)
    shrunk = resize(image, 37, 41).astype(float)
    assert abs(shrunk.mean() - 127.5) < 2
    assert shrunk.std() < 12


@pytest.mark.parametrize("size", [(30, 40), (64, 64), (150, 100), (40, 130)])
def test_resizing_smooth_pictures_stays_close_to_pillows_bicubic(size: tuple[int, int]) -> None:
    for seed in range(5):
        image = smooth_picture(seed, 90, 110)
        difference = np.abs(resize(image, *size).astype(int) - pillow_bicubic(image, *size))
        assert difference.mean() < 1.0
        assert np.percentile(difference, 99) <= 6


@pytest.mark.real_data
@pytest.mark.parametrize("side", [128, 256])
def test_resizing_photographs_stays_within_two_grey_levels_of_pillow(real_data: Path, side: int) -> None:
    files = [
        *sorted((real_data / "photos").glob("*.*g")),
        *sorted((real_data / "fgnet" / "images").iterdir())[:20],
    ]
    images = [decode_image(file) for file in files if file.suffix.lower() in (".jpg", ".png")]
    differences = [
        np.abs(resize(image, side, side).astype(int) - pillow_bicubic(image, side, side)) for image in images
    ]
    assert max(difference.mean() for difference in differences) < 2
    assert np.mean([difference.mean() for difference in differences]) < 1


def test_the_centre_crop_is_the_middle_of_an_index_image() -> None:
    crop = center_crop(index_image(40, 60), 32)
    np.testing.assert_array_equal(crop[0, 0], [4, 14, 0])
    np.testing.assert_array_equal(crop[-1, -1], [35, 45, 0])
    odd = center_crop(index_image(35, 32), 32)
    np.testing.assert_array_equal(odd[0, 0], [1, 0, 0])


def test_preprocess_is_the_contiguous_centre_crop_of_prepare() -> None:
    image = smooth_picture(3, 70, 95)
    result = preprocess(image, SHORT)
    assert result.flags.c_contiguous
    np.testing.assert_array_equal(result, center_crop(prepare(image, SHORT), 32))


def test_test_crops_lie_where_they_should() -> None:
    prepared = index_image(40, 50)
    centre = pre.test_crops(prepared, WARP, "center")
    flip = pre.test_crops(prepared, WARP, "flip")
    ten = pre.test_crops(prepared, WARP, "ten")
    assert (len(centre), len(flip), len(ten)) == (1, 2, 10)
    corners = [tuple(crop[0, 0, :2].tolist()) for crop in ten[:5]]
    assert corners == [(4, 9), (0, 0), (0, 18), (8, 0), (8, 18)]
    np.testing.assert_array_equal(ten[5:], ten[:5, :, ::-1])
    np.testing.assert_array_equal(flip[1], centre[0, :, ::-1])
    np.testing.assert_array_equal(ten[0], centre[0])


def test_an_unknown_crop_rule_is_refused() -> None:
    with pytest.raises(UsageError, match="center, flip, ten"):
        pre.test_crops(index_image(40, 40), WARP, "five")


def test_the_module_does_not_import_torch() -> None:
    program = (
        "import finetune.images.preprocess, finetune.images.decode, sys; "
        "raise SystemExit('torch' in sys.modules)"
    )
    root = Path(__file__).resolve().parents[3]
    assert subprocess.run([sys.executable, "-c", program], cwd=root, check=False).returncode == 0
