"""CIFAR's python batches: against torchvision's reader, checksums first, and what a pickle may not do."""

from __future__ import annotations

import hashlib
import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from finetune.errors import DataError
from generalcls.data.cifar import read_cifar
from generalcls.data.synthetic import write_lookalike_cifar

FOLDER = "cifar-10-batches-py"


class Harmful:
    """An object whose pickle runs a program when it is loaded."""

    def __init__(self, file: Path) -> None:
        self.file = file

    def __reduce__(self) -> tuple[Any, tuple[str]]:
        import os

        return os.mkdir, (str(self.file),)


def _checksums(folder: Path) -> dict[str, str]:
    return {file.name: hashlib.md5(file.read_bytes()).hexdigest() for file in folder.iterdir()}


def _rewrite(file: Path, **changes: Any) -> None:
    batch = pickle.loads(file.read_bytes())
    file.write_bytes(pickle.dumps(batch | changes, protocol=2))


def _read(root: Path) -> None:
    read_cifar("cifar10", str(root), dict, subset=True)


def test_torchvision_reads_the_same(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    from torchvision.datasets import CIFAR10

    write_lookalike_cifar(tmp_path)
    sums = _checksums(tmp_path / FOLDER)
    monkeypatch.setattr(
        CIFAR10, "train_list", [[f"data_batch_{n}", sums[f"data_batch_{n}"]] for n in range(1, 6)]
    )
    monkeypatch.setattr(CIFAR10, "test_list", [["test_batch", sums["test_batch"]]])
    monkeypatch.setattr(CIFAR10, "meta", {**CIFAR10.meta, "md5": sums["batches.meta"]})
    theirs = CIFAR10(str(tmp_path), train=True)
    reading = read_cifar("cifar10", str(tmp_path), dict, subset=True)
    assert np.array_equal(theirs.data, reading.train.images)
    assert theirs.targets == reading.train.target.tolist()
    assert theirs.classes == list(reading.class_names)


def test_the_published_checksums_are_asked_for_before_anything_is_unpickled(tmp_path: Path):
    write_lookalike_cifar(tmp_path)
    sums = _checksums(tmp_path / FOLDER)
    (tmp_path / FOLDER / "data_batch_3").write_bytes(pickle.dumps(Harmful(tmp_path / "harm")))
    with pytest.raises(DataError, match=r"cifar-10-batches-py: data_batch_3 differ from the published files"):
        read_cifar("cifar10", str(tmp_path), lambda: sums)


def test_a_pickle_that_would_run_a_program_is_refused_and_runs_nothing(tmp_path: Path):
    write_lookalike_cifar(tmp_path)
    file = tmp_path / FOLDER / "test_batch"
    file.write_bytes(pickle.dumps(Harmful(tmp_path / "harm")))
    with pytest.raises(DataError, match=r"test_batch is no whole batch.*it wants to import posix\.mkdir"):
        _read(tmp_path)
    assert not (tmp_path / "harm").exists()


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"data": np.zeros((10, 1024), np.uint8)}, r"uint8 \(N, 3072\), got uint8 \(10, 1024\)"),
        ({"data": np.zeros((10, 3072), np.int64)}, r"uint8 \(N, 3072\), got int64"),
        ({"labels": [0] * 9}, "10 images and 9 labels"),
        ({"labels": [0] * 9 + [10]}, "row 9: 10"),
        ({"labels": [[0]] * 9 + [[0, 1]]}, "labels are no array but lists of unequal lengths"),
        ({"data": [[0] * 3072] * 9 + [[0]]}, "data are no array but lists of unequal lengths"),
    ],
)
def test_batches_of_other_shapes_and_labels_are_refused(tmp_path: Path, changes: dict[str, Any], told: str):
    write_lookalike_cifar(tmp_path)
    _rewrite(tmp_path / FOLDER / "data_batch_2", **changes)
    with pytest.raises(DataError, match=f"(?s)data_batch_2.*{told}"):
        _read(tmp_path)


def test_a_cut_a_foreign_and_a_missing_batch_are_refused(tmp_path: Path):
    write_lookalike_cifar(tmp_path)
    file = tmp_path / FOLDER / "data_batch_4"
    whole = file.read_bytes()
    file.write_bytes(whole[: len(whole) // 2])
    with pytest.raises(DataError, match="data_batch_4 is no whole batch"):
        _read(tmp_path)
    file.write_bytes(pickle.dumps([1, 2]))
    with pytest.raises(DataError, match="data_batch_4 holds no dictionary but list"):
        _read(tmp_path)
    file.write_bytes(pickle.dumps({"data": 1, "fine_labels": []}))
    with pytest.raises(DataError, match="data_batch_4 has no labels; found data, fine_labels"):
        _read(tmp_path)
    file.unlink()
    with pytest.raises(DataError, match="data_batch_4 cannot be read"):
        _read(tmp_path)


def test_another_order_of_the_classes_is_refused(tmp_path: Path):
    write_lookalike_cifar(tmp_path)
    names = ["automobile", "airplane", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck"]
    _rewrite(tmp_path / FOLDER / "batches.meta", label_names=names)
    with pytest.raises(DataError, match=r"batches\.meta.*label 0 is automobile, not airplane"):
        _read(tmp_path)


@pytest.mark.parametrize("names", [None, 5, "cat", [["cat"]], [np.zeros(2)]])
def test_class_names_that_are_no_list_of_texts_are_refused(tmp_path: Path, names: Any):
    write_lookalike_cifar(tmp_path)
    file = tmp_path / FOLDER / "batches.meta"
    file.write_bytes(pickle.dumps({"label_names": names}, protocol=2))
    with pytest.raises(DataError, match=r"batches\.meta.*its class names are no list of texts but"):
        _read(tmp_path)


def test_a_changed_batch_tells_what_to_say_where_a_part_is_meant(tmp_path: Path):
    write_lookalike_cifar(tmp_path)
    with pytest.raises(DataError, match=r"are meant to be a part.*say --data\.subset true"):
        read_cifar("cifar10", str(tmp_path), dict)


def test_a_folder_without_its_first_batch_is_found_and_the_batch_named(tmp_path: Path):
    write_lookalike_cifar(tmp_path)
    (tmp_path / FOLDER / "data_batch_1").unlink()
    with pytest.raises(DataError, match="data_batch_1 cannot be read"):
        _read(tmp_path)
