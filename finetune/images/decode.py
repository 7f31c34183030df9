"""One way from an image file to RGB pixels: training, evaluation, prediction and the demo all call this.

Content decides, never the file's extension. What cannot be read faithfully is refused with a reason; nothing
is repaired, guessed or clipped. Pillow's global settings are read, never written: any thread may call this.
"""

from __future__ import annotations

import io
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from threading import Lock
from typing import IO

import numpy as np
import PIL
from PIL import ExifTags, Image, ImageFile

from finetune.errors import DataError, UsageError

# Photographs' formats only: for others (EPS) Pillow starts external programs.
FORMATS = ("JPEG", "PNG", "WEBP", "GIF", "BMP", "TIFF", "PPM", "JPEG2000", "AVIF")
MAX_PIXELS = 50_000_000
MIN_SIDE = 8
MID_GREY = (128, 128, 128, 255)
DECODER = f"pillow-{PIL.__version__}"

_LOADING = Lock()  # one image may be in a list twice, and its file is read once, at its first use
OpenedImage = Image.Image  # the type, for whoever may not import Pillow

SNIFF_BYTES = 512
SIDEWAYS = (5, 6, 7, 8)  # EXIF orientations that exchange width and height
TURNS = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}


class BadImageError(DataError):
    """An image that cannot be decoded faithfully.

    `path` names the file ("uploaded bytes" where there is none) and `reason` says what is wrong with it.
    """

    def __init__(self, path: str, reason: str) -> None:
        super().__init__(f"{path}: {reason}")
        self.path = path
        self.reason = reason

    def __reduce__(self) -> tuple[type[BadImageError], tuple[str, str]]:
        """Pickle by path and reason, so that the error survives the way out of a worker process."""
        return BadImageError, (self.path, self.reason)


def decode_image(
    source: Path | bytes, *, max_pixels: int = MAX_PIXELS, notices: list[str] | None = None
) -> np.ndarray:
    """Return an image as RGB pixels, upright.

    `source` is a file or the bytes of one. The EXIF orientation is applied. Grey, 1-bit, palette and CMYK
    images are converted; transparency is laid over mid-grey (128); 16-bit grey is divided by 257, so that
    65535 becomes 255. Of an animation or a file of several pages the first frame is used and a line is
    appended to `notices`.

    Returns uint8 (H, W, 3).
    Raises BadImageError for: a missing or empty file; HTML, SVG or any other content that is no image;
    a truncated or damaged stream; floating-point or 32-bit pixels; more than `max_pixels` (read from the
    header, before any pixel is decoded); a side under 8 px. Raises UsageError while Pillow's global
    LOAD_TRUNCATED_IMAGES is on, which would let half an image pass as a whole one.
    """
    if ImageFile.LOAD_TRUNCATED_IMAGES:
        raise UsageError(
            "PIL.ImageFile.LOAD_TRUNCATED_IMAGES is on and lets truncated images pass; set it to False"
        )
    name = "uploaded bytes" if isinstance(source, bytes) else str(source)
    try:
        stream: IO[bytes] = io.BytesIO(source) if isinstance(source, bytes) else source.open("rb")
    except OSError as error:
        raise BadImageError(name, f"cannot be opened: {error.strerror or error}") from None
    with stream:
        return _decode_stream(stream, name, max_pixels, notices)


def decode_opened(image: OpenedImage, *, max_pixels: int = MAX_PIXELS) -> np.ndarray:
    """Return an image that Pillow opened as RGB pixels, by the rules of `decode_image`; it stays as it was.

    Turned by its EXIF orientation, unless it was turned before (`PIL.ImageOps.exif_transpose`).

    Returns uint8 (H, W, 3).
    Raises BadImageError for pixels that cannot be read, 32-bit pixels, too many pixels, and a side under 8.
    """
    name = f"the PIL image {getattr(image, 'filename', '')}".rstrip()
    _check_header(image, name, max_pixels)
    try:
        with _LOADING:
            image.load()
        return _to_rgb(image, name)
    except (BadImageError, MemoryError):
        raise
    except Exception as error:  # a damaged or closed file makes a decoder raise anything; the cause stays
        raise BadImageError(name, f"truncated, damaged or closed ({error})") from error


