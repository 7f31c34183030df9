"""The cache file: what it is called, what lies in it, and how it is built without ever being half there.

Layout: a magic line; the images' pixels one after another, uint8 (h, w, 3) each; a digest of each image's
pixels; a JSON index (shapes, the reasons of the images that cannot be used, and for people the images' folder
and the resize size); a footer with the lengths of both, one digest over both, and the magic line again.
"""

from __future__ import annotations

import errno
import fcntl
import hashlib
import json
import os
import shutil
import struct
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple, TypeVar

import numpy as np

from finetune.errors import DataError, ResourceError
from finetune.images.boxes import cut
from finetune.images.cache.digests import UNREADABLE
from finetune.images.cache.limit import make_room
from finetune.images.decode import DECODER, BadImageError, decode_image
from finetune.images.preprocess import RESIZER, PreprocessSpec, prepare

MAGIC = b"crl-pixels-2\n"
LOCK = "pictures.lock"  # of the folder, held by whoever builds or removes caches there
DIGEST_BYTES = 16
FOOTER = struct.Struct(f"<qq{DIGEST_BYTES}s13s")
CHANNELS = 3
AHEAD = 4  # images in flight per thread while building

Item = TypeVar("Item")
Result = TypeVar("Result")
Progress = Callable[[int, int], None]


@dataclass(frozen=True)
class CacheIndex:
    """Where each image lies: `shapes` (n, 2) as (h, w), first bytes `starts` (n,), and why one is `bad`.

    `digests` is uint8 (n, 16): what `pixel_digest` gives for each image's pixels. `source` is the folder that
    all the images lay in when the cache was built, and `side` its resize rule's size in px; empty and 0 in
    caches that were built before they were recorded.
    """

    shapes: np.ndarray
    starts: np.ndarray
    bad: dict[int, str]
    digests: np.ndarray
    source: str = ""
    side: int = 0


def pixel_digest(pixels: bytes | memoryview) -> bytes:
    """Return 16 bytes that change with any of the pixels: the first half of their SHA-256."""
    return hashlib.sha256(pixels).digest()[:DIGEST_BYTES]


def content_digest(digests: Sequence[str]) -> str:
    """Return one SHA-256 for a list of files' digests, in order."""
    return hashlib.sha256("\n".join(digests).encode()).hexdigest()


def cache_key(spec: PreprocessSpec, digests: Sequence[str], boxes: np.ndarray | None = None) -> str:
    """Return 32 hexadecimal digits that change with any image, box, resize rule or decoding version."""
    rule = [MAGIC.decode(), DECODER, RESIZER, spec.resize, spec.resize_size, spec.interpolation, spec.color]
    parts = [rule, list(digests)] if boxes is None else [rule, list(digests), boxes.tolist()]
    return hashlib.sha256(json.dumps(parts).encode()).hexdigest()[:32]


def read_index(cache_file: Path) -> CacheIndex | None:
    """Return the index of a complete cache file; None where there is none, or its index is damaged."""
    tail = read_tail(cache_file, MAGIC)
    if tail is None:
        return None
    shapes = np.array(tail.table["shapes"], dtype=np.int64).reshape(-1, 2)
    sizes = shapes.prod(axis=1) * CHANNELS
    if tail.body != sizes.sum():
        return None
    starts = len(MAGIC) + np.cumsum(sizes) - sizes
    digests = tail.digests.reshape(len(shapes), DIGEST_BYTES)
    bad = {int(slot): reason for slot, reason in tail.table["bad"].items()}
    source, side = str(tail.table.get("source", "")), int(tail.table.get("side", 0))
    return CacheIndex(shapes, starts, bad, digests, source, side)


class Tail(NamedTuple):
    """What follows the `body` bytes of a cache file: digests, uint8 (n,), and a table of plain values."""

    body: int
    digests: np.ndarray
    table: dict[str, Any]


