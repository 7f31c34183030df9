from __future__ import annotations

import io
import re

import numpy as np
import pytest
from PIL import Image

from finetune.images.decode import BadImageError, decode_image, image_size
from finetune.images.streams.jpeg import prepare_jpeg
from finetune.images.streams.prepared import StructureError
from tests.finetune.pictures import smooth_picture

PICTURE = Image.fromarray(smooth_picture(0, 240, 320))
KINDS: dict[str, dict[str, object]] = {
    "baseline": {},
    "without subsampling": {"subsampling": 0, "quality": 95},
    "progressive": {"progressive": True},
    "restarts": {"restart_marker_rows": 1},
    "progressive restarts": {"progressive": True, "restart_marker_rows": 2},
}


def encoded(picture: Image.Image = PICTURE, **options: object) -> bytes:
    stream = io.BytesIO()
    picture.save(stream, "JPEG", **options)
    return stream.getvalue()


def pillows(content: bytes) -> np.ndarray:
    with Image.open(io.BytesIO(content)) as image:
        return np.asarray(image.convert("RGB"))


def refusal(content: bytes) -> str:
    with pytest.raises(BadImageError) as caught:
        decode_image(content)
    return caught.value.reason


def scan_bounds(content: bytes) -> tuple[int, int]:
    """Return where the first scan's data begin and the last scan's end."""
    start = content.index(b"\xff\xda")
    return start + 2 + int.from_bytes(content[start + 2 : start + 4], "big"), content.rindex(b"\xff\xd9")


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("mode", ["RGB", "L", "CMYK"])
def test_a_whole_file_gives_pillows_pixels_and_no_note(kind: str, mode: str) -> None:
    content = encoded(PICTURE.convert(mode), **KINDS[kind])
    notices: list[str] = []
    np.testing.assert_array_equal(decode_image(content, notices=notices), pillows(content))
    assert notices == []


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("share", [0.2, 0.5, 0.9, 0.98, 0.995])
def test_half_a_file_with_an_end_marker_is_refused(kind: str, share: float) -> None:
    content = encoded(**KINDS[kind])
    start, end = scan_bounds(content)
    half = content[: start + int(share * (end - start))].rstrip(b"\xff") + b"\xff\xd9"
    if kind in ("baseline", "restarts"):
        assert pillows(half).shape == (240, 320, 3)  # read without a word
    assert "JPEG data" in refusal(half) or "truncated" in refusal(half)


@pytest.mark.parametrize("kind", ["baseline", "restarts"])
def test_zeroed_data_are_refused(kind: str) -> None:
    content = bytearray(encoded(**KINDS[kind]))
    start, end = scan_bounds(bytes(content))
    content[(start + end) // 2 : (start + end) // 2 + 800] = bytes(800)
    assert refusal(bytes(content))


SIZES = [(480, 320), (240, 640), (120, 320), (240, 160)]
# What scans of a progressive file leave over is passed over by every decoder: only larger sizes show there.
RESIZED = [(kind, *size) for kind in KINDS for size in (SIZES[:2] if kind == "progressive" else SIZES)]


@pytest.mark.parametrize(("kind", "height", "width"), RESIZED)
def test_a_header_of_another_size_is_refused(kind: str, height: int, width: int) -> None:
    content = bytearray(encoded(**KINDS[kind]))
    frame = re.search(rb"\xff[\xc0\xc2]", bytes(content))
    assert frame is not None
    size = height.to_bytes(2, "big") + width.to_bytes(2, "big")
    content[frame.start() + 5 : frame.start() + 9] = size
    assert "JPEG data" in refusal(bytes(content)) or "truncated" in refusal(bytes(content))


def test_a_few_bytes_behind_the_pixels_are_a_note() -> None:
    content = encoded()
    _, end = scan_bounds(content)
    notices: list[str] = []
    pixels = decode_image(content[:end] + b"\0\0\0" + content[end:], notices=notices)
    np.testing.assert_array_equal(pixels, pillows(content))
    assert len(notices) == 1
    assert "a few bytes" in notices[0]


@pytest.mark.parametrize("tail", [b"", b"\xff\xff\xd9", b"\xff\xd9 and what a telephone adds \xff\xd8\xff"])
def test_what_follows_the_pixels_is_free(tail: bytes) -> None:
    content = encoded()
    _, end = scan_bounds(content)
    np.testing.assert_array_equal(decode_image(content[:end] + tail), pillows(content))


def test_a_missing_restart_marker_is_refused() -> None:
    content = encoded(restart_marker_rows=1)
    assert "damaged" in refusal(content.replace(b"\xff\xd2", b"", 1))
    assert "early" in refusal(content[: content.rindex(b"\xff\xd5")] + b"\xff\xd9")


def test_thousands_of_segments_and_scans_are_refused_at_once() -> None:
    content = encoded()
    with pytest.raises(StructureError, match="4,096 JPEG segments"):
        prepare_jpeg(content[:2] + b"\xff\xfe\0\2" * 5000 + content[2:])
    content = encoded(progressive=True)
    last = content.rindex(b"\xff\xda")
    with pytest.raises(StructureError, match="scans, at most 100"):
        prepare_jpeg(content[:-2] + content[last:-2] * 100 + content[-2:])


def test_a_size_is_not_asked_of_a_file_that_no_decoder_should_be_given(tmp_path):
    file = tmp_path / "many.jpg"
    whole = io.BytesIO()
    Image.new("RGB", (8, 6)).save(whole, "JPEG")
    file.write_bytes(whole.getvalue())
    assert image_size(file) == (8, 6)
    file.write_bytes(whole.getvalue()[:2] + b"\xff\xfe\x00\x02" * 5000 + whole.getvalue()[2:])
    assert image_size(file) is None