def find_bad_images(files: Iterable[Path], *, workers: int = 1) -> list[tuple[Path, str]]:
    """Return (file, reason) for every file that `decode_image` refuses, in the order given.

    Every file is decoded whole, with `workers` threads: a damaged stream shows only in its pixels.
    """
    files = list(files)
    with ThreadPoolExecutor(max(1, workers)) as pool:
        reasons = pool.map(reason_to_refuse, files)
        return [(file, reason) for file, reason in zip(files, reasons, strict=True) if reason is not None]


def reason_to_refuse(file: Path) -> str | None:
    """Return why `decode_image` refuses a file, None where it does not."""
    try:
        decode_image(file)
    except BadImageError as error:
        return error.reason
    return None


def image_size(file: Path) -> tuple[int, int] | None:
    """Return an image's width and height in px as it stands upright, from its header; None for no image."""
    try:
        with Image.open(file, formats=FORMATS) as image:
            width, height = image.size
            turned = image.getexif().get(ExifTags.Base.Orientation, 1) in SIDEWAYS
    except Exception:
        return None
    return (height, width) if turned else (width, height)


def _decode_stream(stream: IO[bytes], name: str, max_pixels: int, notices: list[str] | None) -> np.ndarray:
    try:
        start = stream.read(SNIFF_BYTES)
        stream.seek(0)
    except OSError as error:
        raise BadImageError(name, f"cannot be read: {error.strerror or error}") from None
    _refuse_text(start, name)
    try:
        with Image.open(stream, formats=FORMATS) as image:
            _check_header(image, name, max_pixels)
            if notices is not None and getattr(image, "is_animated", False):
                notices.append(f"{name}: holds several frames; the first one is used")
            image.load()
            return _to_rgb(image, name)
    except (BadImageError, MemoryError):
        raise
    except PIL.UnidentifiedImageError:
        known = ", ".join(FORMATS)
        raise BadImageError(name, f"not an image in a format that is read here ({known})") from None
    except (Image.DecompressionBombError, Image.DecompressionBombWarning) as error:
        limit = f"the limit is {max_pixels / 1e6:g} megapixels"
        raise BadImageError(name, f"too large, {limit} ({error})") from None
    except Exception as error:  # hostile bytes make a decoder raise anything; the cause stays attached
        raise BadImageError(name, f"truncated or damaged ({error})") from error


def _refuse_text(start: bytes, name: str) -> None:
    if not start:
        raise BadImageError(name, "the file is empty (0 bytes)")
    text = start.lstrip(b"\xef\xbb\xbf \t\r\n").lower()
    if not text.startswith(b"<"):
        return
    if b"<svg" in text:
        raise BadImageError(name, "an SVG drawing has no pixels; export it as PNG")
    raise BadImageError(name, "a web page or XML text saved under an image's name; fetch the image again")


def _check_header(image: Image.Image, name: str, max_pixels: int) -> None:
    width, height = image.size
    if width * height > max_pixels:
        size = f"{width} x {height} = {width * height / 1e6:.1f} megapixels"
        raise BadImageError(name, f"{size}, the limit is {max_pixels / 1e6:g}; scale it down")
    if min(width, height) < MIN_SIDE:
        raise BadImageError(name, f"{width} x {height} pixels, each side needs at least {MIN_SIDE}")


def _to_rgb(image: Image.Image, name: str) -> np.ndarray:
    turn = TURNS.get(image.getexif().get(ExifTags.Base.Orientation, 1))
    if turn is not None:
        image = image.transpose(turn)
    sixteen_bit = image.mode.startswith("I;16") or (image.mode == "I" and image.format == "PPM")
    if sixteen_bit:
        wide = np.asarray(image).astype(np.uint32)
        grey = ((wide + 128) // 257).astype(np.uint8)
        return np.repeat(grey[:, :, None], 3, axis=2)
    if image.mode in ("F", "I"):
        kind = "floating-point" if image.mode == "F" else "32-bit"
        raise BadImageError(name, f"{kind} pixels have no agreed range; export it with 8 or 16 bits")
    if image.mode in ("RGBA", "LA", "PA", "RGBa", "La") or "transparency" in image.info:
        opaque = Image.new("RGBA", image.size, MID_GREY)
        image = Image.alpha_composite(opaque, image.convert("RGBA"))
    return np.array(image if image.mode == "RGB" else image.convert("RGB"))
