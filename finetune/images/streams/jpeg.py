"""JPEG files: their segments counted, and a stream whose reader shows whether the pixels are all there.

The decoder's library fills in grey, without a word that could be heard here, where a file ends early with a
proper end marker. So the end marker is taken away: a decoder that still lacks pixels then asks for more.
Source: ITU-T T.81 (1992), annex B, for the markers, the order of restart markers and the number of MCUs.
"""

from __future__ import annotations

import io
import math
import random
import re
from dataclasses import dataclass, field

from finetune.images.streams.prepared import MAX_PARTS, Prepared, StructureError, refuse_parts

MAX_SCANS = 100
MAX_FILL = 1_000_000
MAX_SCANNED = 600_000_000  # pixels times scans: 12 scans of 50 megapixels, 3 s of a core
PROGRESSIVE_BYTES = 10  # for each pixel: three coefficients of two bytes, and four of the image
SPARE = 4  # bytes behind the pixels' data that some cameras leave
MORE = b"\xff\0" * 8  # the decoder looks eight bytes ahead; no code is made of ones alone
TWIN_PIXELS = 16_000_000  # above, decoding twice would take too long
_FILL = re.compile(rb"(?:\x00?\xff+)*\x00?")  # behind a first 0xFF
_MARK = re.compile(rb"\xff[^\x00\xff]")  # the start of a marker inside a scan, restarts included
_STARTS_OF_FRAME = frozenset(range(0xC0, 0xD0)) - {0xC4, 0xC8, 0xCC}
_ALONE = frozenset((0x01, *range(0xD0, 0xD9)))  # markers without a segment
_FILLER = bytes(random.Random(0).choices(range(255), k=256))  # without 0xFF
CUT = "its JPEG data end early: a part of the image is lost; fetch it again"
OUT_OF_STEP = "its JPEG data are damaged: they do not fit the size in its header; fetch it again"


@dataclass
class _Scan:
    start: int
    end: int = 0
    parts: int = 1  # components
    interval: int = 0  # MCUs between restart markers
    mcus: int = 0
    restarts: list[int] = field(default_factory=list)


@dataclass
class _Frame:
    kind: int = -1
    width: int = 0
    height: int = 0
    sampling: dict[int, tuple[int, int]] = field(default_factory=dict)

    def mcus(self, components: bytes) -> int:
        """Return the minimum coded units in a scan of these components."""
        across = max((h for h, _ in self.sampling.values()), default=1)
        down = max((v for _, v in self.sampling.values()), default=1)
        if len(components) > 1:
            return math.ceil(self.width / (8 * across)) * math.ceil(self.height / (8 * down))
        h, v = self.sampling.get(components[0], (across, down))
        wide, high = math.ceil(self.width * h / across), math.ceil(self.height * v / down)
        return math.ceil(wide / 8) * math.ceil(high / 8)


class WatchedStream(io.BytesIO):
    """A file that is read up to `marks` one after the other, once it is watched.

    `reached` is how far the reader came since then.
    """

    def __init__(self, content: bytes, marks: tuple[int, ...]) -> None:
        super().__init__(content)
        self.marks, self.reached = marks, 0

    def watch(self) -> None:
        """Watch what is read from now on; before, a header is read byte by byte, at full speed."""
        self.read = self._read_watched  # type: ignore[method-assign]

    def _read_watched(self, size: int | None = -1, /) -> bytes:
        place = self.tell()
        mark = next((mark for mark in self.marks if mark > place), None)
        if mark is not None:
            size = mark - place if size is None or size < 0 else min(size, mark - place)
        found = super().read(size)
        self.reached = max(self.reached, self.tell())
        return found

    def refuse_rest(self) -> bool:
        """Return whether a few bytes of the pixels' data were not needed; raise StructureError for many."""
        if self.reached <= self.marks[0]:
            raise StructureError(OUT_OF_STEP)
        return self.reached <= self.marks[1]


