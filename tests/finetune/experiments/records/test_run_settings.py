"""Settings of paired runs: which fields count as a difference, and which only name a place."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from finetune.errors import DataError
from finetune.experiments.records.predictions import Predictions
from finetune.experiments.records.record import RunRecord
from finetune.experiments.records.run_settings import (
    check_comparable,
    differing,
    environment_differences,
    is_loss,
    setting_differences,
)
from finetune.experiments.result import Result

SAME = {"manifest": "1", "policy": "core8", "split": "2", "class_names": ["0-2", "4-6"]}


def bare_result(name: str = "run", config: dict[str, Any] | None = None, **run: Any) -> Result:
    """Return a result without images: only its settings matter here."""
    none = np.empty(0, dtype=np.int64)
    rows = Predictions(("0-2", "4-6"), none, none, np.empty((0, 2)))
    return Result(Path(name), RunRecord.from_dict(SAME | run), config or {}, rows)


def test_nested_fields_are_compared_one_by_one():
    found = differing({"train": {"lr": 0.1, "epochs": 3}}, {"train": {"lr": 0.1, "epochs": 4}, "note": "x"})
    assert found == [{"field": "note", "a": None, "b": "x"}, {"field": "train.epochs", "a": 3, "b": 4}]


@pytest.mark.parametrize("key", ["run", "device", "devices", "folds", "data"])
def test_places_machines_and_data_are_no_settings(key):
    settings, notes = setting_differences(
        [bare_result(config={key: {"x": 1}, "train": {"lr": 1}})],
        [bare_result(config={key: {"x": 2}, "train": {"lr": 1}})],
    )
    assert (settings, notes) == ([], [])


DATA = {"root": "/a", "crop": "image", "box_margin": 0.0, "val_share": 0.1, "split_seed": 0}


@pytest.mark.parametrize(
    ("change", "fields"),
    [
        ({"root": "/b", "follow": True}, []),
        ({"crop": "box"}, ["data.box_margin", "data.crop"]),
        ({"box_margin": 0.2}, []),
        ({"val_share": 0.2}, ["data.val_share"]),
        ({"split_seed": 1}, ["data.split_seed"]),
    ],
)
def test_how_pictures_are_shown_and_held_out_is_a_setting(change: dict[str, Any], fields: list[str]):
    first, second = bare_result(config={"data": DATA}), bare_result(config={"data": DATA | change})
    settings, notes = setting_differences([first], [second])
    assert [item["field"] for item in settings] == fields
    assert ("not a controlled comparison: these differ: data" in " ".join(notes)) == bool(fields)


def test_the_crop_that_run_json_tells_counts_without_a_configuration_and_once_with_one():
    whole, cut = {"kind": "image", "margin": 0.0}, {"kind": "box", "margin": 0.1}
    wanted = [
        {"field": "data.box_margin", "a": None, "b": 0.1},
        {"field": "data.crop", "a": "image", "b": "box"},
    ]
    assert setting_differences([bare_result(crop=whole)], [bare_result(crop=cut)])[0] == wanted
    configs = [{"data": DATA}, {"data": DATA | {"crop": "box", "box_margin": 0.1}}]
    sides = [[bare_result(config=c, crop=x)] for c, x in zip(configs, (whole, cut), strict=True)]
    assert setting_differences(*sides)[0] == wanted


def test_the_loss_is_named_only_where_it_differs():
    first, second = ({"train": {"lr": lr}, "loss": {"name": "cel"}} for lr in (1, 2))
    notes = setting_differences([bare_result(config=first)], [bare_result(config=second)])[1]
    assert notes == ["not a controlled comparison: these differ: train.lr"]
    other = {"train": {"lr": 2}, "loss": {"name": "crl"}}
    notes = setting_differences([bare_result(config=first)], [bare_result(config=other)])[1]
    assert notes == ["not a controlled comparison: besides the loss these differ: train.lr"]


def test_the_same_weights_from_another_place_are_the_same():
    first, second = ({"pretraining": {"sha256": "ab", "location": place}} for place in ("/a", "/b"))
    assert setting_differences([bare_result(**first)], [bare_result(**second)])[0] == []
    other = {"pretraining": {"sha256": "cd", "location": "/a"}}
    assert [
        item["field"] for item in setting_differences([bare_result(**first)], [bare_result(**other)])[0]
    ] == ["pretraining.sha256"]


def test_a_setting_told_twice_is_listed_once():
    first = bare_result(config={"model": {"backbone": "x"}, "head": {"name": "l"}}, backbone="x", head="l")
    second = bare_result(config={"model": {"backbone": "y"}, "head": {"name": "m"}}, backbone="y", head="m")
    fields = [item["field"] for item in setting_differences([first], [second])[0]]
    assert fields == ["head.name", "model.backbone"]


def test_only_the_loss_may_change_in_a_controlled_comparison():
    assert is_loss("loss.alpha")
    assert is_loss("loss")
    assert not is_loss("train.lr")
    assert not is_loss("lossless")
    settings, notes = setting_differences(
        [bare_result(config={"loss": 1})], [bare_result(config={"loss": 2})]
    )
    assert [item["field"] for item in settings] == ["loss"]
    assert notes == []


def test_the_machine_is_told_apart_from_the_settings():
    first, second = bare_result(device={"used": "cpu"}), bare_result(device={"used": "cuda:0"})
    assert setting_differences([first], [second])[0] == []
    assert environment_differences([first], [second]) == [{"field": "device.used", "a": "cpu", "b": "cuda:0"}]


def test_class_names_must_agree():
    check_comparable(bare_result(), bare_result())
    with pytest.raises(DataError, match=r"class_names: \['0-2', '4-6'\] and \['0-2'\]"):
        check_comparable(bare_result("a"), bare_result("b", class_names=["0-2"]))
