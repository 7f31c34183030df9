"""Prepared images by manifest row: decoded every time, or once into one file of pixels.

A cache's key covers the bytes of every image, the boxes they are cut to, the resize rule and the versions
of decoder, resizer and file format, so a cache cannot be stale: whatever changes, another file is made. A
file is read and hashed once, and again when its size, a time of change or its inode is another one (see
`finetune.images.cache.digests`). The pixels are compared with their digest when a process first reads them:
pixels that were damaged on the disk are made again from the image.
"""

from __future__ import annotations

import functools
import os
import weakref
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Protocol

import numpy as np

from finetune.cli.console import say
from finetune.cli.machine import core_count, user_cache
from finetune.errors import DataError, ResourceError, listing
from finetune.images.boxes import check_boxes, cut
from finetune.images.cache.digests import hash_files
from finetune.images.cache.file import (
    CHANNELS,
    Progress,
    build_cache,
    cache_key,
    content_digest,
    map_files,
    pixel_digest,
    read_index,
)
from finetune.images.cache.limit import hold
from finetune.images.decode import BadImageError, decode_image
from finetune.images.manifest import Manifest
from finetune.images.preprocess import PreprocessSpec, prepare
from finetune.runs.files import check_writable

LISTED = 50


class BadImagesError(DataError):
    """Images that cannot be used; `bad` holds every (path, reason), the message the first fifty."""

    def __init__(self, bad: Sequence[tuple[str, str]], total: int) -> None:
        lines = listing([f"{path}: {reason}" for path, reason in bad], limit=LISTED)
        super().__init__(
            f"{len(bad)} of {total} images cannot be used:\n{lines}\n"
            "Replace or unlist them, or say --data.skip_bad true: they are left out, counted and recorded."
        )
        self.bad = list(bad)


class ImageSource(Protocol):
    """Prepared images by manifest row.

    `bad` maps the rows that cannot be used to the reason: the caller leaves them out and records them;
    reading one raises BadImageError. `content` is a SHA-256 over the bytes of every row's file, in order.
    """

    bad: dict[int, str]
    content: str

    def __len__(self) -> int: ...

    def __getitem__(self, row: int) -> np.ndarray:
        """Return the prepared image of a manifest row, uint8 (h, w, 3)."""

    def file(self, row: int) -> Path:
        """Return the file a row comes from."""


class FileSource:
    """Decodes and prepares an image every time it is asked for."""

    def __init__(
        self,
        files: Sequence[Path | str],
        spec: PreprocessSpec,
        bad: Mapping[int, str],
        content: str = "",
        boxes: np.ndarray | None = None,
    ) -> None:
        self.bad = dict(bad)
        self.content = content
        self._files = list(files)
        self._spec = spec
        self._boxes = boxes

    def __len__(self) -> int:
        return len(self._files)

    def __getitem__(self, row: int) -> np.ndarray:
        _refuse_bad(self, row)
        return prepare(_decode(self.file(row), None if self._boxes is None else self._boxes[row]), self._spec)

    def file(self, row: int) -> Path:
        """Return the file a row comes from."""
        return Path(self._files[row])


