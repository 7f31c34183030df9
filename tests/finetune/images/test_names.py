"""Class names: what an exported model would refuse is refused before training, by one rule."""

from __future__ import annotations

import pytest

from apps.runtime import metadata
from finetune.errors import DataError
from finetune.images import names
from finetune.images.names import check_class_names


@pytest.mark.parametrize("name", ["tab\tname", "a\nb", "\u202eabc", "a\u200db", "\udce9t", " ", "x" * 201])
def test_a_name_that_nobody_can_read_is_refused(name: str):
    with pytest.raises(DataError, match="class names that are not printable text of 1 to 200 characters: 1;"):
        check_class_names(["robin", name])


def test_names_that_look_alike_are_refused_and_others_pass():
    with pytest.raises(DataError, match="2 class names look like another one"):
        check_class_names(["Great tit", "Great\u00a0tit", "robin"])
    check_class_names(["m\u00e9sange", "Ram C/V Cargo Van Minivan 2012", "\u9ce5", "x" * 200])


def test_exported_models_ask_the_same_rule():
    assert metadata.is_printable is names.is_printable
    assert metadata.looking_alike is names.looking_alike


@pytest.mark.parametrize("pair", [("7", "007"), ("7", "7.0"), ("snowy owl", "snowy  owl"), ("7", "\u0667")])
def test_two_spellings_of_one_number_or_name_are_no_two_classes(pair: tuple[str, str]):
    with pytest.raises(DataError, match="2 class names look like another one"):
        check_class_names([*pair, "robin"])
