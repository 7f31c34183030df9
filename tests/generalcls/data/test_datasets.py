"""The general data sets by name: the digits, the shares, what is refused, and fetching on request alone."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from finetune.errors import DataError, ResourceError, UsageError
from generalcls.config import GeneralDataConfig
from generalcls.data import datasets as general
from generalcls.data.datasets import read_digits, read_general_data
from generalcls.data.image_set import ImageSet
from generalcls.data.mnist import read_mnist
from generalcls.data.synthetic import write_lookalike_cifar, write_lookalike_mnist, write_lookalike_svhn


def _rows(images: np.ndarray) -> set[bytes]:
    return {image.tobytes() for image in images}


def test_the_digits_are_scikit_learns_in_256_levels():
    from sklearn.datasets import load_digits

    reading = read_digits()
    assert reading.train.images.shape == (1797, 8, 8, 1)
    assert np.array_equal(np.rint(reading.train.images[..., 0] * (16 / 255)), load_digits().images)
    assert (reading.train.images.min(), reading.train.images.max()) == (0, 255)
    assert 128 in reading.train.images


def test_the_digits_are_split_once_and_for_all_by_the_split_seed():
    first, again = (read_general_data(GeneralDataConfig()) for _ in range(2))
    other = read_general_data(GeneralDataConfig(split_seed=1))
    assert first.fingerprint == again.fingerprint != other.fingerprint
    assert not _rows(first.train.images) & _rows(first.test.images)
    assert len(first.train) + len(first.test) == 1797
    assert not first.official_test


@pytest.mark.parametrize("name", ["mnist", "cifar10", "cifar100", "svhn"])
def test_every_published_set_is_read_by_name(tmp_path: Path, name: str):
    if name == "mnist":
        write_lookalike_mnist(tmp_path)
    elif name == "svhn":
        write_lookalike_svhn(tmp_path)
    else:
        write_lookalike_cifar(tmp_path, name, 1, 1)  # type: ignore[arg-type]
    config = GeneralDataConfig(name, str(tmp_path))  # type: ignore[arg-type]
    data = read_general_data(replace(config, subset=True))
    assert data.name == name
    assert len(data.class_names) == (100 if name == "cifar100" else 10)
    assert not data.official_test
    with pytest.raises(DataError, match="published"):
        read_general_data(config)


def test_fractions_are_shares_of_every_class_and_are_told(tmp_path: Path):
    write_lookalike_mnist(tmp_path, 8, 4)
    whole, part, more = (
        read_general_data(
            GeneralDataConfig("mnist", str(tmp_path), train_fraction=share, test_fraction=share, subset=True)
        )
        for share in (1.0, 0.25, 0.5)
    )
    assert part.train.class_counts(10).tolist() == [2] * 10
    assert part.test.class_counts(10).tolist() == [1] * 10
    assert _rows(part.train.images) < _rows(more.train.images) < _rows(whole.train.images)
    assert {"0.25 of the train images is used", "0.25 of the test images is used"} <= set(part.notes)
    assert len({whole.fingerprint, part.fingerprint, more.fingerprint}) == 3


def test_a_part_of_the_official_test_images_is_not_the_official_test(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    write_lookalike_mnist(tmp_path)
    reading = replace(read_mnist(str(tmp_path), subset=True), official=True)
    monkeypatch.setattr(general, "read_mnist", lambda root, subset: reading)
    assert read_general_data(GeneralDataConfig("mnist", train_fraction=0.1)).official_test
    assert not read_general_data(GeneralDataConfig("mnist", test_fraction=0.5)).official_test


@pytest.mark.parametrize(
    ("options", "told"),
    [
        ({"name": "mnist", "root": ".", "image_size": 32}, "images of mnist are 28 px"),
        ({"root": "."}, "the digits come with scikit-learn"),
        ({"name": "imagenet", "root": ".", "download": True}, "imagenet cannot be fetched; those that can"),
        ({"name": "svhn", "download": True}, r"say with data\.root where to put svhn"),
        ({"name": "svhn"}, r"say --data\.root FOLDER"),
    ],
)
def test_options_that_cannot_be_are_refused(options: dict[str, Any], told: str):
    with pytest.raises(UsageError, match=told):
        read_general_data(GeneralDataConfig(**options))


class Torchvision:
    """Stands for torchvision's classes: notes what it is asked for, and writes a look-alike."""

    def __init__(self) -> None:
        self.asked: list[tuple[str, dict[str, Any]]] = []

    def __call__(self, root: str, **options: Any) -> None:
        self.asked.append((root, options))
        write_lookalike_mnist(Path(root))
        write_lookalike_svhn(Path(root), extra=3 * (options.get("split") == "extra"))

    split_list = {name: ("", f"{name}_32x32.mat", "") for name in ("train", "test", "extra")}  # noqa: RUF012


@pytest.fixture
def torchvision(monkeypatch: pytest.MonkeyPatch) -> Torchvision:
    stand_in = Torchvision()
    monkeypatch.setattr(general, "_torchvision", lambda name: stand_in)
    return stand_in


def test_nothing_is_fetched_unasked_or_twice(tmp_path: Path, torchvision: Torchvision):
    root = str(tmp_path / "new")
    (tmp_path / "new").mkdir()
    with pytest.raises(DataError, match="MNIST was not found"):
        read_general_data(GeneralDataConfig("mnist", root, subset=True))
    assert torchvision.asked == []
    read_general_data(GeneralDataConfig("mnist", root, download=True, subset=True))
    assert torchvision.asked == [(root, {"download": True})]
    read_general_data(GeneralDataConfig("mnist", root, download=True, subset=True))
    assert len(torchvision.asked) == 1


def test_the_extra_part_of_svhn_is_fetched_where_only_it_is_missing(tmp_path: Path, torchvision: Torchvision):
    write_lookalike_svhn(tmp_path, extra=0)
    config = GeneralDataConfig("svhn", str(tmp_path), download=True)
    assert len(read_general_data(replace(config, subset=True)).train) == 70
    assert [options["split"] for _, options in torchvision.asked] == ["train", "test", "extra"]


def test_a_failed_fetch_says_what_to_do(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    def broken(*args: Any, **options: Any) -> None:
        raise OSError("no route to host")

    monkeypatch.setattr(general, "_torchvision", lambda name: broken)
    with pytest.raises(ResourceError, match=r"not be fetched into.*no route to host; fetch it elsewhere"):
        read_general_data(GeneralDataConfig("mnist", str(tmp_path / "new"), download=True))


def test_checksums_are_torchvisions():
    assert general._checksums("cifar10")["test_batch"] == "40351d587109b95175f43aff81a1287e"
    assert set(general._checksums("cifar100")) == {"train", "test", "meta"}
    assert set(general._checksums("svhn")) == {f"{part}_32x32.mat" for part in ("train", "test", "extra")}


@pytest.mark.parametrize(
    ("names", "told"),
    [(("a",), r"two classes or more; found 1 \(a\)"), (("a", "b"), r"no training image:\n  b")],
)
def test_too_few_classes_and_classes_without_pictures_are_told_apart(names: tuple[str, ...], told: str):
    some = ImageSet(np.zeros((2, 4, 4, 1), np.uint8), np.zeros(2, np.int64))
    with pytest.raises(DataError, match=told):
        general._check_parts("folders", replace(read_digits(), class_names=names), some, some)
