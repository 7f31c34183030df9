"""Which options of other data a task takes, and which of its images models are shown."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from agecls.config import AgeDataConfig
from finegrained.config import FineDataConfig
from finetune.errors import DataError, ModelFileError, UsageError
from finetune.experiments.config import DataConfig
from finetune.experiments.exported.other_data import own_options, shown_to
from finetune.images.manifest import Manifest


@dataclass
class Model:
    """As much of an exported model as is asked."""

    class_names: tuple[str, ...] = ("b", "a/c")
    path: Path = Path("m.onnx")
    facts: Any = field(default_factory=lambda: SimpleNamespace(data={}))


def table(**columns: list[Any]) -> Manifest:
    path = np.array([f"{number}.png" for number in range(4)])
    given = {name: np.array(values) for name, values in columns.items()}
    return Manifest(Path(), ("a-c", "b"), {"path": path, "label": np.array([0, 0, 1, 1]), **given})


def test_shared_options_go_to_the_task_s_own():
    asked = AgeDataConfig(root="here", skip_bad=True, missing="drop")
    wanted = FineDataConfig(root="here", skip_bad=True, missing="drop", subset=True)
    assert own_options(asked, FineDataConfig, "no", subset=True) == wanted
    assert own_options(asked, DataConfig, "no") == DataConfig(root="here", skip_bad=True, missing="drop")


def test_the_task_s_own_options_are_kept():
    asked = AgeDataConfig(root="here", groups="0-2,3-5")
    assert own_options(asked, AgeDataConfig, "no") == asked


def test_another_task_s_options_are_refused_also_of_the_same_name():
    asked = AgeDataConfig(root="here", layout="faces", groups="0-2,3-5")
    for config_type in (FineDataConfig, DataConfig):
        with pytest.raises(UsageError, match=r"--data\.layout, --data\.groups: not here"):
            own_options(asked, config_type, "not here")


def test_labels_are_moved_by_name_and_a_test_part_is_shown_alone():
    boxes = np.arange(16.0).reshape(4, 4)
    found = shown_to([Model()], table(split=["test", "train", "train", "test"]), boxes)
    assert (found.told, found.target.tolist()) == ("2 test images of the data", [1, 0])
    assert found.images["path"].tolist() == ["0.png", "3.png"]
    assert found.boxes is not None
    assert found.boxes[:, 0].tolist() == [0.0, 12.0]


def test_without_a_test_part_all_are_shown_and_a_training_on_them_is_told(capsys):
    manifest = table()
    model = Model(facts=SimpleNamespace(data={"manifest": manifest.fingerprint}))
    found = shown_to([model, Model()], manifest, None)
    assert (found.told, found.boxes) == ("4 images of other data", None)
    assert capsys.readouterr().out.count("m.onnx was trained on images of this very data") == 1


def test_other_classes_and_no_images_are_refused():
    with pytest.raises(ModelFileError, match=r"only in the data 1 \(b\); only in the model 1 \(d\)"):
        shown_to([Model(("a-c", "d"))], table(), None)
    with pytest.raises(DataError, match="no image with a class"):
        shown_to([Model()], table().select(np.arange(0)), None)


def test_classes_of_the_model_without_an_image_are_told(capsys):
    found = shown_to([Model(("x", "b", "a-c"))], table(), None)
    assert set(found.target.tolist()) == {1, 2}
    assert "note: no samples of 1 of 3 classes, which no score covers: 1 (x)" in capsys.readouterr().out
