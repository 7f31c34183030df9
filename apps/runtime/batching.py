"""Images of any kind -> batches of what the network sees, decoded and resized ahead of the network."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import TypeVar, overload

import numpy as np

from finetune.cli.machine import core_count
from finetune.errors import DataError, UsageError
from finetune.images.boxes import cut
from finetune.images.decode import MAX_PIXELS, OpenedImage, decode_opened
from finetune.images.preprocess import PreprocessSpec, prepare, prepared_size, test_crops
from finetune.images.streams.guard import decode_guarded

T = TypeVar("T")
Picture = np.ndarray | Path | str | bytes | OpenedImage

# An image is decoded in a few milliseconds: more threads would wait for each other or for the network.
DECODERS = 4


# What is likely meant by an array of another shape or type, the first that fits.
_HINTS: tuple[tuple[Callable[[np.ndarray], bool], str], ...] = (
    (lambda image: image.ndim == 2, "; of grey pixels make np.stack([grey] * 3, axis=2)"),
    (lambda image: image.ndim == 3 and image.shape[2] == 4, "; give a PIL image, or lay it over a colour"),
    (lambda image: image.ndim == 3 and image.shape[0] == 3, "; put the channels last: transpose(1, 2, 0)"),
    (lambda image: image.dtype.kind == "f", "; scale to 0-255, round, and convert to uint8"),
)


def check_picture(image: np.ndarray, spec: PreprocessSpec) -> None:
    """Raise UsageError for what is no image, DataError for one whose resizing would fill the memory.

    A strip of 8 x 6,000,000 px is small until its short side is scaled to 256 px.
    """
    if image.dtype != np.uint8 or image.ndim != 3 or image.shape[2] != 3 or not image.size:
        hint = next((hint for broken, hint in _HINTS if broken(image)), "")
        raise UsageError(f"an image is RGB, uint8 (H, W, 3); got {image.dtype} {tuple(image.shape)}{hint}")
    height, width = prepared_size(image.shape[0], image.shape[1], spec)
    if height * width > MAX_PIXELS:
        told = f"{image.shape[1]} x {image.shape[0]} pixels would become {width} x {height}"
        raise DataError(f"the image is too long and narrow: {told}; cut it first")


def views(picture: Picture, spec: PreprocessSpec, crops: str = "center") -> np.ndarray:
    """Return the test crops of one image, uint8 (crops, S, S, 3).

    Raises BadImageError for a file that cannot be decoded, and what `check_picture` raises.
    """
    pixels = pixels_of(picture)
    check_picture(pixels, spec)
    return test_crops(prepare(pixels, spec), spec, crops)


def pixels_of(picture: Picture) -> np.ndarray:
    """Return the pixels of an array, a file (its path or its bytes) or a PIL image; an array as it is.

    A PIL image becomes the pixels that its file would: upright, transparency over mid-grey. Files are decoded
    at a bounded cost (`decode_guarded`); a PIL image is decoded by whoever opened it, without bounds.
    Raises UsageError, saying what arrived, for anything else, and BadImageError for what cannot be decoded.
    """
    if isinstance(picture, np.ndarray):
        return picture
    if isinstance(picture, OpenedImage):
        return decode_opened(picture)
    if isinstance(picture, Path | str):
        return decode_guarded(Path(picture))
    if isinstance(picture, bytes):
        return decode_guarded(picture)
    raise UsageError(
        "an image is pixels (an array uint8 (H, W, 3) RGB), a path, the bytes of a file or a PIL image; got "
        f"{type(picture).__name__} {str(picture)[:80]!r}"
    )


def one_or_many(images: Picture | Sequence[Picture]) -> Sequence[Picture]:
    """Return a sequence of images; a single one, an array but (N, H, W, 3) included, becomes a list of one.

    Raises UsageError for a mapping or a set, which have no order of images, and other things without one.
    """
    if isinstance(images, np.ndarray):
        return list(images) if images.ndim == 4 else [images]
    if isinstance(images, str | Path | bytes | OpenedImage):
        return [images]
    if isinstance(images, Sequence) and not isinstance(images, bytes | bytearray | memoryview):
        return images
    raise UsageError(
        "images are one image or a list of them (arrays, paths, bytes of files, PIL images); got "
        f"{type(images).__name__} {str(images)[:80]!r}"
    )


def in_batches(pictures: Sequence[Picture], make: Callable[[Picture], T], at_once: int) -> Iterator[list[T]]:
    """Yield what `make` returns for the images, `at_once` of them after another, in their order.

    While the network is busy with a batch, a few threads make the next one; a single image or a single
    core needs none. An error of `make` ends everything, and so does closing the iterator.
    """
    starts = range(0, len(pictures), at_once)
    parts = [pictures[start : start + at_once] for start in starts]
    workers = min(DECODERS, core_count(), len(pictures))
    if workers < 2:
        yield from ([make(picture) for picture in part] for part in parts)
        return
    pool = ThreadPoolExecutor(workers)
    try:
        waiting: deque[list[Future[T]]] = deque()
        for part in parts:
            waiting.append([pool.submit(make, picture) for picture in part])
            if len(waiting) > 1:
                yield [made.result() for made in waiting.popleft()]
        yield [made.result() for made in waiting.popleft()]
    finally:
        pool.shutdown(wait=True, cancel_futures=True)


class CutPictures(Sequence[Picture]):
    """The part of each file inside its box, uint8 (H, W, 3) RGB; none is kept.

    Args:
        files: the images' files.
        boxes: x1, y1, x2, y2 in px of each, (N, 4).

    Opening one raises BadImageError, naming the file, for an image that cannot be read or lacks its box.
    """

    def __init__(self, files: Sequence[Path], boxes: np.ndarray) -> None:
        self.files, self.boxes = files, boxes

    def __len__(self) -> int:
        return len(self.files)

    @overload
    def __getitem__(self, place: int) -> Picture: ...
    @overload
    def __getitem__(self, place: slice) -> CutPictures: ...
    def __getitem__(self, place: int | slice) -> Picture | CutPictures:
        """Return one opened image, or a part of the sequence with none opened."""
        if isinstance(place, slice):
            return CutPictures(self.files[place], self.boxes[place])
        return cut(decode_guarded(self.files[place]), self.boxes[place], str(self.files[place]))

    def __iter__(self) -> Iterator[Picture]:
        """Open one after the other."""
        return (self[place] for place in range(len(self)))


def files_or_cuts(files: Sequence[Path], boxes: np.ndarray | None) -> Sequence[Picture]:
    """Return the files themselves, or where there are boxes the parts inside them."""
    return list(files) if boxes is None else CutPictures(files, boxes)
