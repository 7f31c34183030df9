"""CIFAR-10 and CIFAR-100 in both layouts: what was written is read, and neither is taken for the other."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from finetune.errors import DataError
from generalcls.data.cifar import CIFAR10_CLASSES, CIFAR100_CLASSES, CIFARS, CifarName, read_cifar
from generalcls.data.image_set import check_class_names
from generalcls.data.synthetic import write_lookalike_cifar

NAMES: tuple[CifarName, ...] = ("cifar10", "cifar100")


@pytest.mark.parametrize("layout", ["python", "parquet"])
@pytest.mark.parametrize("name", NAMES)
def test_what_was_written_is_read(tmp_path: Path, name: CifarName, layout: str):
    train, test = write_lookalike_cifar(tmp_path, name, 1, 1, layout=layout)
    reading = read_cifar(name, str(tmp_path), dict, subset=True)
    assert reading.test is not None
    for found, wrote in ((reading.train, train), (reading.test, test)):
        assert np.array_equal(found.images, wrote.images)
        assert np.array_equal(found.target, wrote.target)
    assert reading.class_names == CIFARS[name].class_names
    assert not reading.official


@pytest.mark.parametrize("layout", ["python", "parquet"])
def test_fewer_pictures_than_published_are_refused(tmp_path: Path, layout: str):
    write_lookalike_cifar(tmp_path, layout=layout)
    with pytest.raises(DataError, match=r"differ from the published files|50 of 50000 training"):
        read_cifar("cifar10", str(tmp_path), dict)


def test_the_original_batches_are_preferred_to_a_copy(tmp_path: Path):
    write_lookalike_cifar(tmp_path, layout="parquet")
    write_lookalike_cifar(tmp_path, layout="python")
    reading = read_cifar("cifar10", str(tmp_path), dict, subset=True)
    assert "holds it as parquet too; python batches is read" in reading.notes[0]


def test_the_other_cifar_is_not_taken_for_this_one(tmp_path: Path):
    write_lookalike_cifar(tmp_path, "cifar100", 1, 1, layout="parquet")
    with pytest.raises(DataError, match="no column label; found img, fine_label: is it the other CIFAR"):
        read_cifar("cifar10", str(tmp_path / "cifar100"), dict, subset=True)


def test_nothing_there_says_what_to_place_where(tmp_path: Path):
    (tmp_path / "set").mkdir()
    with pytest.raises(
        DataError, match=r"cifar-10-batches-py/data_batch_1(.|\n)*plain_text/train-00000-of-00001"
    ):
        read_cifar("cifar10", str(tmp_path / "set"), dict)


@pytest.mark.exhaustive
@pytest.mark.real_data
def test_the_real_parquet_copy_is_whole_and_balanced(real_data: Path):
    reading = read_cifar("cifar10", str(real_data / "cifar10"), dict)
    assert reading.test is not None
    assert reading.train.class_counts(10).tolist() == [5000] * 10
    assert reading.test.class_counts(10).tolist() == [1000] * 10
    assert reading.train.images.shape[1:] == (32, 32, 3)
    assert not reading.official
    assert "JPEG" in reading.notes[0]


def test_both_lists_are_whole_and_alphabetical():
    for names, size in ((CIFAR10_CLASSES, 10), (CIFAR100_CLASSES, 100)):
        assert len(set(names)) == size
        assert list(names) == sorted(names)


def test_a_shorter_list_and_another_name_are_refused():
    check_class_names(list(CIFAR10_CLASSES), CIFAR10_CLASSES, Path("meta"))
    with pytest.raises(DataError, match=r"meta does not list.*9 classes, not 10"):
        check_class_names(CIFAR10_CLASSES[:9], CIFAR10_CLASSES, Path("meta"))
    with pytest.raises(DataError, match="label 1 is car, not automobile"):
        check_class_names(("airplane", "car"), CIFAR10_CLASSES, Path("meta"))


@pytest.mark.parametrize("found", [None, 5, "airplane", {"0": "airplane"}, [0, 1]])
def test_what_is_no_list_of_texts_is_refused(found: object):
    with pytest.raises(DataError, match=r"meta does not list.*no list of texts but"):
        check_class_names(found, CIFAR10_CLASSES, Path("meta"))


def test_a_parquet_file_that_is_not_read_is_told(tmp_path: Path):
    write_lookalike_cifar(tmp_path, layout="parquet")
    (file,) = tmp_path.rglob("train-*.parquet")
    file.with_name("train-00001-of-00002.parquet").write_bytes(file.read_bytes())
    notes = read_cifar("cifar10", str(tmp_path), dict, subset=True).notes
    assert "other parquet files are not read: train-00001-of-00002.parquet" in notes
