"""CIFAR's parquet copies: columns, pictures, labels and class order, each of which may be wrong."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from finetune.errors import DataError
from generalcls.cifar import PARQUET, read_cifar
from generalcls.cifar_classes import CIFAR10_CLASSES
from generalcls.cifar_parquet import read_parquet_parts
from generalcls.lookalike import write_lookalike_cifar


def _png(side: int = 32, ending: str = ".png", channels: int = 3) -> bytes:
    return cv2.imencode(ending, np.full((side, side, channels), 90, np.uint8))[1].tobytes()


def _rewrite(root: Path, pictures: list[Any], labels: list[Any], names: list[str] | None = None) -> None:
    table = pa.table({"img": pictures, "label": labels})
    if names:
        told = {"info": {"features": {"label": {"names": names}}}}
        table = table.replace_schema_metadata({"huggingface": json.dumps(told)})
    pq.write_table(table, root / "plain_text" / PARQUET[1])


def _cell(content: bytes | None) -> dict[str, Any]:
    return {"bytes": content, "path": "0.png"}


def _read(root: Path):
    return read_cifar("cifar10", str(root), dict, subset=True)


@pytest.mark.parametrize(
    ("pictures", "labels", "told"),
    [
        ([_cell(_png(40))], [0], "row 0 is 40 x 40, not 32 x 32"),
        ([_cell(_png()[:60])], [0], "row 0 cannot be decoded: truncated"),
        ([_cell(_png()), _cell(None)], [0, 1], "row 1 has no picture"),
        ([_cell(_png())], [10], "row 0: 10"),
        ([_cell(_png()), _cell(_png())], [0, None], "row 1 has no label"),
        ([_png()], [0], r"column img holds \{bytes, path\}, got binary"),
        ([_cell(_png())], [0.5], "column label holds whole numbers, got double"),
    ],
)
def test_wrong_cells_are_refused_with_their_row(
    tmp_path: Path, pictures: list[Any], labels: list[Any], told: str
):
    write_lookalike_cifar(tmp_path, layout="parquet")
    _rewrite(tmp_path, pictures, labels)
    with pytest.raises(DataError, match=f"(?s){PARQUET[1]}.*{told}"):
        _read(tmp_path)


def test_a_cut_and_a_missing_file_are_refused(tmp_path: Path):
    write_lookalike_cifar(tmp_path, layout="parquet")
    file = tmp_path / "plain_text" / PARQUET[1]
    file.write_bytes(file.read_bytes()[:-20])
    with pytest.raises(DataError, match=f"{PARQUET[1]} is no whole parquet file"):
        _read(tmp_path)
    file.unlink()
    with pytest.raises(DataError, match=f"{PARQUET[1]} is missing"):
        _read(tmp_path)


def test_another_order_of_the_classes_is_refused(tmp_path: Path):
    write_lookalike_cifar(tmp_path, layout="parquet")
    _rewrite(tmp_path, [_cell(_png())], [0], ["automobile", "airplane"])
    with pytest.raises(DataError, match="label 0 is automobile, not airplane"):
        _read(tmp_path)


def test_lossy_pictures_are_told_and_grey_ones_become_rgb(tmp_path: Path):
    write_lookalike_cifar(tmp_path, layout="parquet")
    assert not any("JPEG" in note for note in _read(tmp_path).notes)
    _rewrite(tmp_path, [_cell(_png(ending=".jpg")), _cell(_png(channels=1))], [0, 1])
    reading = _read(tmp_path)
    assert "1 of 52 pictures are JPEG" in reading.notes[0]
    assert reading.test is not None
    assert reading.test.images[1].tolist() == np.full((32, 32, 3), 90).tolist()


@pytest.mark.real_data
def test_the_real_test_file_is_whole(real_data: Path):
    file = real_data / "cifar10/plain_text" / PARQUET[1]
    part, _, notes = read_parquet_parts((file, file), "label", CIFAR10_CLASSES, "")
    assert part.class_counts(10).tolist() == [1000] * 10
    assert part.images.shape == (10000, 32, 32, 3)
    assert "20000 of 20000 pictures are JPEG" in notes[0]