class CachedSource:
    """Reads prepared images from one cache file, by position; any number of threads and processes may.

    `slots` gives each row's place in the file (rows may share one). The system keeps the file's pages for the
    next reader, and the process's memory does not grow with the data set. Mapping the file into memory does
    make it grow, and is slower: touching a fresh mapping costs more than copying the image (on Linux 6.18,
    crop and resize of a 256 px image took 88 microseconds mapped and 61 read).

    Each image's pixels are compared with their digest when this process first reads them. Damaged ones are
    decoded again with `spec` and `boxes` (a box of each slot), and put back into the file. Nobody removes the
    file while a source is open (see `finetune.images.cache.limit`).

    Raises DataError when the file is missing or incomplete.
    """

    def __init__(
        self,
        cache_file: Path,
        files: Sequence[Path | str],
        slots: np.ndarray,
        content: str = "",
        *,
        spec: PreprocessSpec,
        boxes: np.ndarray | None = None,
    ) -> None:
        index = read_index(cache_file)
        if index is None:
            raise DataError(f"{cache_file} is no complete image cache; delete it, it will be built again")
        self.cache_file = cache_file
        self.content = content
        self.bad = {row: index.bad[slot] for row, slot in enumerate(slots.tolist()) if slot in index.bad}
        self._files = list(files)
        self._slots = slots
        self._spec = spec
        self._boxes = boxes
        self._index = index
        self._checked = bytearray(len(index.shapes))
        self._unrepaired = False
        self._descriptor = os.open(cache_file, os.O_RDONLY)
        weakref.finalize(self, os.close, self._descriptor)
        if not hold(self._descriptor, cache_file):
            raise DataError(f"{cache_file} was removed a moment ago; start again, it will be built again")

    def __len__(self) -> int:
        return len(self._files)

    def __getitem__(self, row: int) -> np.ndarray:
        _refuse_bad(self, row)
        slot = int(self._slots[row])
        height, width = self._index.shapes[slot].tolist()
        size = height * width * CHANNELS
        pixels = os.pread(self._descriptor, size, int(self._index.starts[slot]))
        if len(pixels) != size:
            raise DataError(f"{self.cache_file} was cut short while in use; start again, it will be rebuilt")
        if not self._checked[slot]:
            if pixel_digest(pixels) != self._index.digests[slot].tobytes():
                pixels = self._repair(row, slot)
            self._checked[slot] = not self._unrepaired
        return np.frombuffer(pixels, np.uint8).reshape(height, width, CHANNELS)

    def file(self, row: int) -> Path:
        """Return the file a row comes from."""
        return Path(self._files[row])

    def prepared_bytes(self, rows: np.ndarray) -> int:
        """Return how many bytes the prepared images of these rows take, each row's once."""
        shapes = self._index.shapes[self._slots[np.unique(rows)]].astype(np.int64)
        return int(shapes.prod(1).sum()) * CHANNELS

    def pixel_digests(self, rows: np.ndarray) -> bytes:
        """Return what changes with the size or a pixel of any of these rows' images, or their order."""
        slots = self._slots[rows]
        parts = (self._index.shapes[slots], self._index.digests[slots])
        return b"".join(part.tobytes() for part in parts)

    def check(self) -> bool:
        """Compare every image now, for a caller that maps the file; return whether the file is whole."""
        rows = [row for row in range(len(self)) if row not in self.bad]
        for _ in map_files(self.__getitem__, rows, core_count(), "checking cached images"):
            pass
        return not self._unrepaired

    def _repair(self, row: int, slot: int) -> bytes:
        """Return the pixels of a damaged slot, decoded again, and put them back into the file."""
        file = self.file(row)
        picture = _decode(file, None if self._boxes is None else self._boxes[slot])
        pixels = prepare(picture, self._spec).tobytes()
        if pixel_digest(pixels) != self._index.digests[slot].tobytes():
            raise DataError(f"{file} changed while its cache {self.cache_file} was in use; start again")
        say(f"note: the image cache {self.cache_file} is damaged at {file}: decoded again from the image")
        try:
            descriptor = os.open(self.cache_file, os.O_WRONLY)
        except OSError:  # somebody else's cache: every process decodes again for itself
            self._unrepaired = True
            return pixels
        try:
            os.pwrite(descriptor, pixels, int(self._index.starts[slot]))
        finally:
            os.close(descriptor)
        return pixels

    def __reduce__(self) -> tuple[Callable[..., CachedSource], tuple[object, ...]]:
        """Pickle by name: the other process opens the file itself."""
        again = functools.partial(CachedSource, spec=self._spec, boxes=self._boxes)
        return again, (self.cache_file, self._files, self._slots, self.content)