def read_tail(cache_file: Path, magic: bytes) -> Tail | None:
    """Return the tail of a complete file of one kind; None where there is none, or the tail is damaged."""
    if not cache_file.is_file():  # a folder or a pipe in its place, or nothing
        return None
    try:
        with cache_file.open("rb") as stream:
            size = stream.seek(0, os.SEEK_END)
            stream.seek(max(0, size - FOOTER.size))
            digests_size, table_size, digest, found = FOOTER.unpack(stream.read(FOOTER.size))
            body = size - FOOTER.size - digests_size - table_size - len(magic)
            if found != magic or min(digests_size, table_size, body) < 0:
                return None
            stream.seek(len(magic) + body)
            tail = stream.read(digests_size + table_size)
    except (FileNotFoundError, struct.error, ValueError):
        return None
    if pixel_digest(tail) != digest:
        return None
    digests = np.frombuffer(tail[:digests_size], np.uint8)
    return Tail(body, digests, json.loads(tail[digests_size:]))


def write_tail(stream: BinaryIO, digests: bytes, table: Mapping[str, Any], magic: bytes) -> None:
    """Write what follows the body of a cache file, and see to it that all of the file is on the disk."""
    text = json.dumps(table).encode()
    stream.write(digests + text)
    stream.write(FOOTER.pack(len(digests), len(text), pixel_digest(digests + text), magic))
    stream.flush()
    os.fsync(stream.fileno())


def build_cache(
    cache_file: Path,
    files: Sequence[Path],
    digests: Sequence[str],
    spec: PreprocessSpec,
    *,
    threads: int,
    progress: Progress | None = None,
    boxes: np.ndarray | None = None,
) -> None:
    """Build `cache_file` from the images `files` unless another process just has.

    The folder is locked meanwhile: processes that want the same cache wait for it, and what a killed one left
    is removed. Everything is written under a temporary name, flushed to the disk and then renamed. `digests`
    are the files' hashes that the cache's name was made of; each is compared with the bytes that are decoded.
    `boxes` (n, 4) cuts each image before it is resized (see `finetune.images.boxes.cut`).

    Caches that were not used for the longest time go where the folder would pass its limit (see
    `finetune.images.cache.limit`).

    Raises ResourceError when the folder cannot be written or the disk is too small, and DataError when a
    image changes meanwhile; then no file of this build stays behind.
    """
    folder = cache_file.parent
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with _folder_lock(folder):
            if read_index(cache_file) is not None:
                return
            for stale in folder.glob("*.pixels.tmp"):
                stale.unlink()
            pictures = _Pictures(files, digests, spec, boxes)
            make_room(folder, pictures.least_bytes)
            free = shutil.disk_usage(folder).free
            if free < pictures.least_bytes:
                raise _disk_full(folder, pictures.least_bytes, free)
            _write_and_rename(cache_file, pictures, threads, progress)
            make_room(folder, 0, keep=cache_file)
    except OSError as error:
        raise ResourceError(
            f"the image cache in {folder} cannot be written: {error.strerror or error}; "
            "name another folder with --run.cache"
        ) from error


@contextmanager
def _folder_lock(folder: Path) -> Iterator[None]:
    """Hold the folder for building; the lock falls with its process, so a killed one blocks nobody."""
    with (folder / LOCK).open("w") as stream:
        fcntl.flock(stream, fcntl.LOCK_EX)
        yield


def _disk_full(folder: Path, needed: int, free: int) -> ResourceError:
    return ResourceError(
        f"disk full: the image cache in {folder} needs about {needed} bytes ({needed / 2**30:.2f} GiB), "
        f"{free} were free; make room, or name another folder with --run.cache"
    )


