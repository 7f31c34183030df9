"""One way from an image file to RGB pixels: training, evaluation, prediction and the demo all call this.

Content decides, never the file's extension. What cannot be read faithfully is refused with a reason; nothing
is repaired, guessed or clipped. Pillow's global settings are read, never written: any thread may call this.
"""

from __future__ import annotations

import io
import os
import stat
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from threading import Lock

import numpy as np
import PIL
from PIL import ExifTags, Image, ImageFile

from finetune.errors import DataError, UsageError
from finetune.images.streams.jpeg import CUT, WatchedStream
from finetune.images.streams.prepare import HEIC, is_heic, prepare
from finetune.images.streams.prepared import MAX_FILE_BYTES, Prepared, StructureError

# Photographs' formats only: for others (EPS) Pillow starts external programs.
FORMATS = ("JPEG", "PNG", "WEBP", "GIF", "BMP", "TIFF", "PPM", "JPEG2000", "AVIF")
FORMAT_NAMES = "JPEG, PNG, WebP, GIF, BMP, TIFF, PPM, JPEG 2000 and AVIF"  # the same, for people
MAX_PIXELS = 50_000_000
MIN_SIDE = 8
MID_GREY = (128, 128, 128, 255)
DECODER = f"pillow-{PIL.__version__}"

_LOADING = Lock()  # one image may be in a list twice, and its file is read once, at its first use
OpenedImage = Image.Image  # the type, for whoever may not import Pillow

