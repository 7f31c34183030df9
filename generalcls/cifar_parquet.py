"""Read CIFAR's parquet copies: a column of encoded pictures and a column of labels."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from finetune.decode import BadImageError, decode_image
from finetune.errors import DataError
from generalcls.cifar_classes import check_class_names
from generalcls.image_set import ImageSet, labels_within

SIDE = 32
PICTURES = "img"
JPEG_START = b"\xff\xd8\xff"


def read_parquet_parts(
    files: tuple[Path, Path], column: str, class_names: Sequence[str], source: str
) -> tuple[ImageSet, ImageSet, tuple[str, ...]]:
    """Return the training and the test pictures of two parquet files, and what should be told of them.

    Args:
        files: the training and the test file.
        column: of the labels.
        class_names: the official classes, in the order of the labels.
        source: where the data come from, for the message.

    Raises:
        DataError: a file that is missing, damaged or without these columns; a picture that cannot be decoded
            or is not 32 x 32; a label out of range; another order of the classes.
    """
    (train, train_lossy), (test, test_lossy) = (_read(file, column, class_names, source) for file in files)
    notes = []
    if train_lossy or test_lossy:
        notes.append(
            f"{train_lossy + test_lossy} of {len(train) + len(test)} pictures are JPEG: close to, not equal "
            "to, the published pixels"
        )
    return train, test, tuple(notes)


def _read(file: Path, column: str, class_names: Sequence[str], source: str) -> tuple[ImageSet, int]:
    """Return a file's pictures, and how many of them were compressed with losses."""
    table = _open(file, column, source)
    _check_names(table, column, class_names, file)
    labels = table[column].to_pylist()
    if None in labels:
        raise DataError(f"{file}: row {labels.index(None)} has no {column}; fetch it again")
    target = labels_within(np.asarray(labels, dtype=np.int64), 0, len(class_names) - 1, str(file))
    cells = table[PICTURES].to_pylist()
    images = np.empty((len(cells), SIDE, SIDE, 3), np.uint8)
    lossy = 0
    for row, cell in enumerate(cells):
        content = (cell or {}).get("bytes") or b""
        images[row] = _decode(file, row, content)
        lossy += content.startswith(JPEG_START)
    return ImageSet(images, target), lossy


def _open(file: Path, column: str, source: str) -> Any:
    import pyarrow as pa
    import pyarrow.parquet as pq

    if not file.is_file():
        raise DataError(f"{file} is missing; place it there. Where from: {source}")
    try:
        names = pq.read_schema(file).names
        absent = [name for name in (PICTURES, column) if name not in names]
        if absent:
            found = ", ".join(names)
            raise DataError(
                f"{file} has no column {' and no '.join(absent)}; found {found}: is it the other CIFAR?"
            )
        table = pq.read_table(file, columns=[PICTURES, column])
    except (OSError, pa.ArrowException) as error:
        raise DataError(f"{file} is no whole parquet file: {error}; fetch it again") from error
    kind = table.schema.field(PICTURES).type
    if not pa.types.is_struct(kind) or kind.get_field_index("bytes") < 0:
        raise DataError(f"{file}: column {PICTURES} holds {{bytes, path}}, got {kind}")
    if not pa.types.is_integer(table.schema.field(column).type):
        raise DataError(f"{file}: column {column} holds whole numbers, got {table.schema.field(column).type}")
    return table


def _check_names(table: Any, column: str, class_names: Sequence[str], file: Path) -> None:
    """Compare the class names in the file's metadata, where it has some, with the official ones."""
    told = (table.schema.metadata or {}).get(b"huggingface")
    if told is None:
        return
    try:
        names = json.loads(told)["info"]["features"][column]["names"]
    except (ValueError, KeyError, TypeError):
        return  # other metadata say nothing about the classes
    check_class_names(names, class_names, file)


def _decode(file: Path, row: int, content: bytes) -> np.ndarray:
    if not content:
        raise DataError(f"{file}: row {row} has no picture; fetch it again")
    try:
        picture = decode_image(content)
    except BadImageError as error:
        raise DataError(f"{file}: the picture in row {row} cannot be decoded: {error.reason}") from error
    if picture.shape[:2] != (SIDE, SIDE):
        height, width = picture.shape[:2]
        raise DataError(f"{file}: the picture in row {row} is {width} x {height}, not {SIDE} x {SIDE}")
    return picture
