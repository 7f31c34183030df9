"""TIFF, WebP, AVIF, JPEG 2000, BMP and portable maps: headers that say what decoding would cost.

Sources: Adobe, TIFF revision 6.0 (1992), section 2; ITU-T T.800 (2002), annex A.5.1 for the SIZ segment; the
file formats' own headers as Pillow's documentation of image file formats names them.
"""

from __future__ import annotations

import io
import re

from finetune.images.streams.prepared import MAX_PARTS, Prepared, StructureError, refuse_parts

WEBP_BYTES, AVIF_BYTES, JPEG2000_BYTES = 18, 16, 21  # of memory for each pixel, measured
# JPEG 2000 takes a core some 0.09 s for each megapixel and 0.18 s for each megabyte: here 5 s together.
JPEG2000_PIXELS, JPEG2000_FILE = 20_000_000, 16_000_000
SLOW_PIXELS = 2_000_000  # decoded by a loop in Python
PLAIN_BYTES = 20_000_000  # of a portable map written as text
MAX_COMMENTS = 1000
MAX_PIECES = 131_072  # strips or tiles of a TIFF file: a row each at 50 megapixels
ENTRY_BYTES = 4_000_000  # of one entry that is not the list of pieces
TILE_PIXELS = 50_000_000
_PIECES = frozenset((273, 279, 324, 325))  # where strips and tiles lie, and how long they are
_SIZES = {
    1: 1,
    2: 1,
    3: 2,
    4: 4,
    5: 8,
    6: 1,
    7: 1,
    8: 2,
    9: 4,
    10: 8,
    11: 4,
    12: 8,
    13: 4,
    16: 8,
    17: 8,
    18: 8,
}
_HEADER = re.compile(rb"P([1-6])(?:\s|#[^\r\n]*[\r\n])*(\d{1,10})(?:\s|#[^\r\n]*[\r\n])+(\d{1,10})")
_THIRD = re.compile(rb"(?:\s|#[^\r\n]*[\r\n])+(\d{1,10})")


def prepare_webp(content: bytes) -> Prepared:
    """Return a WebP file ready for decoding; StructureError for thousands of chunks."""
    place, chunks = 12, 0
    while place + 8 <= len(content):
        size = int.from_bytes(content[place + 4 : place + 8], "little")
        place += 8 + size + size % 2
        chunks += 1
        refuse_parts(chunks, 4 * MAX_PARTS, "WebP chunks")
    return Prepared(io.BytesIO(content), WEBP_BYTES)


def prepare_boxes(content: bytes) -> Prepared:
    """Return a file of boxes, AVIF or JPEG 2000, ready for decoding; StructureError for thousands."""
    place, boxes = 0, 0
    while place + 8 <= len(content):
        size = int.from_bytes(content[place : place + 4], "big")
        if size == 1:
            size = int.from_bytes(content[place + 8 : place + 16], "big")
        boxes += 1
        refuse_parts(boxes, MAX_PARTS, "boxes")
        if content[place + 4 : place + 8] == b"jp2c":
            return prepare_codestream(content, place + (16 if content[place + 3] == 1 else 8))
        if size < 8:
            break
        place += size
    return Prepared(io.BytesIO(content), AVIF_BYTES)


def prepare_codestream(content: bytes, place: int = 0) -> Prepared:
    """Return a JPEG 2000 file ready for decoding.

    Raises StructureError for more than four components, thousands of tiles, and a very long file.
    """
    size = content[place + 4 :]
    if content[place : place + 4] == b"\xff\x4f\xff\x51" and len(size) >= 38:
        numbers = [int.from_bytes(size[start : start + 4], "big") for start in range(4, 36, 4)]
        right, bottom, _, _, wide, high, left, top = numbers
        tiles = -(-(right - left) // max(wide, 1)) * -(-(bottom - top) // max(high, 1))
        refuse_parts(tiles, MAX_PARTS, "JPEG 2000 tiles")
        refuse_parts(int.from_bytes(size[36:38], "big"), 4, "JPEG 2000 components")
    if len(content) > JPEG2000_FILE:
        most = f"at most {JPEG2000_FILE // 10**6} MB of JPEG 2000 are decoded"
        raise StructureError(
            f"{len(content) / 1e6:.0f} MB, {most}: it takes too long; save it as JPEG or PNG"
        )
    return Prepared(io.BytesIO(content), JPEG2000_BYTES, JPEG2000_PIXELS)


def prepare_bmp(content: bytes) -> Prepared:
    """Return a bitmap ready for decoding; run lengths are decoded by a loop in Python, so few of them."""
    compression = int.from_bytes(content[30:34], "little") if content[14:15] != b"\x0c" else 0
    most = SLOW_PIXELS if compression in (1, 2) else None
    return Prepared(io.BytesIO(content), most_pixels=most, cheap=most is None)


def prepare_map(content: bytes) -> Prepared:
    """Return a portable map ready for decoding.

    Text, and samples that are not of 8 bits, are decoded by a loop in Python, so few of them.
    Raises StructureError for a header of more than 64 KB, thousands of comments, and long text.
    """
    start = content[:65536]
    found = _HEADER.match(start)
    if found is None:
        raise StructureError("the header of its portable map is damaged")
    kind = found[1]
    third = None if kind in b"14" else _THIRD.match(start, found.end())
    if kind in b"123":
        refuse_parts(content.count(b"#"), MAX_COMMENTS, "comments")
        if len(content) > PLAIN_BYTES:
            raise StructureError(
                f"a portable map as text of more than {PLAIN_BYTES // 10**6} MB; save it as PNG"
            )
    fast = (b"255",) if kind == b"6" else (b"255", b"65535")
    odd = third is not None and third[1] not in fast
    slow = kind in b"123" or odd
    return Prepared(io.BytesIO(content), most_pixels=SLOW_PIXELS if slow else None, cheap=not slow)


def prepare_tiff(content: bytes) -> Prepared:
    """Return a TIFF file ready for decoding.

    Raises StructureError for lists of entries, strips or tiles, and for tiles, beyond what an image needs.
    """
    order: str = "little" if content[:2] == b"II" else "big"
    big = int.from_bytes(content[2:4], order) == 43  # type: ignore[arg-type]

    def number(place: int, size: int) -> int:
        return int.from_bytes(content[place : place + size], order)  # type: ignore[arg-type]

    place = number(8, 8) if big else number(4, 4)
    count = number(place, 8 if big else 2)
    refuse_parts(count, MAX_PARTS, "TIFF entries")
    place, step = place + (8 if big else 2), 20 if big else 12
    tile = [0, 0]
    for entry in range(place, min(place + count * step, len(content)), step):
        tag, kind, values = number(entry, 2), number(entry + 2, 2), number(entry + 4, 8 if big else 4)
        if tag in _PIECES:
            refuse_parts(values, MAX_PIECES, "strips or tiles")
        elif values * _SIZES.get(kind, 1) > ENTRY_BYTES:
            raise StructureError(
                f"its TIFF entry {tag} is longer than {ENTRY_BYTES // 10**6} MB; save it again"
            )
        if tag in (322, 323):
            tile[tag - 322] = number(entry + (12 if big else 8), _SIZES.get(kind, 4))
    if tile[0] * tile[1] > TILE_PIXELS:
        raise StructureError(f"its TIFF tiles have {tile[0]} x {tile[1]} pixels; save it again")
    return Prepared(io.BytesIO(content))
