"""Small files that would keep a decoder busy or fill the memory, and metadata that play no part."""

from __future__ import annotations

import io
import struct
import time
import zlib
from collections.abc import Callable

import numpy as np
import pytest
from PIL import Image, PngImagePlugin

from finetune.images.decode import BadImageError, decode_image
from tests.finetune.pictures import smooth_picture

RGB = smooth_picture(0, 24, 18)
PICTURE = Image.fromarray(RGB)


def encoded(kind: str, **options: object) -> bytes:
    stream = io.BytesIO()
    PICTURE.save(stream, kind, **options)
    return stream.getvalue()


def chunk(kind: bytes, body: bytes, *, checksum: int = 0) -> bytes:
    found = zlib.crc32(kind + body) ^ checksum
    return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", found)


def with_chunk(made: bytes) -> bytes:
    content = encoded("PNG")
    return content[:33] + made + content[33:]


def gif_with(extra: bytes) -> bytes:
    content = encoded("GIF")
    place = 13 + 3 * 2 ** ((content[10] & 7) + 1)
    return content[:place] + extra + content[place:]


def gif_pieces() -> bytes:
    """Return a GIF file whose pixels come a byte at a time, three hundred thousand empty ones behind them."""
    content = gif_with(b"")
    return content[:-2] + b"\1\0" * 300_000 + content[-2:]


def jpeg_with(extra: bytes) -> bytes:
    content = encoded("JPEG")
    return content[:2] + extra + content[2:]


def tiff(*entries: tuple[int, int, int, int]) -> bytes:
    body = b"".join(struct.pack("<HHII", *entry) for entry in entries)
    return b"II*\0" + struct.pack("<IH", 8, len(entries)) + body + bytes(4)


SIZE = ((256, 3, 1, 18), (257, 3, 1, 24))
BOMBS: dict[str, tuple[Callable[[], bytes], str]] = {
    "pieces of a GIF": (gif_pieces, "small pieces"),
    "graphic controls of a GIF": (lambda: gif_with(b"\x21\xf9\4\0\0\0\0\0" * 20_000), "GIF blocks"),
    "comments of a GIF": (lambda: gif_with(b"\x21\xfe\1a\0" * 1_000_000), "GIF blocks"),
    "one comment of a GIF": (lambda: gif_with(b"\x21\xfe" + b"\1a" * 1_000_000 + b"\0"), "small pieces"),
    "chunks of a PNG": (lambda: with_chunk(chunk(b"fdAT", b"") * 9000), "PNG chunks"),
    "chunks of a WebP": (lambda: encoded("WEBP") + b"XXXX\0\0\0\0" * 20_000, "WebP chunks"),
    "boxes": (lambda: b"\0\0\0\x0cjP  \r\n\x87\n" + b"\0\0\0\x08free" * 5000, "boxes"),
    "filler of a JPEG": (lambda: jpeg_with(b"\xff" * 20_000_000), "filler bytes"),
    "pairs of filler of a JPEG": (lambda: jpeg_with(b"\xff\0" * 2_000_000), "filler bytes"),
    "entries of a TIFF": (lambda: tiff(*[(60_000, 3, 1, 0)] * 5000), "TIFF entries"),
    "an entry of a TIFF": (lambda: tiff(*SIZE, (700, 1, 5_000_000, 8)), "4 MB"),
    "strips of a TIFF": (lambda: tiff(*SIZE, (273, 4, 1_000_000, 8)), "strips"),
    "a tile of a TIFF": (lambda: tiff(*SIZE, (322, 4, 1, 60_000), (323, 4, 1, 60_000)), "60000 x 60000"),
    "comments of a map": (lambda: b"P3 18 24 255\n" + b"#\n" * 500_000 + b"1 " * 1296, "comments"),
    "a header of a map": (lambda: b"P6 " + b"#" * 100_000 + b"\n18 24 255\n" + bytes(1296), "header"),
    "a map as text": (lambda: b"P2 2000 2000 255\n" + b"1 " * 100, "megapixels"),
    "a map of 7 bits": (lambda: b"P6 2000 2000 127\n" + bytes(12_000_000), "megapixels"),
    "runs of a bitmap": (
        lambda: (
            b"BM"
            + struct.pack("<IIIIiiHHIIiiII", 99, 0, 54, 40, 2000, 2000, 1, 8, 1, 0, 0, 0, 0, 0)
            + b"x" * 45
        ),
        "megapixels",
    ),
}


@pytest.mark.parametrize("bomb", BOMBS)
def test_a_bomb_is_refused_at_once(bomb: str) -> None:
    make, word = BOMBS[bomb]
    content = make()
    start = time.process_time()
    with pytest.raises(BadImageError) as caught:
        decode_image(content)
    assert word in caught.value.reason
    assert time.process_time() - start < 0.5


