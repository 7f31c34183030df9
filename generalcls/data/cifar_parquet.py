"""Read CIFAR's parquet copies: a column of encoded images and a column of labels."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from finetune.errors import DataError
from finetune.images.decode import BadImageError, decode_image
from finetune.runs.parse import parse_json
from generalcls.data.image_set import ImageSet, check_class_names, labels_within

SIDE = 32
PICTURES = "img"
PNG_START = b"\x89PNG\r\n\x1a\n"


@dataclass(frozen=True)
class ParquetParts:
    """The images of two parquet files.

    Args:
        train: the training part.
        test: the test part.
        lossy_train: how many training images are no PNG (JPEG, as a rule), so that their pixels are not the
            published ones.
        lossy_test: how many test images.
    """

    train: ImageSet
    test: ImageSet
    lossy_train: int
    lossy_test: int

    @property
    def notes(self) -> tuple[str, ...]:
        """What should be reported of images that were compressed again."""
        lossy, total = self.lossy_train + self.lossy_test, len(self.train) + len(self.test)
        if not lossy:
            return ()
        told = f"{lossy} of {total} images are JPEG or the like: close to, not equal to, the published pixels"
        if not self.lossy_test:
            return (told,)
        return (f"{told}, so the test part ({self.lossy_test} of them) does not count as the published one",)


def read_parquet_parts(
    files: tuple[Path, Path], column: str, class_names: Sequence[str], source: str
) -> ParquetParts:
    """Return the training and the test images of two parquet files.

    Args:
        files: the training and the test file.
        column: of the labels.
        class_names: the official classes, in the order of the labels.
        source: where the data come from, for the message.

    Raises:
        DataError: a file that is missing, damaged or without these columns; an image that cannot be decoded
            or is not 32 x 32; a label out of range; another order of the classes.
    """
    (train, lossy_train), (test, lossy_test) = (_read(file, column, class_names, source) for file in files)
    return ParquetParts(train, test, lossy_train, lossy_test)


def _read(file: Path, column: str, class_names: Sequence[str], source: str) -> tuple[ImageSet, int]:
    """Return a file's images, and how many of them may have been compressed with losses."""
    import pyarrow.compute as pc

    table = _open(file, column, source)
    _check_names(table, column, class_names, file)
    labels = table[column]
    if labels.null_count:
        raise DataError(f"{file}: row {labels.to_pylist().index(None)} has no {column}; fetch it again")
    target = labels_within(labels.to_numpy(), 0, len(class_names) - 1, str(file))
    contents = pc.struct_field(table[PICTURES], "bytes").to_pylist()
    images = np.empty((len(contents), SIDE, SIDE, 3), np.uint8)
    lossy = 0
    for row, content in enumerate(contents):
        images[row] = _decode(file, row, content or b"")
        lossy += not content.startswith(PNG_START)
    return ImageSet(images, target), lossy


def _open(file: Path, column: str, source: str) -> Any:
    import pyarrow as pa
    import pyarrow.parquet as pq

    if not file.is_file():
        raise DataError(f"{file} is missing; place it there. Where from: {source}")
    try:
        names = pq.read_schema(file).names
        counts = {name: names.count(name) for name in (PICTURES, column)}
        odd = [
            f"{count or 'no'} column{'s' * (count > 1)} {name}"
            for name, count in counts.items()
            if count != 1
        ]
        if odd:
            found = ", ".join(names)
            raise DataError(f"{file} has {' and '.join(odd)}; found {found}: is it the other CIFAR?")
        table = pq.read_table(file, columns=[PICTURES, column])
    except (OSError, pa.ArrowException) as error:
        raise DataError(f"{file} is no whole parquet file: {error}; fetch it again") from error
    kind = table.schema.field(PICTURES).type
    at = kind.get_field_index("bytes") if pa.types.is_struct(kind) else -1
    if at < 0 or not (
        pa.types.is_binary(kind.field(at).type) or pa.types.is_large_binary(kind.field(at).type)
    ):
        raise DataError(f"{file}: column {PICTURES} holds {{bytes: binary, path}}, got {kind}")
    if not pa.types.is_integer(table.schema.field(column).type):
        raise DataError(f"{file}: column {column} holds whole numbers, got {table.schema.field(column).type}")
    return table


def _check_names(table: Any, column: str, class_names: Sequence[str], file: Path) -> None:
    """Compare the class names in the file's metadata, where it has some, with the official ones."""
    told = (table.schema.metadata or {}).get(b"huggingface")
    if told is None:
        return
    try:
        names = parse_json(told)["info"]["features"][column]["names"]
    except (ValueError, KeyError, TypeError):
        return  # other metadata say nothing about the classes
    check_class_names(names, class_names, file)


def _decode(file: Path, row: int, content: bytes) -> np.ndarray:
    if not content:
        raise DataError(f"{file}: row {row} has no image; fetch it again")
    try:
        picture = decode_image(content)
    except BadImageError as error:
        raise DataError(f"{file}: the image in row {row} cannot be decoded: {error.reason}") from error
    if picture.shape[:2] != (SIDE, SIDE):
        height, width = picture.shape[:2]
        raise DataError(f"{file}: the image in row {row} is {width} x {height}, not {SIDE} x {SIDE}")
    return picture
