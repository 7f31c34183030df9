"""The list of image endings against the formats that are decoded."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from finetune.images.decode import FORMATS, decode_image
from finetune.images.endings import PICTURE_ENDINGS, UNREAD_ENDINGS, unread_notices

FLOATS = ".pfm"  # of the format PPM, but floating-point pixels are refused


def test_every_ending_of_a_format_that_is_decoded_is_an_images():
    Image.init()
    known = {kind for kind, name in Image.EXTENSION.items() if name in FORMATS}
    assert known - PICTURE_ENDINGS == {FLOATS}
    assert not PICTURE_ENDINGS & UNREAD_ENDINGS.keys()


@pytest.mark.parametrize("kind", sorted(PICTURE_ENDINGS - {".pbm", ".pnm", ".avifs"}))
def test_a_file_of_each_ending_that_pillow_writes_is_decoded(tmp_path: Path, kind: str):
    file = tmp_path / f"a{kind}"
    grey = Image.fromarray(np.full((9, 9), 200, np.uint8))
    grey.convert("L" if kind == ".pgm" else "RGB").save(file)
    if kind == ".dib":
        grey.save(file, format="BMP")  # as Windows names its bitmaps
    assert decode_image(file).shape == (9, 9, 3)


def test_what_is_left_out_is_counted():
    names = ["a.heic", "b.HEIF", "c.txt", "README", "d.tar.gz"]
    assert unread_notices(names) == [
        "2 images are in a format that is not read here and are left out; export them as JPEG: "
        "1 .heic (HEIC), 1 .heif (HEIC)",
        "3 files are no images by their ending and are left out: 1 .txt, 1 without an ending, 1 .gz",
    ]
    assert unread_notices([]) == []
