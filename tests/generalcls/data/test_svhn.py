"""SVHN's .mat files: label 10, the axes' order, the extra part, and files that are not whole."""

from __future__ import annotations

import hashlib
from pathlib import Path

import numpy as np
import pytest
from scipy.io import savemat

from finetune.errors import DataError
from generalcls.data.svhn import FILES, read_svhn
from generalcls.data.synthetic import write_lookalike_svhn

PIXELS = np.zeros((32, 32, 3, 5), np.uint8)


def _sums(root: Path):
    return lambda: {file.name: hashlib.md5(file.read_bytes()).hexdigest() for file in root.iterdir()}


def _nothing() -> dict[str, str]:
    return dict.fromkeys(FILES.values(), "")


def test_what_was_written_is_read_and_the_extra_part_joins_training(tmp_path: Path):
    wrote = write_lookalike_svhn(tmp_path)
    reading = read_svhn(str(tmp_path), _sums(tmp_path), subset=True)
    assert reading.test is not None
    assert np.array_equal(reading.test.images, wrote["test"].images)
    assert np.array_equal(reading.test.target, wrote["test"].target)
    assert len(reading.train) == len(wrote["train"]) + len(wrote["extra"])
    assert np.array_equal(reading.train.images[: len(wrote["train"])], wrote["train"].images)
    assert np.array_equal(reading.train.target[len(wrote["train"]) :], wrote["extra"].target)
    assert set(reading.test.target.tolist()) == set(range(10))


def test_torchvision_reads_the_same(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    from torchvision.datasets import SVHN

    write_lookalike_svhn(tmp_path)
    monkeypatch.setattr(SVHN, "_check_integrity", lambda self: True)
    theirs = SVHN(str(tmp_path), split="test")
    reading = read_svhn(str(tmp_path), _nothing, subset=True)
    assert reading.test is not None
    assert np.array_equal(theirs.data.transpose(0, 2, 3, 1), reading.test.images)
    assert np.array_equal(theirs.labels, reading.test.target)


def test_the_extra_part_is_optional_and_its_absence_is_told(tmp_path: Path):
    wrote = write_lookalike_svhn(tmp_path, extra=0)
    reading = read_svhn(str(tmp_path), _nothing, subset=True)
    assert len(reading.train) == len(wrote["train"])
    assert "extra_32x32.mat is not there: training is on the training part alone" in reading.notes[0]
    with pytest.raises(DataError, match=r"extra_32x32\.mat cannot be read"):
        read_svhn(str(tmp_path), _nothing, extra="required", subset=True)


def test_the_extra_part_can_be_left_out(tmp_path: Path):
    wrote = write_lookalike_svhn(tmp_path)
    reading = read_svhn(str(tmp_path), _nothing, extra=False, subset=True)
    assert len(reading.train) == len(wrote["train"])
    assert "left out" in reading.notes[0]


def test_other_files_than_the_published_ones_are_refused(tmp_path: Path):
    write_lookalike_svhn(tmp_path)
    with pytest.raises(DataError, match=r"70 of 604388 training.*checksums.*train_32x32\.mat"):
        read_svhn(str(tmp_path), _nothing)


@pytest.mark.parametrize(
    ("content", "told"),
    [
        ({"X": PIXELS, "y": np.array([[0], [1], [2], [3], [4]])}, r"row 0: 0"),
        ({"X": PIXELS, "y": np.array([[11], [1], [2], [3], [4]])}, r"row 0: 11"),
        ({"X": PIXELS, "y": np.ones((4, 1))}, "5 images and 4 labels"),
        ({"X": PIXELS.transpose(3, 0, 1, 2), "y": np.ones((5, 1))}, r"\(32, 32, 3, N\), got uint8 \(5, 32"),
        ({"X": PIXELS.astype(np.float32), "y": np.ones((5, 1))}, "got float32"),
        ({"digitStruct": np.ones(3)}, "no variable X and no y; is it of the full-number format"),
    ],
)
def test_wrong_variables_are_refused_with_the_files_name(
    tmp_path: Path, content: dict[str, np.ndarray], told: str
):
    write_lookalike_svhn(tmp_path)
    savemat(tmp_path / FILES["test"], content)
    with pytest.raises(DataError, match=f"(?s)test_32x32.mat.*{told}"):
        read_svhn(str(tmp_path), _nothing, subset=True)


def test_a_cut_a_missing_and_a_newer_file_are_refused(tmp_path: Path):
    write_lookalike_svhn(tmp_path)
    file = tmp_path / FILES["test"]
    file.write_bytes(file.read_bytes()[:5000])
    with pytest.raises(DataError, match=r"test_32x32\.mat is no whole \.mat file"):
        read_svhn(str(tmp_path), _nothing, subset=True)
    file.write_bytes(b"MATLAB 7.3 MAT-file".ljust(124) + b"\x00\x02IM" + bytes(400))
    with pytest.raises(DataError, match=r"version 7\.3"):
        read_svhn(str(tmp_path), _nothing, subset=True)
    file.unlink()
    with pytest.raises(DataError, match=r"test_32x32\.mat cannot be read"):
        read_svhn(str(tmp_path), _nothing, subset=True)
