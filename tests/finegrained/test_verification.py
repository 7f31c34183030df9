"""What `crl fine verify` counts, opens, finds and writes."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from finegrained.config import FineDataConfig
from finegrained.dataset import read_fine_data
from finegrained.lookalike import write_lookalike_cub
from finegrained.verification import verify_fine_data
from finetune.errors import DataError, UsageError


@pytest.fixture
def birds(tmp_path: Path) -> Path:
    write_lookalike_cub(tmp_path / "birds", classes=3, per_class=10, image_size=32)
    return tmp_path / "birds"


def _config(root: Path, **options: object) -> FineDataConfig:
    return FineDataConfig(root=str(root), subset=True, **options)  # type: ignore[arg-type]


def test_counts_are_printed_and_returned(birds: Path, capsys: pytest.CaptureFixture[str]):
    result = verify_fine_data(_config(birds))
    assert [result[name] for name in ("images", "classes", "train", "test")] == [30, 3, 18, 12]
    assert result["parts"] == {"train": 16, "val": 2, "test": 12}
    assert result["per_class"] == {"min": 10, "median": 10.0, "max": 10}
    assert (result["bad_images"], result["duplicate_contents"]) == ({}, [])
    shown = capsys.readouterr().out
    assert "30 images, 3 classes, 18 train, 12 test" in shown
    assert "30 pictures opened, 0 cannot be read" in shown
    json.dumps(result)


def test_metadata_need_no_pictures(birds: Path, capsys: pytest.CaptureFixture[str]):
    shutil.rmtree(birds / "images")
    result = verify_fine_data(_config(birds, metadata_only=True))
    assert (result["images"], result["missing_images"]) == (30, None)
    assert "opened" not in capsys.readouterr().out


def test_a_quick_look_opens_nothing(birds: Path):
    next(birds.glob("images/*/*.jpg")).write_bytes(b"no picture")
    assert "bad_images" not in verify_fine_data(_config(birds), quick=True)


def test_unreadable_pictures_are_listed_and_refused_unless_they_are_to_be_skipped(birds: Path):
    bad = sorted(birds.glob("images/*/*.jpg"))[:2]
    bad[0].write_bytes(b"")
    bad[1].write_bytes(bad[1].read_bytes()[:200])
    with pytest.raises(DataError, match=r"(?s)2 of 30 pictures cannot be read.*skip_bad"):
        verify_fine_data(_config(birds))
    result = verify_fine_data(_config(birds, skip_bad=True))
    assert sorted(result["bad_images"]) == sorted(map(str, bad))


def test_missing_pictures_are_counted_and_the_others_opened(birds: Path, capsys: pytest.CaptureFixture[str]):
    sorted(birds.glob("images/*/*.jpg"))[3].unlink()
    result = verify_fine_data(_config(birds))
    assert (result["images"], result["missing_images"]) == (30, 1)
    shown = capsys.readouterr().out
    assert "29 pictures opened" in shown
    assert "training stops" in shown


def test_no_picture_at_all_is_said(birds: Path, capsys: pytest.CaptureFixture[str]):
    shutil.rmtree(birds / "images")
    assert "bad_images" not in verify_fine_data(_config(birds))
    assert "no picture is there" in capsys.readouterr().out


def test_equal_pictures_across_parts_are_told_although_another_is_missing(
    birds: Path, capsys: pytest.CaptureFixture[str]
):
    manifest = read_fine_data(_config(birds)).manifest
    split = manifest["split"].tolist()
    learned, tested = split.index("train"), split.index("test")
    manifest.file(split.index("test", tested + 1)).unlink()
    shutil.copy(manifest.file(learned), manifest.file(tested))
    pair = [str(manifest["path"][row]) for row in (learned, tested)]
    assert verify_fine_data(_config(birds))["duplicate_contents"] == [pair]
    assert " = ".join(pair) in capsys.readouterr().out
    with pytest.raises(DataError, match="same bytes"):
        verify_fine_data(_config(birds, same_content="error"))


@pytest.mark.parametrize("suffix", [".csv", ".parquet"])
def test_the_written_table_is_the_same_data_and_the_same_split(birds: Path, tmp_path: Path, suffix: str):
    target = tmp_path / f"table{suffix}"
    first = verify_fine_data(_config(birds), quick=True, write=str(target))
    second = verify_fine_data(FineDataConfig(table=str(target), root=str(birds)))
    assert first["table"] == str(target)
    assert (first["manifest"], first["split"]) == (second["manifest"], second["split"])


def test_a_table_of_another_kind_is_refused_before_anything_is_read(tmp_path: Path):
    with pytest.raises(UsageError, match=r"\.csv or \.parquet"):
        verify_fine_data(FineDataConfig(root=str(tmp_path / "gone")), write="table.xlsx")


@pytest.mark.real_data
def test_the_real_metadata_are_the_official_ones(real_data: Path, capsys: pytest.CaptureFixture[str]):
    root = real_data / "cub_meta/CUB_200_2011"
    result = verify_fine_data(FineDataConfig(root=str(root), metadata_only=True))
    assert result["parts"] == {"train": 5395, "val": 599, "test": 5794}
    assert "11788 images, 200 classes, 5994 train, 5794 test" in capsys.readouterr().out
