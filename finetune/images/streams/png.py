"""PNG and GIF files without the parts that are no pixels: comments, profiles, texts.

Sources: W3C, Portable Network Graphics Specification, third edition (2025), sections 5 and 11; CompuServe,
Graphics Interchange Format, version 89a (1990), appendix A.
"""

from __future__ import annotations

import io
import struct
import zlib

from finetune.images.streams.prepared import MAX_PARTS, Prepared, StructureError, refuse_parts

PNG_START = b"\x89PNG\r\n\x1a\n"
TEXT_BYTES = 1_000_000  # of a text that may say which way is up
GIF_BYTES = 10  # for each pixel
MAX_BLOCKS = 16_384  # up to the second image
_KEPT = frozenset((b"tRNS", b"acTL", b"fcTL", b"fdAT"))  # beside the critical chunks
_TEXTS = frozenset((b"tEXt", b"zTXt", b"iTXt"))
_UPRIGHT = (b"XML:com.adobe.xmp\0", b"Raw profile type exif\0", b"Raw profile type APP1\0")
_SPARSE = 512  # bytes of a file for each chunk above the limit that small files have
_COMMENT, _PLAIN_TEXT, _APPLICATION = 0xFE, 0x01, 0xFF


def prepare_png(content: bytes) -> Prepared:
    """Return a PNG file with its pixels, its transparency, its orientation and its animation alone.

    Raises StructureError for a file cut into more chunks than its size explains.
    """
    kept, place, chunks = [PNG_START], len(PNG_START), 0
    limit = MAX_PARTS + len(content) // _SPARSE
    while place + 12 <= len(content):
        size = int.from_bytes(content[place : place + 4], "big")
        end = place + 12 + size
        kind = content[place + 4 : place + 8]
        chunks += 1
        refuse_parts(chunks, limit, "PNG chunks")
        if kind == b"IEND" or end > len(content):
            break
        if not kind[0] & 0x20 or kind in _KEPT or _says_upright(kind, content, place, end):
            kept.append(content[place:end])
        place = end
    kept.append(content[place:])  # the end, or what follows where a chunk is cut off
    interlaced = content[28:29] == b"\x01"
    return Prepared(io.BytesIO(b"".join(kept)), cheap=not interlaced)


def _says_upright(kind: bytes, content: bytes, place: int, end: int) -> bool:
    """Return whether a chunk may say which way is up, and is whole and of a size that a decoder takes."""
    if kind != b"eXIf" and kind not in _TEXTS:
        return False
    body = content[place + 8 : end - 4]
    if len(body) > TEXT_BYTES or (kind in _TEXTS and not body.startswith(_UPRIGHT)):
        return False
    if zlib.crc32(content[place + 4 : end - 4]) != struct.unpack(">I", content[end - 4 : end])[0]:
        return False
    return kind not in (b"zTXt", b"iTXt") or _inflates(kind, body)


def _inflates(kind: bytes, body: bytes) -> bool:
    """Return whether a text, which may be compressed, is whole and of at most `TEXT_BYTES`."""
    _, _, rest = body.partition(b"\0")
    if kind == b"iTXt":
        if rest[:1] != b"\x01":
            return True
        rest = rest[2:].partition(b"\0")[2].partition(b"\0")[2]
    else:
        rest = rest[1:]
    reader = zlib.decompressobj()
    try:
        reader.decompress(rest, TEXT_BYTES)
    except zlib.error:
        return False
    return reader.eof


def prepare_gif(content: bytes) -> Prepared:
    """Return a GIF file up to its second image, without comments and what applications put in.

    Raises StructureError for thousands of blocks, or pixels cut into smaller pieces than any writer's.
    """
    place = 13 + _table_bytes(content, 10)
    kept, images, blocks = [content[:place]], 0, 0
    while place + 2 < len(content) and images < 2:
        start, label = place, content[place : place + 2]
        if label[0] == 0x2C:
            images += 1
            place = _sub_blocks_end(content, place + 11 + _table_bytes(content, place + 9))
        elif label[0] == 0x21:
            place = _sub_blocks_end(content, place + 2)
        else:
            break
        dropped = label[0] == 0x21 and label[1] in (_COMMENT, _PLAIN_TEXT, _APPLICATION)
        blocks += 1
        refuse_parts(blocks, MAX_BLOCKS, "GIF blocks")
        if not dropped:
            kept.append(content[start:place])
    kept.append(b"\x3b" if images == 2 else content[place:])
    return Prepared(io.BytesIO(b"".join(kept)), GIF_BYTES)


def _table_bytes(content: bytes, place: int) -> int:
    flags = content[place] if place < len(content) else 0
    return 3 * 2 ** ((flags & 7) + 1) if flags & 0x80 else 0


def _sub_blocks_end(content: bytes, place: int) -> int:
    """Return where a series of sub-blocks ends, at most the file's end."""
    count, limit = 0, MAX_PARTS + len(content) // 32
    while place < len(content) and (size := content[place]):
        place += 1 + size
        count += 1
        if count > limit:
            raise StructureError("its GIF data are cut into too many small pieces; save it again")
    return min(place + 1, len(content))
