"""Any image file's bytes -> what its decoder is given; the first bytes decide, never the name."""

from __future__ import annotations

import io
from collections.abc import Callable

from finetune.images.streams.headers import (
    prepare_bmp,
    prepare_boxes,
    prepare_codestream,
    prepare_map,
    prepare_tiff,
    prepare_webp,
)
from finetune.images.streams.jpeg import prepare_jpeg
from finetune.images.streams.png import PNG_START, prepare_gif, prepare_png
from finetune.images.streams.prepared import Prepared

_HEIC_BRANDS = (b"heic", b"heix", b"heim", b"heis", b"hevc", b"hevx", b"heif", b"mif1", b"msf1")
_AVIF_BRANDS = (b"avif", b"avis")
HEIC = (
    "a HEIC image, as iPhones write them, whatever its name says; export it as JPEG "
    "(iPhone: Settings, Camera, Formats, Most Compatible)"
)
STARTS: tuple[tuple[bytes, Callable[[bytes], Prepared]], ...] = (
    (b"\xff\xd8\xff", prepare_jpeg),
    (PNG_START, prepare_png),
    (b"GIF87a", prepare_gif),
    (b"GIF89a", prepare_gif),
    (b"RIFF", prepare_webp),
    (b"BM", prepare_bmp),
    *((start, prepare_tiff) for start in (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+")),
    (b"\0\0\0\x0cjP  \r\n\x87\n", prepare_boxes),
    (b"\xff\x4f\xff\x51", prepare_codestream),
    *((b"P%d" % kind, prepare_map) for kind in range(1, 7)),
)


def prepare(content: bytes) -> Prepared:
    """Return a file ready for decoding; of a kind that is not known here, as it is.

    Raises StructureError for what should be given to no decoder.
    """
    for start, made in STARTS:
        if content.startswith(start):
            return made(content)
    return prepare_boxes(content) if content[4:8] == b"ftyp" else Prepared(io.BytesIO(content))


def is_heic(start: bytes) -> bool:
    """Return whether a file's first bytes are those of a HEIC image, which Pillow does not read."""
    if start[4:8] != b"ftyp":
        return False
    size = min(int.from_bytes(start[:4], "big"), 128)
    brands = {start[8:12], *(start[place : place + 4] for place in range(16, max(size - 3, 16), 4))}
    return bool(brands.intersection(_HEIC_BRANDS)) and not brands.intersection(_AVIF_BRANDS)
