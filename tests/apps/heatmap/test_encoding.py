from __future__ import annotations

import numpy as np
import pytest

from apps.heatmap.encoding import encode_image
from finetune.images.decode import decode_image


def test_a_png_gives_the_same_pixels_back_and_a_jpg_gives_near_ones():
    image = np.zeros((16, 24, 3), np.uint8)
    image[:, :12] = (200, 60, 10)
    np.testing.assert_array_equal(decode_image(encode_image(image)), image)
    near = decode_image(encode_image(image, ".jpg", quality=95)).astype(int)
    assert np.abs(near[4, 4] - (200, 60, 10)).max() < 12
    noise = np.random.default_rng(0).integers(0, 256, (64, 64, 3), dtype=np.uint8)
    assert len(encode_image(noise, ".jpg", quality=30)) < len(encode_image(noise, ".jpg", quality=95))


def test_what_cannot_be_encoded_is_refused():
    with pytest.raises(ValueError, match="could not be written"):
        encode_image(np.zeros((1, 70_000, 3), np.uint8), ".jpg")
