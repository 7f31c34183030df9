"""The class lists: their sizes, order, and the refusal of another one."""

from __future__ import annotations

from pathlib import Path

import pytest

from finetune.errors import DataError
from generalcls.data.cifar_classes import CIFAR10_CLASSES, CIFAR100_CLASSES, check_class_names


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
