from __future__ import annotations

from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest

from generalcls.config import GeneralDataConfig, GeneralTrainConfig
from generalcls.data.datasets import read_general_data
from generalcls.data.image_set import ImageSet
from generalcls.report import guessing, notes, train_text


def test_guessing_is_the_commonest_training_class_on_the_test_images():
    data = read_general_data(GeneralDataConfig())
    pictures = data.test.images[:4]
    train, test = (
        ImageSet(pictures, np.array(target, dtype=np.int64)) for target in ([3, 3, 3, 1], [3, 1, 2, 3])
    )
    assert guessing(replace(data, train=train, test=test)) == 50


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
        "30 epochs, batch 64, rmsprop, learning rate 0.05 (divided by 1 + 1e-06 step), weight decay 0.0001, "
        "shift and mirror."
    )
    assert "times 0.1 after 50 %, 75 % of the steps" in train_text(GeneralTrainConfig())
