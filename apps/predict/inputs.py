"""From the words of a command line to the images and videos they name, and from a video to its frames."""

from __future__ import annotations

import glob
import math
import os
import re
import stat
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO, Literal

import cv2
import numpy as np

from finetune.errors import UsageError
from finetune.figures.canvas import count_text
from finetune.images.cells import slashes
from finetune.images.decode import MAX_PIXELS, MIN_SIDE, BadImageError
from finetune.images.endings import PICTURE_ENDINGS, is_seen, unread_notices

PICTURE_SUFFIXES = PICTURE_ENDINGS
VIDEO_SUFFIXES = frozenset((".mp4", ".m4v", ".mov", ".avi", ".mkv", ".webm"))
CONTAINERS = "MP4, MOV, AVI, MKV, WebM"
WIDE_MARKS = (
    (b"\xff\xfe\0\0", "utf-32"),
    (b"\0\0\xfe\xff", "utf-32"),
    (b"\xff\xfe", "utf-16"),
    (b"\xfe\xff", "utf-16"),
)
LATEST_END = 1.0  # seconds, or a twentieth of the whole: sound often lasts a little longer than the images


@dataclass(frozen=True)
class Source:
    """One thing to look at: an image file, a video file, or a place where nothing was found.

    Args:
        path: as given, or as found in the folder or by the pattern that was given.
        kind: picture, video or nothing.
        reason: why there is nothing; empty otherwise.
    """

    path: str
    kind: Literal["picture", "video", "nothing"] = "picture"
    reason: str = ""


@dataclass(frozen=True)
class Found:
    """What `find_sources` returns: the sources in order, and sentences on what was passed over."""

    sources: tuple[Source, ...]
    notices: tuple[str, ...] = ()


def find_sources(words: Iterable[str], *, recursive: bool = True) -> Found:
    """Return the images and videos that `words` name: files, folders and patterns, in the order given.

    A file is taken whatever its name. In a folder only names with an image's ending count, in natural order
    (2.jpg before 10.jpg), files before subfolders; subfolders are entered when `recursive`, each once, also
    through links. Videos, hidden names (a leading dot), systems' own folders (@eaDir, __MACOSX) and all other
    files are counted in notices. Where nothing has a word's name, its backslashes are slashes. A pattern
    (`*`, `?`, `[a-z]`, `**`) is tried where no file has that very name; it finds images and videos, and
    other files where it spells out their ending. A word that names nothing becomes a source that says so.
    """
    sources: list[Source] = []
    notices: list[str] = []
    for word in words:
        sources += _from_word(word, recursive, notices)
    return Found(tuple(sources), tuple(notices))


def source_of(path: str) -> Source:
    """Return the image or video at a path, or the reason why there is none; patterns are not tried."""
    try:
        mode = os.stat(path).st_mode  # noqa: PTH116  (Path("") would be the current folder)
    except (OSError, ValueError) as error:
        return Source(path, "nothing", _why_missing(path, error))
    if stat.S_ISDIR(mode):
        return Source(path, "nothing", "is a folder")
    if not stat.S_ISREG(mode):
        return Source(path, "nothing", "is a device, pipe or socket, not a file")
    suffix = Path(path).suffix.lower()
    if suffix in PICTURE_SUFFIXES:  # spares opening every image twice
        return Source(path)
    named_so = suffix in VIDEO_SUFFIXES and os.stat(path).st_size > 0  # noqa: PTH116
    return Source(path, "video" if named_so or is_video(path) else "picture")


def read_list(stream: BinaryIO) -> list[str]:
    """Return the paths that `stream` lists, one a line; blank lines and lines that start with # are skipped.

    The list is UTF-8, or the bytes of file names; UTF-16, as PowerShell writes it, is read too.
    Raises UsageError for what is no text.

    >>> import io
    >>> read_list(io.BytesIO(b"# faces\\na b.jpg\\r\\n\\nc.jpg"))
    ['a b.jpg', 'c.jpg']
    """
    content = stream.read()
    wide = _wide_encoding(content)
    if wide:
        try:
            lines = content.decode(wide).removeprefix("\ufeff").split("\n")
        except UnicodeError:
            raise UsageError("the list looks like UTF-16 but is damaged; save it as UTF-8") from None
    else:
        lines = list(map(os.fsdecode, content.removeprefix(b"\xef\xbb\xbf").split(b"\n")))
    if any("\0" in line for line in lines):
        raise UsageError("the list holds NUL bytes, so it is no text; give one path a line, as UTF-8")
    found = [line.rstrip("\r") for line in lines]
    return [line for line in found if line.strip() and not line.startswith("#")]


def _wide_encoding(content: bytes) -> str:
    """Return the encoding of a text whose characters take two or four bytes; "" for any other."""
    for mark, name in WIDE_MARKS:
        if content.startswith(mark):
            return name
    zeros = [content[start:400:2].count(0) * 4 > len(content[start:400:2]) for start in (0, 1)]
    names = {(False, True): "utf-16-le", (True, False): "utf-16-be"}
    return names.get((zeros[0], zeros[1]), "")


