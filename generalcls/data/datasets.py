"""The general data sets by name: read, checked, cut to the fractions asked for, and given a fingerprint."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any, Literal

import numpy as np

from finetune.errors import DataError, ResourceError, UsageError, listing
from finetune.images.cells import near_notice
from finetune.images.names import check_class_names
from generalcls.config import GeneralDataConfig
from generalcls.data.cifar import read_cifar
from generalcls.data.class_folders import read_imagenet, read_own_folders
from generalcls.data.image_set import GeneralData, ImageSet, Reading, fingerprint
from generalcls.data.mnist import read_mnist
from generalcls.data.subsets import share_rows, split_rows
from generalcls.data.svhn import read_svhn

SIZES = {"digits": 8, "mnist": 28, "cifar10": 32, "cifar100": 32, "svhn": 32}
FETCHED = {"mnist": "MNIST", "cifar10": "CIFAR10", "cifar100": "CIFAR100", "svhn": "SVHN"}
DIGITS_MAX = 16

__all__ = ["GeneralData", "ImageSet", "read_digits", "read_general_data"]


def read_general_data(config: GeneralDataConfig, cache: str = "auto") -> GeneralData:
    """Return a general data set as two parts of uint8 images.

    Fractions are taken class by class, by `split_seed` alone: every run with the same configuration learns
    from and is tested on the same images, whatever its loss and seed.

    Args:
        config: which data set, from where, how much of it.
        cache: where decoded images of imagenet and folders are kept: auto (the user's cache folder), none,
            or a folder.

    Returns:
        The parts, class names, fingerprint, and notes that belong beside every result.

    Raises:
        UsageError: a folder, size or download that the data set cannot have.
        DataError: files that are missing, damaged, or not what they should be; a class without an image to
            learn from.

    >>> data = read_general_data(GeneralDataConfig())
    >>> len(data.train), len(data.test), data.train.images.shape[1:]
    (1347, 450, (8, 8, 1))

    Source: each reader names its own.
    """
    _check_options(config)
    reading = _read(config, cache)
    notes = list(reading.notes)
    if reading.test is None:
        at = split_rows(reading.train.target, config.test_share, config.split_seed, reading.class_names)
        parts = reading.train.select(at[0]), reading.train.select(at[1])
        notes.append(
            f"{config.test_share:g} of each class is tested, drawn by split_seed {config.split_seed}"
        )
    else:
        parts = reading.train, reading.test
    fractions = {"train": config.train_fraction, "test": config.test_fraction}
    rows = [
        share_rows(part.target, fraction, config.split_seed, name)
        for part, (name, fraction) in zip(parts, fractions.items(), strict=True)
    ]
    train, test = (part.select(at) for part, at in zip(parts, rows, strict=True))
    notes += [f"{share:g} of the {name} images is used" for name, share in fractions.items() if share < 1]
    _check_parts(config.name, reading, train, test)
    notes += near_notice("classes", reading.class_names)
    official = reading.official and config.test_fraction == 1
    digest = fingerprint(reading, train, test, (rows[0], rows[1]))
    return GeneralData(config.name, train, test, reading.class_names, digest, official, tuple(notes))


def read_digits() -> Reading:
    """Return scikit-learn's 1,797 handwritten digits, grey, 8 x 8, without a test part.

    Their values 0 to 16 are spread over 0 to 255 and rounded: 8 becomes 128.

    Source: E. Alpaydin and C. Kaynak, Optical Recognition of Handwritten Digits, UCI, 1998 (its test part).
    """
    from sklearn.datasets import load_digits

    loaded = load_digits()
    images = np.floor(loaded.images * (255 / DIGITS_MAX) + 0.5).astype(np.uint8)[..., None]
    whole = ImageSet(images, loaded.target.astype(np.int64))
    return Reading(whole, None, tuple(str(name) for name in loaded.target_names), official=False)


def _check_options(config: GeneralDataConfig) -> None:
    own = SIZES.get(config.name)
    if own is not None and config.image_size not in (None, own):
        raise UsageError(
            f"data.image_size {config.image_size}: images of {config.name} are {own} px; leave it out"
        )
    if config.name == "digits" and config.root is not None:
        raise UsageError("data.root: the digits come with scikit-learn; leave it out, or say data.name")
    if config.download and config.name not in FETCHED:
        raise UsageError(
            f"data.download: {config.name} cannot be fetched; those that can are {', '.join(FETCHED)}"
        )
    if config.download and config.root is None:
        raise UsageError(f"data.download: say with data.root where to put {config.name}")


def _read(config: GeneralDataConfig, cache: str) -> Reading:
    if config.name == "digits":
        return read_digits()
    if config.name == "imagenet":
        return read_imagenet(config, cache)
    if config.name == "folders":
        return read_own_folders(config, cache)
    if config.download:
        try:
            return _read_published(config, whole=True)
        except DataError:
            _fetch(config)
    return _read_published(config)


def _read_published(config: GeneralDataConfig, *, whole: bool = False) -> Reading:
    """Read what lies there; with `whole` an extra part that is wanted must be there too."""
    checksums = partial(_checksums, config.name)
    if config.name == "mnist":
        return read_mnist(config.root, subset=config.subset)
    if config.name == "svhn":
        extra: bool | Literal["required"] = "required" if config.extra and whole else config.extra
        return read_svhn(config.root, checksums, extra=extra, subset=config.subset)
    assert config.name in ("cifar10", "cifar100")
    return read_cifar(config.name, config.root, checksums, subset=config.subset)


def _checksums(name: str) -> Mapping[str, str]:
    """Return the published MD5 by file name, as torchvision's dataset classes hold them."""
    source = _torchvision(name)
    if name == "svhn":
        return {file: checksum for _, file, checksum in source.split_list.values()}
    listed = {file: checksum for file, checksum in (*source.train_list, *source.test_list)}
    return listed | {source.meta["filename"]: source.meta["md5"]}


def _fetch(config: GeneralDataConfig) -> None:
    """Let torchvision fetch and check what is not there; it leaves alone what is whole."""
    source, root = _torchvision(config.name), Path(str(config.root))
    splits = ("train", "test", *(["extra"] if config.extra else []))
    options: list[dict[str, Any]] = [{}]
    if config.name == "svhn":
        options = [{"split": split} for split in splits]
    try:
        root.mkdir(parents=True, exist_ok=True)
        for chosen in options:
            source(str(root), download=True, **chosen)
    except (OSError, RuntimeError) as error:
        raise ResourceError(
            f"{config.name} could not be fetched into {root}: {error}; fetch it elsewhere and place it there"
        ) from error


def _torchvision(name: str) -> Any:
    """Return torchvision's dataset class."""
    from torchvision import datasets

    classes = {
        "MNIST": datasets.MNIST,
        "CIFAR10": datasets.CIFAR10,
        "CIFAR100": datasets.CIFAR100,
        "SVHN": datasets.SVHN,
    }
    return classes[FETCHED[name]]


def _check_parts(name: str, reading: Reading, train: ImageSet, test: ImageSet) -> None:
    check_class_names(reading.class_names)
    counts = train.class_counts(len(reading.class_names))
    empty = [reading.class_names[label] for label in np.flatnonzero(counts == 0).tolist()]
    if len(reading.class_names) < 2:
        only = "".join(f" ({name})" for name in reading.class_names)
        raise DataError(f"{name}: a study needs two classes or more; found {len(reading.class_names)}{only}")
    if empty:
        raise DataError(f"{name}: these classes have no training image:\n{listing(empty)}")
    if not len(test):
        raise DataError(f"{name}: there is no test image; a study is tested on images of its own")
