"""CIFAR's parquet copies: columns, images, labels and class order, each of which may be wrong."""

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
from generalcls.config import GeneralDataConfig
from generalcls.data import cifar
from generalcls.data.cifar import CIFAR10_CLASSES, PARQUET, read_cifar
from generalcls.data.cifar_parquet import read_parquet_parts
from generalcls.data.image_set import Whole
from generalcls.data.synthetic import write_lookalike_cifar
from generalcls.data.verify import verify_general_data


def _png(side: int = 32, ending: str = ".png", channels: int = 3) -> bytes:
    return cv2.imencode(ending, np.full((side, side, channels), 90, np.uint8))[1].tobytes()


def _rewrite(root: Path, pictures: list[Any], labels: Any, names: Any = None) -> None:
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
        ([_cell(_png()), _cell(None)], [0, 1], "row 1 has no image"),
        ([_cell(_png())], [10], "row 0: 10"),
        ([_cell(_png()), _cell(_png())], [0, None], "row 1 has no label"),
        ([_png()], [0], r"column img holds \{bytes: binary, path\}, got binary"),
        ([{"bytes": "text"}], [0], r"holds \{bytes: binary, path\}, got struct<bytes: string>"),
        ([{"bytes": 5}], [0], r"holds \{bytes: binary, path\}, got struct<bytes: int64>"),
        ([{"bytes": [1, 2]}], [0], r"holds \{bytes: binary, path\}, got struct<bytes: list"),
        ([{"path": "0.png"}], [0], r"holds \{bytes: binary, path\}, got struct<path: string>"),
        ([_cell(_png()), None], [0, 1], "row 1 has no image"),
        ([_cell(_png()), _cell(_png())], pa.array([1, 2**64 - 1], pa.uint64()), f"row 1: {2**64 - 1}"),
        ([_cell(_png())], [0.5], "column label holds whole numbers, got double"),
    ],
)
def test_wrong_cells_are_refused_with_their_row(tmp_path: Path, pictures: list[Any], labels: Any, told: str):
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
    _rewrite(tmp_path, [_cell(_png())], [0], 5)
    with pytest.raises(DataError, match="its class names are no list of texts but 5"):
        _read(tmp_path)


def test_a_column_that_is_there_twice_is_refused(tmp_path: Path):
    write_lookalike_cifar(tmp_path, layout="parquet")
    table = pa.table([[_cell(_png())], [0], [1]], names=["img", "label", "label"])
    pq.write_table(table, tmp_path / "plain_text" / PARQUET[1])
    with pytest.raises(DataError, match="has 2 columns label; found img, label, label"):
        _read(tmp_path)


def test_lossy_pictures_are_told_and_grey_ones_become_rgb(tmp_path: Path):
    write_lookalike_cifar(tmp_path, layout="parquet")
    assert not any("JPEG" in note for note in _read(tmp_path).notes)
    _rewrite(tmp_path, [_cell(_png(ending=".jpg")), _cell(_png(channels=1))], [0, 1])
    reading = _read(tmp_path)
    assert "1 of 52 images are JPEG" in reading.notes[0]
    assert reading.test is not None
    assert reading.test.images[1].tolist() == np.full((32, 32, 3), 90).tolist()


def test_a_whole_copy_counts_as_published_unless_its_test_pictures_are_jpeg(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    def small(title: str, train: int, test: int, *rest: Any) -> Whole:
        return Whole(title, 50, 20, *rest)

    monkeypatch.setattr(cifar, "Whole", small)
    write_lookalike_cifar(tmp_path, layout="parquet")
    config = GeneralDataConfig("cifar10", str(tmp_path))
    assert verify_general_data(config, quick=True)["official_test"]
    assert "the test part is the published one" in capsys.readouterr().out
    _rewrite(tmp_path, [_cell(_png(ending=".jpg"))] * 20, [*range(10)] * 2)
    assert not verify_general_data(config, quick=True)["official_test"]
    told = " ".join(capsys.readouterr().out.split())
    assert "the test part is not the published one" in told
    assert "the test part is the published one" not in told
    assert "20 of 70 images are JPEG" in told
    assert "the test part (20 of them) does not count as the published one" in told


@pytest.mark.real_data
def test_the_real_test_file_is_whole(real_data: Path):
    file = real_data / "cifar10/plain_text" / PARQUET[1]
    found = read_parquet_parts((file, file), "label", CIFAR10_CLASSES, "")
    part, notes = found.train, found.notes
    assert part.class_counts(10).tolist() == [1000] * 10
    assert part.images.shape == (10000, 32, 32, 3)
    assert "20000 of 20000 images are JPEG" in notes[0]