def open_source(
    manifest: Manifest,
    spec: PreprocessSpec,
    *,
    cache_dir: Path | None,
    workers: int,
    skip_bad: bool = False,
    progress: Progress | None = None,
    boxes: np.ndarray | None = None,
) -> ImageSource:
    """Return the manifest's images, prepared by the spec's resize rule.

    With a `cache_dir` they are read from a cache file there, which is built first where there is none;
    without one every image is decoded again each time (and once now, to find the bad ones). Both give the
    same pixels. `workers` is the number of threads that hash, decode and resize (at least one).
    `progress(done, total)` is called after each image; left out, a bar is drawn when the error stream is a
    terminal. Several processes may open one cache at once: the first builds it, the others wait.

    With `boxes`, float (N, 4) as x1, y1, x2, y2 in pixels of the upright image, each row's image is cut
    to its box first (see `finetune.images.boxes.cut`); a box without a pixel makes its image a bad one.

    Raises BadImagesError (a DataError) with every bad image unless `skip_bad`; then the source's `bad`
    lists the rows, which the caller leaves out and records. Raises ResourceError when the cache folder cannot
    be written or the disk is too small; nothing half-written stays behind.
    """
    files = manifest.files()
    threads = max(1, workers)
    paths, slots = np.unique(manifest["path"], return_inverse=True)
    unique = [os.path.join(manifest.root, path) for path in paths.tolist()]  # noqa: PTH118
    digests = hash_files(unique, threads, manifest.root)
    content = content_digest([digests[slot] for slot in slots.tolist()])
    boxes = None if boxes is None else check_boxes(boxes, len(manifest))
    if cache_dir is None:
        bad = _find_bad_rows(files, boxes, threads, progress)
        source: ImageSource = FileSource(files, spec, bad, content, boxes)
    else:
        pictures, slots, boxes = _distinct_pictures(slots, boxes)
        unique, digests = [unique[at] for at in pictures], [digests[at] for at in pictures]
        cache_file = cache_dir / f"pictures-{cache_key(spec, digests, boxes)}.pixels"
        if read_index(cache_file) is None:
            opened = list(map(Path, unique))
            build_cache(cache_file, opened, digests, spec, threads=threads, progress=progress, boxes=boxes)
        source = CachedSource(cache_file, files, slots, content, spec=spec, boxes=boxes)
    if source.bad and not skip_bad:
        listed = {str(source.file(row)): reason for row, reason in source.bad.items()}
        raise BadImagesError(list(listed.items()), len(set(files)))
    return source


def open_pictures(
    manifest: Manifest,
    spec: PreprocessSpec,
    cache: str,
    *,
    skip_bad: bool = False,
    boxes: np.ndarray | None = None,
) -> ImageSource:
    """Return the prepared images, from the cache named; all cores hash, decode and resize."""
    return open_source(
        manifest,
        spec,
        cache_dir=cache_folder(cache),
        workers=core_count(),
        skip_bad=skip_bad,
        boxes=boxes,
    )


def cache_folder(choice: str) -> Path | None:
    """Return the folder of the image cache: none, the user's cache folder for auto, or the one named.

    None for auto too where the user has no home or may not write there, which is said.
    """
    if choice == "none":
        return None
    if choice != "auto":
        return Path(choice)
    folder = user_cache()
    reason = "this user has no home folder"
    if folder is not None:
        try:
            check_writable(folder)
            return folder
        except ResourceError as error:
            reason = str(error).partition(";")[0]
    say(f"note: {reason}, so no images are cached: name a folder by --run.cache FOLDER")
    return None


def _refuse_bad(source: FileSource | CachedSource, row: int) -> None:
    if row in source.bad:
        raise BadImageError(str(source.file(row)), source.bad[row])


def _distinct_pictures(
    slots: np.ndarray, boxes: np.ndarray | None
) -> tuple[list[int], np.ndarray, np.ndarray | None]:
    """Return what a cache holds: the file of each image, each row's image, and each image's box.

    `slots` gives each row's file; two rows of one file share an image where they share its box.
    """
    if boxes is None:
        return list(range(int(slots.max(initial=-1)) + 1)), slots, None
    keys = np.column_stack([slots, boxes])
    found, pictures = np.unique(keys, axis=0, return_inverse=True)
    return found[:, 0].astype(int).tolist(), pictures.reshape(-1), found[:, 1:]


def _decode(file: Path, box: np.ndarray | None) -> np.ndarray:
    picture = decode_image(file)
    return picture if box is None else cut(picture, box, str(file))


def _find_bad_rows(
    files: Sequence[str], boxes: np.ndarray | None, threads: int, progress: Progress | None
) -> dict[int, str]:
    corners = [None] * len(files) if boxes is None else [tuple(box) for box in boxes.tolist()]
    rows = list(zip(map(Path, files), corners, strict=True))
    unique = list(dict.fromkeys(rows))
    checks = map_files(_reason_to_refuse, unique, threads, "checking images", progress)
    reasons = dict(zip(unique, checks, strict=True))
    return {row: reason for row, key in enumerate(rows) if (reason := reasons[key]) is not None}


def _reason_to_refuse(picture: tuple[Path, tuple[float, ...] | None]) -> str | None:
    file, box = picture
    try:
        _decode(file, None if box is None else np.array(box))
    except BadImageError as error:
        return error.reason
    return None
