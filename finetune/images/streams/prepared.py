"""What a decoder is given of a file, and what it may cost."""

from __future__ import annotations

import io
from dataclasses import dataclass

MAX_FILE_BYTES = 400_000_000  # 50 megapixels of four times 16 bits
MEMORY_BYTES = 512_000_000  # that an image may take beside its file
MAX_PARTS = 4096  # chunks, segments or blocks that are no pixels
PLAIN = 10  # bytes for each pixel: Pillow keeps four, three are handed out


class StructureError(ValueError):
    """A file that no decoder should be given; its text is the reason."""


@dataclass(frozen=True)
class Prepared:
    """A file made ready for the decoder.

    Args:
        stream: what the decoder reads: the pixels and what belongs to them, without other metadata.
        pixel_bytes: bytes of memory that decoding takes for each pixel at most.
        most_pixels: that are decoded, where a slow decoder needs a smaller bound than memory gives.
        twin: the file with filler behind each part that a decoder might miss the end of: its pixels are the
            same where nothing is missing. None where there is no need to compare.
        cheap: whether decoding is fast for its pixels, whatever they are.
    """

    stream: io.BytesIO
    pixel_bytes: int = PLAIN
    most_pixels: int | None = None
    twin: bytes | None = None
    cheap: bool = False

    @property
    def limit(self) -> int:
        """The pixels that may be decoded within the budget."""
        by_memory = MEMORY_BYTES // self.pixel_bytes
        return by_memory if self.most_pixels is None else min(by_memory, self.most_pixels)


def refuse_parts(count: int, limit: int, what: str) -> None:
    """Raise StructureError where a file has more than `limit` parts: reading them would take too long."""
    if count > limit:
        raise StructureError(f"it holds more than {limit:,} {what}, which no image needs; save it again")
