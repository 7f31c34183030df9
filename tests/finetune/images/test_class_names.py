"""Class names compared exactly but for the slash, labels moved by name, names for people."""

from __future__ import annotations

import pytest

from finetune.errors import DataError
from finetune.images.class_names import class_map, display_name


def test_labels_move_by_name_and_a_nearly_equal_name_is_no_match():
    assert class_map(["b", "C-V"], ["C/V", "a", "b"]).tolist() == [2, 0]
    with pytest.raises(DataError, match="Chevrolet Express Van"):
        class_map(["Chevrolet Express Van 2007"], ["Chevrolet Express Cargo Van 2007"])


def test_two_names_that_differ_in_the_slash_alone_are_refused():
    with pytest.raises(DataError, match="rename one"):
        class_map(["a"], ["a", "C/V", "C-V"])


def test_display_names_lose_the_number_and_the_underscores_only():
    assert display_name("010.Red_winged_Blackbird") == "Red winged Blackbird"
    assert display_name("Audi 100 Sedan 1994") == "Audi 100 Sedan 1994"