@dataclass(frozen=True)
class _Pictures:
    """What a cache is built from: files, their hashes when the cache was named, resize rule and boxes."""

    files: Sequence[Path]
    digests: Sequence[str]
    spec: PreprocessSpec
    boxes: np.ndarray | None = None

    @property
    def least_bytes(self) -> int:
        """What the pixels need: exactly so for "warp", a lower bound for "short"."""
        return len(self.files) * self.spec.resize_size**2 * CHANNELS

    @property
    def folder(self) -> str:
        """The deepest folder that holds all the files; empty for none."""
        folders = {str(file.parent.absolute()) for file in self.files}
        return os.path.commonpath(folders) if folders else ""

    def load(self, slot: int) -> np.ndarray | str:
        """Return one prepared image, or the reason why it cannot be used."""
        try:
            content = self.files[slot].read_bytes()
        except OSError as error:
            if self.digests[slot].startswith(UNREADABLE):
                return f"cannot be opened: {error.strerror}"
            raise DataError(f"{self.files[slot]} could be read a moment ago: {error.strerror}") from error
        if hashlib.sha256(content).hexdigest() != self.digests[slot]:
            raise DataError(f"{self.files[slot]} changed while it was being cached; start again")
        try:
            picture = decode_image(content)
            return prepare(picture if self.boxes is None else cut(picture, self.boxes[slot]), self.spec)
        except BadImageError as error:
            return error.reason


def _write_and_rename(cache_file: Path, pictures: _Pictures, threads: int, progress: Progress | None) -> None:
    temporary = cache_file.with_name(cache_file.name + ".tmp")
    shapes: list[tuple[int, ...]] = []
    try:
        with temporary.open("wb") as stream:
            _write(stream, pictures, shapes, threads, progress)
        temporary.replace(cache_file)
    except OSError as error:
        if error.errno not in (errno.ENOSPC, errno.EDQUOT):
            raise
        done = sum(height * width * CHANNELS for height, width in shapes)
        needed = done * len(pictures.files) // max(1, len(shapes))
        raise _disk_full(cache_file.parent, max(needed, pictures.least_bytes), done) from error
    finally:
        temporary.unlink(missing_ok=True)


def _write(
    stream: BinaryIO,
    pictures: _Pictures,
    shapes: list[tuple[int, ...]],
    threads: int,
    progress: Progress | None,
) -> None:
    """Write pixels, index and footer, noting each shape; only a few images per thread are in memory."""
    bad: dict[int, str] = {}
    digests: list[bytes] = []
    stream.write(MAGIC)
    slots = range(len(pictures.files))
    for slot, loaded in enumerate(map_files(pictures.load, slots, threads, "caching images", progress)):
        if isinstance(loaded, str):
            bad[slot] = loaded
            shapes.append((0, 0))
            digests.append(pixel_digest(b""))
        else:
            stream.write(loaded.data)
            shapes.append(loaded.shape[:2])
            digests.append(pixel_digest(loaded.data))
    facts = {"shapes": shapes, "bad": bad, "source": pictures.folder, "side": pictures.spec.resize_size}
    write_tail(stream, b"".join(digests), facts, MAGIC)


def map_files(
    function: Callable[[Item], Result],
    items: Sequence[Item],
    threads: int,
    title: str,
    progress: Progress | None = None,
) -> Iterator[Result]:
    """Yield function(item) in order from `threads` threads, at most `AHEAD` results per thread waiting.

    `progress(done, total)` is called after each; left out, a bar titled `title` is drawn on a terminal.
    """
    with ThreadPoolExecutor(threads) as pool, _reporter(title, len(items), progress) as report:
        for done, result in enumerate(_ahead(pool, function, items, AHEAD * threads), 1):
            yield result
            report(done, len(items))


def _ahead(
    pool: ThreadPoolExecutor, function: Callable[[Item], Result], items: Iterable[Item], window: int
) -> Iterator[Result]:
    waiting: deque[Future[Result]] = deque()
    for item in items:
        waiting.append(pool.submit(function, item))
        if len(waiting) >= window:
            yield waiting.popleft().result()
    while waiting:
        yield waiting.popleft().result()


@contextmanager
def _reporter(title: str, total: int, progress: Progress | None) -> Iterator[Progress]:
    if progress is not None:
        yield progress
        return
    from rich.console import Console
    from rich.progress import Progress as Bar

    console = Console(stderr=True)
    with Bar(console=console, transient=True, disable=not console.is_terminal) as bar:
        task = bar.add_task(title, total=total)
        yield lambda done, _total: bar.update(task, completed=done)
