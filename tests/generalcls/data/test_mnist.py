"""MNIST's idx files: packed or not, against torchvision's reader, and each way in which they may be wrong."""

from __future__ import annotations

import gzip
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from finetune.errors import DataError
from generalcls.data.mnist import read_mnist
from generalcls.data.synthetic import idx_bytes, write_lookalike_mnist

IMAGES, LABELS = "train-images-idx3-ubyte.gz", "train-labels-idx1-ubyte.gz"


@pytest.mark.parametrize("packed", [True, False])
def test_both_forms_give_the_pictures_and_labels_that_were_written(tmp_path: Path, packed: bool):
    train, test = write_lookalike_mnist(tmp_path, packed=packed)
    before = sorted((tmp_path / "MNIST/raw").iterdir())
    reading = read_mnist(str(tmp_path), subset=True)
    assert reading.test is not None
    for found, wrote in ((reading.train, train), (reading.test, test)):
        assert np.array_equal(found.images, wrote.images)
        assert np.array_equal(found.target, wrote.target)
    assert not reading.official
    assert "no published score" in reading.notes[0]
    assert sorted((tmp_path / "MNIST/raw").iterdir()) == before


def test_torchvision_reads_the_same(tmp_path: Path):
    from torchvision.datasets import MNIST

    write_lookalike_mnist(tmp_path, packed=False)
    reading = read_mnist(str(tmp_path), subset=True)
    theirs = MNIST(str(tmp_path), train=True)
    assert np.array_equal(theirs.data.numpy(), reading.train.images[..., 0])
    assert np.array_equal(theirs.targets.numpy(), reading.train.target)


def test_another_data_set_of_the_same_form_is_refused(tmp_path: Path):
    write_lookalike_mnist(tmp_path)
    with pytest.raises(DataError, match=r"60 of 60000 training.*checksums.*train-images-idx3-ubyte\.gz"):
        read_mnist(str(tmp_path))


def _packed(change: Callable[[bytes], bytes]) -> Callable[[bytes], bytes]:
    return lambda content: gzip.compress(change(gzip.decompress(content)))


@pytest.mark.parametrize(
    ("name", "damage", "told"),
    [
        (IMAGES, lambda content: content[:-50], "cannot be read"),
        (IMAGES, lambda content: b"<html>", "cannot be read"),
        (IMAGES, _packed(lambda content: content[:-1]), r"cut short.*60 x 28 x 28.*47039 follow"),
        (IMAGES, _packed(lambda content: content + b"x"), "cut short or damaged"),
        (IMAGES, _packed(lambda content: content[:6]), "cut short or damaged"),
        (
            IMAGES,
            _packed(lambda content: b"\0\0\x0d" + content[3:]),
            "00 00 0d 03, not 00 00 08 03",
        ),
        (IMAGES, _packed(lambda content: b""), "starts with nothing"),
        (
            IMAGES,
            _packed(lambda content: idx_bytes(np.zeros((60, 20, 28), np.uint8))),
            "got 20 x 28",
        ),
        (LABELS, _packed(lambda content: content[:-1] + b"\x0a"), r"row 59: 10"),
        (LABELS, _packed(lambda content: idx_bytes(np.zeros(59, np.uint8))), "60 images.*59 labels"),
        (LABELS, _packed(lambda content: idx_bytes(np.zeros((6, 10), np.uint8))), "00 00 08 02"),
    ],
)
def test_damage_is_refused_with_the_files_name(
    tmp_path: Path, name: str, damage: Callable[[bytes], bytes], told: str
):
    write_lookalike_mnist(tmp_path)
    file = tmp_path / "MNIST/raw" / name
    file.write_bytes(damage(file.read_bytes()))
    with pytest.raises(DataError, match=told) as caught:
        read_mnist(str(tmp_path), subset=True)
    assert name in str(caught.value)


def test_a_missing_file_is_named(tmp_path: Path):
    write_lookalike_mnist(tmp_path)
    (tmp_path / "MNIST/raw" / LABELS).unlink()
    with pytest.raises(DataError, match=r"train-labels-idx1-ubyte \(or train-.*\.gz\) is missing"):
        read_mnist(str(tmp_path), subset=True)


@pytest.mark.real_data
def test_the_real_files_are_the_published_ones(real_data: Path):
    reading = read_mnist(str(real_data / "mnist"))
    assert reading.official
    assert reading.notes == ()
    assert reading.train.images.shape == (60000, 28, 28, 1)
    assert reading.train.target[:5].tolist() == [5, 0, 4, 1, 9]
    assert reading.test is not None
    assert reading.test.class_counts(10).tolist() == [980, 1135, 1032, 1010, 982, 892, 958, 1028, 974, 1009]
