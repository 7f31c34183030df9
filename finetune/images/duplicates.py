"""Pictures that a data set holds twice, under different names."""

from __future__ import annotations

import hashlib
from collections import defaultdict
from collections.abc import Iterator

from finetune.errors import DataError
from finetune.images.manifest import Manifest


def equal_files(manifest: Manifest) -> Iterator[list[int]]:
    """Yield the rows of each set of files with equal bytes; only files of equal size are read.

    Raises DataError when a listed file cannot be read.
    """
    by_size: dict[int, list[int]] = defaultdict(list)
    by_content: dict[bytes, list[int]] = defaultdict(list)
    try:
        for row in range(len(manifest)):
            by_size[manifest.file(row).stat().st_size].append(row)
        for row in (row for rows in by_size.values() if len(rows) > 1 for row in rows):
            by_content[hashlib.sha256(manifest.file(row).read_bytes()).digest()].append(row)
    except OSError as error:
        raise DataError(f"{error.filename} cannot be read: {error.strerror}") from None
    yield from (rows for rows in by_content.values() if len(rows) > 1)