def natural_key(text: str) -> tuple[list[str | int], str]:
    """Return a key that sorts the numbers in names by their value.

    >>> sorted(["b10", "b9", "A1"], key=natural_key)
    ['A1', 'b9', 'b10']
    """
    parts = re.split(r"(\d+)", text.casefold())
    return [int(part) if position % 2 else part for position, part in enumerate(parts)], text


def is_video(file: str | Path) -> bool:
    """Tell by its first bytes whether a file is a video in a container read here: MP4, MOV, AVI, MKV, WebM.

    Playlists and other text never count: they could send the reader to other files or to the network.
    """
    try:
        with Path(file).open("rb") as stream:
            start = stream.read(12)
    except OSError:
        return False
    if start[4:8] == b"ftyp":  # images use the same box: AVIF, HEIC
        return start[8:12] not in (b"avif", b"avis", b"heic", b"heix", b"heif", b"mif1", b"msf1")
    old_quicktime = start[4:8] in (b"moov", b"mdat", b"wide", b"free", b"skip", b"pnot")
    return old_quicktime or start[:4] == b"\x1aE\xdf\xa3" or (start[:4] == b"RIFF" and start[8:12] == b"AVI ")


def _from_word(word: str, recursive: bool, notices: list[str]) -> Sequence[Source]:
    if "\0" in word:  # no file has such a name, and patterns stumble over it
        return [source_of(word)]
    if "\\" in word and not os.path.lexists(word) and os.path.lexists(slashes(word)):
        word = slashes(word)  # written on Windows
    if os.path.isdir(word):  # noqa: PTH112  (Path("") would be the current folder)
        return _from_folder(word, recursive, notices)
    if glob.has_magic(word) and not os.path.lexists(word):
        return _from_pattern(word, recursive, notices)
    return [source_of(word)]


def _why_missing(word: str, error: OSError | ValueError) -> str:
    if "://" in word:
        return "addresses are not fetched; download the image first"
    if isinstance(error, FileNotFoundError):
        return "there is no such file or folder"
    return f"cannot be opened: {error.strerror if isinstance(error, OSError) else error}"


def _from_pattern(pattern: str, recursive: bool, notices: list[str]) -> Sequence[Source]:
    matches = sorted(glob.glob(pattern, recursive=True), key=natural_key)  # noqa: PTH207  (keeps "./" and "**")
    known = PICTURE_SUFFIXES | VIDEO_SUFFIXES
    sources: list[Source] = []
    others: list[str] = []
    for match in matches:
        suffix = Path(match).suffix
        if os.path.isdir(match):  # noqa: PTH112
            sources += [] if "**" in pattern else _from_folder(match, recursive, notices)
        elif suffix.lower() in known or (suffix and pattern.endswith(suffix)):
            sources += _from_word(match, recursive, notices)
        else:
            others.append(match)
    notices += [f"{pattern}: {sentence}" for sentence in unread_notices(others)]
    return sources or [Source(pattern, "nothing", "the pattern matches no image and no video")]


def _from_folder(folder: str, recursive: bool, notices: list[str]) -> Sequence[Source]:
    sources: list[Source] = []
    broken: list[Source] = []
    hidden: list[str] = []
    others: list[str] = []
    videos = 0
    for parent, names in _walk(folder, recursive, broken, hidden):
        for name in names:
            suffix = Path(name).suffix.lower()
            videos += suffix in VIDEO_SUFFIXES
            if suffix in PICTURE_SUFFIXES:
                sources.append(Source(os.path.join(parent, name)))  # noqa: PTH118  (keeps a leading "./")
            elif suffix not in VIDEO_SUFFIXES:
                others.append(name)
    if videos:
        verb = "is" if videos == 1 else "are"
        told = f"{count_text(videos, 'video')} in it {verb} not looked at"
        notices.append(f"{folder}: {told}; name {'it' if videos == 1 else 'them'}, or give a pattern")
    notices += [f"{folder}: {sentence}" for sentence in unread_notices(others)]
    if hidden:
        told = f"{count_text(len(hidden), 'hidden name')} (a leading dot, or a system's own) in it"
        notices.append(f"{folder}: {told} {'is' if len(hidden) == 1 else 'are'} not looked at")
    if not sources and not broken:
        return [Source(folder, "nothing", "the folder holds no image")]
    return sources + broken


