"""What `crl fine verify` counts, refuses and writes; what is opened is checked for every task elsewhere."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from finegrained.config import FineDataConfig, VerifyFineConfig
from finegrained.data.boxes import bad_boxes
from finegrained.data.load import make_fine_split, read_fine_data
from finegrained.synthetic.datasets import write_lookalike_cub
from finegrained.task import TASK
from finetune.errors import DataError, UsageError
from finetune.experiments.data_checks import verify_data
from finetune.images.checks import tell_classes
from finetune.images.manifest import Manifest


@pytest.fixture
def birds(tmp_path: Path) -> Path:
    write_lookalike_cub(tmp_path / "birds", classes=3, per_class=10, image_size=32)
    return tmp_path / "birds"


def verify(config: FineDataConfig, **options: Any) -> dict[str, Any]:
    """Verify fine-grained data with these options of the command."""
    return verify_data(TASK, VerifyFineConfig(data=config, **options))


def _config(root: Path, **options: object) -> FineDataConfig:
    return FineDataConfig(root=str(root), subset=True, **options)  # type: ignore[arg-type]


def test_counts_are_printed_and_returned(birds: Path, capsys: pytest.CaptureFixture[str]):
    result = verify(_config(birds))
    assert [result[name] for name in ("images", "classes", "train", "test")] == [30, 3, 18, 12]
    assert result["parts"] == {"train": 16, "val": 2, "test": 12}
    assert result["per_class"] == {"min": 10, "median": 10.0, "max": 10}
    assert (result["bad_images"], result["duplicate_contents"]) == ({}, [])
    shown = capsys.readouterr().out
    assert "30 images, 3 classes, 18 train, 12 test" in shown
    assert "30 images opened, 0 cannot be read" in shown
    json.dumps(result)


def test_metadata_need_no_pictures(birds: Path, capsys: pytest.CaptureFixture[str]):
    shutil.rmtree(birds / "images")
    result = verify(_config(birds, metadata_only=True))
    assert (result["images"], result["missing_images"]) == (30, None)
    assert "opened" not in capsys.readouterr().out


def test_equal_pictures_in_training_and_validation_and_of_two_classes_are_told(
    birds: Path, capsys: pytest.CaptureFixture[str]
):
    config = _config(birds)
    data = read_fine_data(config)
    (split,), label = make_fine_split(data, config), data.manifest.label
    held = int(split.val[0])
    first = int(next(row for row in split.train if label[row] != label[held]))
    shutil.copy(data.manifest.file(first), data.manifest.file(held))
    result = verify(config)
    pair = [str(data.manifest["path"][row]) for row in (first, held)]
    assert (result["same_content"], result["same_content_validation"]) == ([], [pair])
    assert [sorted(pair)] == [sorted(found) for found in result["same_content_classes"]]
    told = capsys.readouterr().out
    assert "1 pairs of images in training and validation are the same bytes" in told
    assert "1 pairs of images with two classes are the same bytes" in told


def test_a_box_without_an_area_is_refused_with_its_picture(birds: Path):
    file = birds / "bounding_boxes.txt"
    lines = file.read_text(encoding="utf-8").splitlines()
    file.write_text("\n".join(["1 10 10 0 5", *lines[1:]]) + "\n", encoding="utf-8")
    with pytest.raises(
        DataError, match=r"1 boxes have no area or are not finite:\n.*10\.0, 10\.0, 10\.0, 15\.0"
    ):
        verify(_config(birds), quick=True)


def test_boxes_that_are_no_numbers_are_found_and_unknown_ones_are_not():
    nan, inf = float("nan"), float("inf")
    rows = [(0, 0, 2, 2), (nan, nan, nan, nan), (0, nan, 2, 2), (0, 0, inf, 2), (5, 0, 2, 2)]
    corners = {
        name: np.array([row[at] for row in rows], float) for at, name in enumerate(("x1", "y1", "x2", "y2"))
    }
    columns = {"path": np.array(list("abcde")), "label": np.zeros(5, int), **corners}
    found = bad_boxes(Manifest(Path(), ("k",), columns))
    assert [line.partition(":")[0] for line in found] == ["c", "d", "e"]


def test_missing_pictures_are_counted_and_the_others_opened(birds: Path, capsys: pytest.CaptureFixture[str]):
    sorted(birds.glob("images/*/*.jpg"))[3].unlink()
    with pytest.raises(DataError, match=r"1 of 30 listed images are not under.*--data\.missing drop"):
        verify(_config(birds))
    shown = capsys.readouterr().out
    assert "29 images opened" in shown
    assert "training stops" in shown
    result = verify(_config(birds, missing="drop"))
    assert (result["images"], result["missing_images"]) == (29, 1)


def test_no_picture_at_all_is_said(birds: Path, capsys: pytest.CaptureFixture[str]):
    shutil.rmtree(birds / "images")
    with pytest.raises(DataError, match="30 of 30 listed images are not under"):
        verify(_config(birds))
    assert "no image is there" in capsys.readouterr().out


@pytest.mark.parametrize("suffix", [".csv", ".parquet"])
def test_the_written_table_is_the_same_data_and_the_same_split(birds: Path, tmp_path: Path, suffix: str):
    target = tmp_path / f"table{suffix}"
    first = verify(_config(birds), quick=True, write=str(target))
    second = verify(FineDataConfig(table=str(target), root=str(birds)))
    assert first["table"] == str(target)
    assert (first["manifest"], first["split"]) == (second["manifest"], second["split"])


@pytest.mark.parametrize("name", ["table.xlsx", "table", ".csv"])
def test_a_table_of_another_kind_is_refused_before_anything_is_read(name: str):
    with pytest.raises(UsageError, match=r"\.csv or \.parquet"):
        VerifyFineConfig(write=name)


@pytest.mark.real_data
def test_the_real_metadata_are_the_official_ones(real_data: Path, capsys: pytest.CaptureFixture[str]):
    root = real_data / "cub_meta/CUB_200_2011"
    result = verify(FineDataConfig(root=str(root), metadata_only=True))
    assert result["parts"] == {"train": 5395, "val": 599, "test": 5794}
    assert "11788 images, 200 classes, 5994 train, 5794 test" in capsys.readouterr().out


def test_boxes_as_fractions_end_verify_after_everything_was_printed(tmp_path: Path, capsys):
    for row in range(4):
        Image.fromarray(np.full((16, 16, 3), 40 * row, np.uint8)).save(tmp_path / f"{row}.png")
    lines = [f"{row}.png,{'ab'[row % 2]},0.1,0.1,0.9,0.9" for row in range(4)]
    (tmp_path / "t.csv").write_text("path,class_name,x1,y1,x2,y2\n" + "\n".join(lines), encoding="utf-8")
    data = FineDataConfig(table=str(tmp_path / "t.csv"), val_share=0)
    with pytest.raises(
        DataError, match=r"(?s)4 boxes are one pixel or less.*normalised.*0\.png \(t\.csv:2\)"
    ):
        verify_data(TASK, VerifyFineConfig(data=data))
    told = capsys.readouterr().out
    assert "4 images opened, 0 cannot be read" in told
    assert "class  train  test\n-----  -----  ----\na " in told


def test_every_class_is_printed_up_to_30_and_then_both_ends(capsys):
    tell_classes([f"c{n:02}" for n in range(30)], {"train": np.arange(30), "test": np.arange(0)})
    told = capsys.readouterr().out
    assert all(f"c{n:02}" in told for n in range(30))
    assert "test" not in told
    tell_classes([f"c{n:02}" for n in range(31)], {"train": np.arange(31)})
    told = capsys.readouterr().out
    assert [f"c{n:02}" in told for n in (0, 9, 10, 20, 21, 30)] == [True, True, False, False, True, True]
    assert "... 11 more ..." in told