SNIFF_BYTES = 512
# How other files begin that are met under an image's name, and what to do about each.
OTHER_FILES = (
    (b"version https://git-lfs", "a Git LFS pointer, not the image itself; run git lfs pull"),
    (b"%PDF-", "a PDF document; export its pages as PNG or JPEG"),
    (b"\xff\x0a", "a JPEG XL image, which is not read here; export it as JPEG or PNG"),
    (b"\0\0\0\x0cJXL ", "a JPEG XL image, which is not read here; export it as JPEG or PNG"),
)
SIDEWAYS = (5, 6, 7, 8)  # EXIF orientations that exchange width and height
STRIP_PIXELS = 1_000_000
TURNS: dict[int, Callable[[np.ndarray], np.ndarray]] = {
    2: lambda pixels: pixels[:, ::-1],
    3: lambda pixels: pixels[::-1, ::-1],
    4: lambda pixels: pixels[::-1],
    5: lambda pixels: pixels.transpose(1, 0, 2),
    6: lambda pixels: pixels.transpose(1, 0, 2)[:, ::-1],
    7: lambda pixels: pixels[::-1, ::-1].transpose(1, 0, 2),
    8: lambda pixels: pixels.transpose(1, 0, 2)[::-1],
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
    name = "uploaded bytes" if isinstance(source, bytes) else str(source)
    return decode_content(read_content(source), name, max_pixels=max_pixels, notices=notices)


def read_content(source: Path | bytes) -> bytes:
    """Return the bytes of an image file; of bytes, themselves.

    Raises BadImageError for a file that cannot be read, and for one of more than 400 MB.
    """
    if isinstance(source, bytes):
        return source
    try:
        with source.open("rb") as stream:
            facts = os.fstat(stream.fileno())
            if not stat.S_ISREG(facts.st_mode):
                raise BadImageError(str(source), "is a device, pipe or socket, not a file")
            if facts.st_size > MAX_FILE_BYTES:
                what = (
                    f"{facts.st_size / 1e6:.0f} MB, the limit is {MAX_FILE_BYTES / 1e6:.0f}; save it smaller"
                )
                raise BadImageError(str(source), what)
            return stream.read()
    except (OSError, ValueError) as error:  # a ValueError is a NUL in its name
        why = getattr(error, "strerror", None) or error
        raise BadImageError(str(source), f"cannot be opened: {why}") from None


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
        return _to_rgb(image, name, None)
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
        ready = prepare(file.read_bytes())  # what no decoder should be given is opened by none here either
        with Image.open(ready.stream, formats=FORMATS) as image:
            width, height = image.size
            turned = image.getexif().get(ExifTags.Base.Orientation, 1) in SIDEWAYS
    except Exception:
        return None
    return (height, width) if turned else (width, height)


class CostlyImageError(Exception):
    """An image whose decoding should be watched over; told before any pixel is decoded."""


def decode_content(
    content: bytes,
    name: str,
    *,
    max_pixels: int = MAX_PIXELS,
    notices: list[str] | None = None,
    cheap_pixels: int | None = None,
) -> np.ndarray:
    """Return the pixels of a file's bytes as `decode_image` does; errors call it `name`.

    With `cheap_pixels` it raises CostlyImageError for more pixels, and for formats whose decoders are slow.
    """
    if ImageFile.LOAD_TRUNCATED_IMAGES:
        raise UsageError(
            "PIL.ImageFile.LOAD_TRUNCATED_IMAGES is on and lets truncated images pass; set it to False"
        )
    start = content[:SNIFF_BYTES]
    _refuse_text(start, name)
    if is_heic(start):
        raise BadImageError(name, HEIC)
    try:
        ready = prepare(content)
        with Image.open(ready.stream, formats=FORMATS) as image:
            _check_header(image, name, max_pixels)
            _check_cost(image, name, ready)
            if cheap_pixels is not None and not (ready.cheap and image.width * image.height <= cheap_pixels):
                raise CostlyImageError
            if notices is not None and getattr(image, "is_animated", False):
                notices.append(f"{name}: holds several frames; the first one is used")
            if isinstance(ready.stream, WatchedStream):
                ready.stream.watch()
            image.load()
            if isinstance(ready.stream, WatchedStream) and ready.stream.refuse_rest() and notices is not None:
                notices.append(f"{name}: a few bytes behind its pixels belong to no image; they are left out")
            pixels = _to_rgb(image, name, notices)
        del image  # its memory, which is as large again
        if ready.twin is not None:
            _refuse_gaps(pixels, ready.twin, name)
        return pixels
    except (BadImageError, CostlyImageError, MemoryError):
        raise
    except StructureError as error:
        raise BadImageError(name, str(error)) from None
    except PIL.UnidentifiedImageError:
        known = ", ".join(FORMATS)
        raise BadImageError(name, f"not an image in a format that is read here ({known})") from None
    except (Image.DecompressionBombError, Image.DecompressionBombWarning) as error:
        limit = f"the limit is {max_pixels / 1e6:g} megapixels"
        raise BadImageError(name, f"too large, {limit} ({error})") from None
    except Exception as error:  # hostile bytes make a decoder raise anything; the cause stays attached
        raise BadImageError(name, f"truncated or damaged ({error})") from error


def _check_cost(image: Image.Image, name: str, ready: Prepared) -> None:
    width, height = image.size
    if width * height > ready.limit:
        size = f"{width} x {height} = {width * height / 1e6:.1f} megapixels"
        told = f"of a {image.format} file of its kind at most {ready.limit / 1e6:.3g} are decoded"
        raise BadImageError(name, f"{size}, {told}; scale it down, or save it as JPEG or PNG")


def _refuse_gaps(pixels: np.ndarray, twin: bytes, name: str) -> None:
    """Raise BadImageError where the pixels are others once filler stands where a part of them may lack."""
    with Image.open(io.BytesIO(twin), formats=("JPEG",)) as image:
        image.load()
        if not np.array_equal(pixels, _to_rgb(image, name, None)):
            raise BadImageError(name, CUT)


def _refuse_text(start: bytes, name: str) -> None:
    if not start:
        raise BadImageError(name, "the file is empty (0 bytes)")
    for sign, reason in OTHER_FILES:
        if start.startswith(sign):
            raise BadImageError(name, reason)
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


def _to_rgb(image: Image.Image, name: str, notices: list[str] | None) -> np.ndarray:
    orientation = _orientation(image, name, notices)
    if image.mode == "F" or (image.mode == "I" and image.format != "PPM"):
        kind = "floating-point" if image.mode == "F" else "32-bit"
        raise BadImageError(name, f"{kind} pixels have no agreed range; export it with 8 or 16 bits")
    width, height = image.size
    rows = max(STRIP_PIXELS // width, 1)
    if height <= rows:
        pixels = _strip(image)
    else:  # strip by strip: several copies of a large image would fill the memory
        pixels = np.empty((height, width, 3), np.uint8)
        for top in range(0, height, rows):
            below = min(top + rows, height)
            pixels[top:below] = _strip(image.crop((0, top, width, below)))
    turn = TURNS.get(orientation)
    return pixels if turn is None else np.ascontiguousarray(turn(pixels))


def _orientation(image: Image.Image, name: str, notices: list[str] | None) -> int:
    """Return the EXIF orientation, 1 where there is none, or where the EXIF data are damaged."""
    try:
        return int(image.getexif().get(ExifTags.Base.Orientation, 1))
    except Exception:  # the pixels are intact, and damaged EXIF data raise anything
        if notices is not None:
            notices.append(f"{name}: its EXIF data are damaged; it is taken to be upright")
        return 1


def _strip(image: Image.Image) -> np.ndarray:
    """Return an image, not turned, as uint8 (H, W, 3)."""
    if image.mode.startswith("I"):
        wide = np.asarray(image).astype(np.uint32)
        grey = ((wide + 128) // 257).astype(np.uint8)
        return np.repeat(grey[:, :, None], 3, axis=2)
    if image.mode in ("RGBA", "LA", "PA", "RGBa", "La") or "transparency" in image.info:
        opaque = Image.new("RGBA", image.size, MID_GREY)
        image = Image.alpha_composite(opaque, image.convert("RGBA"))
    return np.array(image if image.mode == "RGB" else image.convert("RGB"))
