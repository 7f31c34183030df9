from __future__ import annotations

from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest

from finetune.study.cells import Cell
from generalcls.config import GeneralDataConfig, GeneralTrainConfig
from generalcls.data import read_general_data
from generalcls.image_set import ImageSet
from generalcls.report import at_chance, guessing, notes, train_text


def cell(arm: str, accuracy: float | None, seed: int = 0) -> Cell:
    return Cell(arm, seed, {"accuracy": accuracy}, [], None, None, 1.0, 1.0, "cpu")


def test_guessing_is_the_commonest_training_class_on_the_test_images():
    data = read_general_data(GeneralDataConfig())
    pictures = data.test.images[:4]
    train, test = (
        ImageSet(pictures, np.array(target, dtype=np.int64)) for target in ([3, 3, 3, 1], [3, 1, 2, 3])
    )
    assert guessing(replace(data, train=train, test=test)) == 50


def test_a_study_in_which_nothing_was_learned_says_so():
    nothing = [cell("cel", 20.0), cell("crl", 20.5), cell("crl", 19.5, seed=1)]
    assert "nothing was learned" in at_chance(nothing, 20.0)
    assert at_chance([*nothing, cell("focal", 30.0)], 20.0) == ""
    assert "nothing was learned" in at_chance([cell("cel", None)], 20.0)


@pytest.mark.parametrize(("official", "fraction"), [(True, 1.0), (False, 0.5)])
def test_notes_tell_parts_of_the_data(official: bool, fraction: float):
    data = replace(read_general_data(GeneralDataConfig()), official_test=official, notes=("a *note*",))
    config = SimpleNamespace(data=GeneralDataConfig(train_fraction=fraction))
    found = notes(SimpleNamespace(data=data, config=config))  # type: ignore[arg-type]
    assert found[0] == "a \\*note\\*"
    assert any("no score can be set beside" in note for note in found) is not official
    assert any("a part of the training images" in note for note in found) is (fraction < 1)


def test_the_training_is_told_in_a_line():
    told = train_text(
        GeneralTrainConfig(augment="shift_flip", schedule="inverse", decay=1e-6, optimizer="rmsprop")
    )
    assert told == (
        "30 epochs, batch 64, rmsprop, rate 0.05 (divided by 1 + 1e-06 step), weight decay 0.0001, shift and "
        "mirror."
    )
    assert "times 0.1 after 50 %, 75 % of the steps" in train_text(GeneralTrainConfig())