def _walk(
    folder: str, recursive: bool, broken: list[Source], hidden: list[str]
) -> Iterator[tuple[str, list[str]]]:
    """Yield (folder, names of its files) in natural order.

    What cannot be listed is added to `broken`, and hidden names and systems' own folders to `hidden`.
    """

    def remember(error: OSError) -> None:
        broken.append(Source(str(error.filename), "nothing", f"cannot be listed: {error.strerror}"))

    seen: set[tuple[int, int]] = set()
    for parent, folders, names in os.walk(folder, followlinks=True, onerror=remember):
        place = os.stat(parent)  # noqa: PTH116
        again = (place.st_dev, place.st_ino) in seen
        seen.add((place.st_dev, place.st_ino))
        found = list(folders)
        visible = [name for name in found if is_seen(name)] if recursive and not again else []
        folders[:] = sorted(visible, key=natural_key)
        if not again:
            hidden += [name for name in [*(found if recursive else []), *names] if not is_seen(name)]
            yield parent, sorted(filter(is_seen, names), key=natural_key)


@dataclass(frozen=True)
class Frame:
    """One frame: its time from the start in seconds, and its pixels, uint8 (H, W, 3) RGB, upright."""

    time: float
    image: np.ndarray


def read_frames(file: Path, fps: float, *, max_pixels: int = MAX_PIXELS) -> Iterator[Frame]:
    """Yield the first frame of a video and then `fps` of them for each second, upright as the file asks.

    Times are the file's own, so a varying frame rate stays right. A video with fewer frames yields each once.
    Every frame in between is decoded too: a jump would land on the nearest key frame instead.

    Raises UsageError unless `fps` is positive, and BadImageError for a file that is no video in a container
    read here, has no frame, frames above `max_pixels` or with a side under 8 px, or ends early; the frames
    before the end have been yielded then.
    """
    check_fps(fps)
    if not is_video(file):
        empty = file.is_file() and file.stat().st_size == 0
        what = (
            "the file is empty (0 bytes)" if empty else f"not a video in a container read here ({CONTAINERS})"
        )
        raise BadImageError(str(file), what)
    capture = _open(file)
    try:
        _check_size(capture, file, max_pixels)
        yield from _sampled(capture, file, fps)
    finally:
        capture.release()


def check_fps(fps: float) -> None:
    """Raise UsageError unless `fps` is a positive number."""
    if not (fps > 0 and math.isfinite(fps)):
        raise UsageError(f"--fps must be a positive number of frames per second, got {fps}")


def _open(file: Path) -> cv2.VideoCapture:
    os.environ.setdefault("OPENCV_FFMPEG_LOGLEVEL", "-8")  # its complaints arrive as reasons instead
    # A frame that the file cuts off would otherwise be made up from its beginning.
    os.environ.setdefault("OPENCV_FFMPEG_CAPTURE_OPTIONS", "fflags;+discardcorrupt")
    level = cv2.utils.logging.setLogLevel(cv2.utils.logging.LOG_LEVEL_SILENT)
    try:
        # an absolute name: one like "concat:a|b" would otherwise be an instruction to FFmpeg
        capture = cv2.VideoCapture(str(file.absolute()), cv2.CAP_FFMPEG)
    except (cv2.error, UnicodeError) as error:
        raise BadImageError(str(file), f"the video cannot be opened ({error})") from None
    finally:
        cv2.utils.logging.setLogLevel(level)
    if not capture.isOpened():
        raise BadImageError(str(file), "the video is truncated, damaged or in a format that is not read here")
    capture.set(cv2.CAP_PROP_ORIENTATION_AUTO, 1)
    return capture


def _check_size(capture: cv2.VideoCapture, file: Path, max_pixels: int) -> None:
    width, height = (int(capture.get(name)) for name in (cv2.CAP_PROP_FRAME_WIDTH, cv2.CAP_PROP_FRAME_HEIGHT))
    if width * height > max_pixels or min(width, height) < MIN_SIDE:
        limits = f"at least {MIN_SIDE} px a side and at most {max_pixels / 1e6:g} megapixels"
        raise BadImageError(str(file), f"its frames have {width} x {height} pixels; needed: {limits}")


def _sampled(capture: cv2.VideoCapture, file: Path, fps: float) -> Iterator[Frame]:
    own_fps = capture.get(cv2.CAP_PROP_FPS)
    own_fps = own_fps if own_fps > 0 else 25.0
    promised = max(0.0, capture.get(cv2.CAP_PROP_FRAME_COUNT)) / own_fps
    count, taken, time = 0, 0, 0.0
    while capture.grab():
        told = capture.get(cv2.CAP_PROP_POS_MSEC) / 1000
        time = told if told > 0 or count == 0 else count / own_fps
        count += 1
        if time < taken / fps - 0.5 / own_fps:
            continue
        good, pixels = capture.retrieve()
        if not good:
            raise BadImageError(str(file), f"the frame at {time:.2f} s cannot be read")
        taken = max(taken + 1, math.floor(time * fps + 1e-6) + 1)
        yield Frame(time, cv2.cvtColor(pixels, cv2.COLOR_BGR2RGB))
    if count == 0:
        raise BadImageError(str(file), "the video holds no frame that can be read")
    if time + 1 / own_fps < promised - max(LATEST_END, promised / 20):
        raise BadImageError(
            str(file), f"the video ends after {time:.1f} of {promised:.1f} s: truncated or damaged"
        )