def test_some_filler_of_a_jpeg_plays_no_part() -> None:
    content = jpeg_with(b"\xff" * 100_000)
    np.testing.assert_array_equal(decode_image(content), decode_image(encoded("JPEG")))
    behind = content[:-2] + b"\xff" * 100_000 + content[-2:]
    np.testing.assert_array_equal(decode_image(behind), decode_image(encoded("JPEG")))


@pytest.mark.parametrize(("width", "height", "word"), [(5000, 5000, "at most"), (4000, 4000, "")])
def test_jpeg_2000_has_a_smaller_bound(width: int, height: int, word: str) -> None:
    content = bytearray(encoded("JPEG2000", no_jp2=True))
    place = content.index(b"\xff\x51") + 6
    for start, value in ((place, width), (place + 4, height), (place + 16, width), (place + 20, height)):
        content[start : start + 4] = value.to_bytes(4, "big")
    with pytest.raises(BadImageError) as caught:
        decode_image(bytes(content))
    assert ("25 megapixels" in caught.value.reason or "25.0 megapixels" in caught.value.reason) is bool(word)


def test_tiles_of_jpeg_2000_are_counted() -> None:
    content = bytearray(encoded("JPEG2000", no_jp2=True))
    place = content.index(b"\xff\x51") + 6
    for start, value in ((place, 4000), (place + 4, 4000), (place + 16, 10), (place + 20, 10)):
        content[start : start + 4] = value.to_bytes(4, "big")
    with pytest.raises(BadImageError, match="JPEG 2000 tiles"):
        decode_image(bytes(content))


def test_comments_of_a_gif_are_left_out() -> None:
    extra = (
        b"\x21\xfe\1a\0" * 10_000
        + b"\x21\xfe"
        + (b"\xff" + b"a" * 255) * 20_000
        + b"\0"
        + b"\x21\xff\x0bNETSCAPE2.0\3\1\0\0\0"
    )
    start = time.process_time()
    np.testing.assert_array_equal(decode_image(gif_with(extra)), decode_image(encoded("GIF")))
    assert time.process_time() - start < 3


LONG = b"<x>" + b"a" * 1_200_000 + b"</x>"
METADATA: dict[str, bytes] = {
    "a long text": chunk(b"tEXt", b"note\0" + LONG),
    "a long packed text": chunk(b"zTXt", b"XML:com.adobe.xmp\0\0" + zlib.compress(LONG)),
    "a long XMP text": chunk(b"iTXt", b"XML:com.adobe.xmp\0\1\0\0\0" + zlib.compress(LONG)),
    "a text that is no zlib stream": chunk(b"zTXt", b"Raw profile type exif\0\0abc"),
    "a long profile": chunk(b"iCCP", b"p\0\0" + zlib.compress(bytes(1_500_000))),
    "a wrong checksum": chunk(b"tEXt", b"note\0abc", checksum=1),
    "EXIF that is none": chunk(b"eXIf", b"no EXIF data at all"),
    "EXIF with a wrong checksum": chunk(b"eXIf", b"MM\0*\0\0\0\x08\0\0", checksum=1),
    "EXIF cut off": chunk(b"eXIf", b"MM\0*\0\0\0\x08\0\x05\1\x12"),
    "a chunk that nobody knows": chunk(b"abCd", b"x" * 2_000_000),
}


@pytest.mark.parametrize("what", METADATA)
@pytest.mark.filterwarnings("ignore:Corrupt EXIF data")
def test_metadata_of_a_png_play_no_part(what: str) -> None:
    np.testing.assert_array_equal(decode_image(with_chunk(METADATA[what])), RGB)


def test_damaged_exif_data_are_a_note_in_every_format() -> None:
    notices: list[str] = []
    content = encoded("WEBP", lossless=True, exif=b"Exif\0\0no EXIF data at all")
    np.testing.assert_array_equal(decode_image(content, notices=notices), RGB)
    assert len(notices) == 1
    assert "EXIF data are damaged" in notices[0]


def test_the_orientation_of_a_png_is_found_in_its_texts_too() -> None:
    info = PngImagePlugin.PngInfo()
    info.add_itxt("XML:com.adobe.xmp", '<x tiff:Orientation="6"/>', zip=True)
    np.testing.assert_array_equal(decode_image(encoded("PNG", pnginfo=info)), np.rot90(RGB, -1))


def test_sixteen_bits_of_fifty_megapixels_take_little_memory() -> None:
    import tracemalloc

    wide = np.arange(4_000_000, dtype=np.uint16).reshape(2000, 2000)
    stream = io.BytesIO()
    Image.fromarray(wide).save(stream, "TIFF")
    tracemalloc.start()
    pixels = decode_image(stream.getvalue())
    _, most = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    np.testing.assert_array_equal(pixels[:, :, 2], np.round(wide / 257))
    assert most < 12 * wide.size  # the file, the pixels (3 bytes), and strips of a megapixel