def prepare_jpeg(content: bytes) -> Prepared:
    """Return a JPEG file ready for decoding.

    Raises StructureError for thousands of segments or scans, and for restart markers that are missing or out
    of order: what was between them is lost.
    """
    frame, scans = _read_layout(content)
    if len(scans) != 1 or frame.kind not in (0xC0, 0xC1) or scans[0].parts < len(frame.sampling):
        pixels = frame.width * frame.height
        limit = min(MAX_SCANS, MAX_SCANNED // max(pixels, 1))
        if len(scans) > max(limit, 1):
            raise StructureError(f"it is made of {len(scans)} scans, at most {limit} are read at its size")
        twin = _twin(content, scans) if scans and pixels <= TWIN_PIXELS else None
        return Prepared(io.BytesIO(content), PROGRESSIVE_BYTES, twin=twin)
    scan = scans[0]
    whole = content[: scan.end] + MORE
    marks = (max(scan.end - SPARE, scan.start), scan.end - 1, scan.end, len(whole))
    twin = _twin(content, scans) if scan.restarts and frame.width * frame.height <= TWIN_PIXELS else None
    return Prepared(WatchedStream(whole, marks), twin=twin, cheap=True)


def _read_layout(content: bytes) -> tuple[_Frame, list[_Scan]]:
    """Return the frame and the scans of a file, as far as it can be followed."""
    frame, scans, interval, segments, filled, place = _Frame(), list[_Scan](), 0, 0, 0, 2
    while (place := content.find(b"\xff", place)) >= 0 and place + 1 < len(content):
        marker = content[place + 1]
        if marker in (0x00, 0xFF):
            found = _FILL.match(content, place + 1)
            assert found is not None
            filled += found.end() - place - 1
            refuse_parts(filled, MAX_FILL, "filler bytes before JPEG markers")  # Pillow reads them one by one
            place = found.end() - (content[found.end() - 1] == 0xFF)
            continue
        if marker == 0xD9:
            break
        segments += 1
        refuse_parts(segments, MAX_PARTS, "JPEG segments")
        if marker in _ALONE:
            place += 2
            continue
        size = int.from_bytes(content[place + 2 : place + 4], "big")
        body = content[place + 4 : place + 2 + size]
        place += 2 + max(size, 2)
        if marker in _STARTS_OF_FRAME and frame.kind < 0:
            frame = _read_frame(marker, body)
        elif marker == 0xDD and len(body) >= 2:
            interval = int.from_bytes(body[:2], "big")
        elif marker == 0xDA and body:
            scan = _read_scan(content, place, frame, body)
            scan.interval = interval
            _check_restarts(scan)
            scans.append(scan)
            place = scan.end
    return frame, scans


def _read_frame(marker: int, body: bytes) -> _Frame:
    height, width = int.from_bytes(body[1:3], "big"), int.from_bytes(body[3:5], "big")
    parts = [body[start : start + 3] for start in range(6, 6 + 3 * (body[5] if len(body) > 5 else 0), 3)]
    sampling = {part[0]: (max(part[1] >> 4, 1), max(part[1] & 15, 1)) for part in parts if len(part) == 3}
    return _Frame(marker, width, height, sampling)


def _read_scan(content: bytes, start: int, frame: _Frame, body: bytes) -> _Scan:
    components = body[1 : 1 + 2 * body[0] : 2]
    scan = _Scan(start, len(content), len(components), 0, frame.mcus(components) if components else 0)
    for found in _MARK.finditer(content, start):
        marker = content[found.start() + 1]
        if not 0xD0 <= marker <= 0xD7:
            scan.end = found.start()
            break
        scan.restarts.append(found.start())
    kept = min(start + 1, scan.end)  # the bytes that fill up before a marker go
    scan.end = kept + len(content[kept : scan.end].rstrip(b"\xff"))
    if [content[place + 1] & 7 for place in scan.restarts] != [i % 8 for i in range(len(scan.restarts))]:
        raise StructureError(OUT_OF_STEP)
    return scan


def _check_restarts(scan: _Scan) -> None:
    """Raise StructureError where a scan has fewer or more restart markers than its units ask for."""
    if not scan.interval or not scan.mcus:
        return
    needed = math.ceil(scan.mcus / scan.interval) - 1
    if not needed <= len(scan.restarts) <= needed + 1:  # some cameras write one behind the last unit
        raise StructureError(CUT if len(scan.restarts) < needed else OUT_OF_STEP)


def _twin(content: bytes, scans: list[_Scan]) -> bytes:
    """Return the file with filler at the end of every scan and of every part between restart markers."""
    places = sorted({place for scan in scans for place in (*scan.restarts, scan.end)})
    starts = [0, *places]
    ends = [*places, len(content)]
    return _FILLER.join(content[start:end] for start, end in zip(starts, ends, strict=True))
