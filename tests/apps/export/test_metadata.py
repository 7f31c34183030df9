"""The facts of an exported file: complete, and free of this machine's paths."""

from __future__ import annotations

import copy
import json
from dataclasses import replace
from typing import Any

import pytest

from apps.export.metadata import Member, build_facts, exporters, finished_facts, without_paths
from apps.runtime.metadata import ModelFacts
from finetune.experiments.records.record import RunRecord

OWN: dict[str, Any] = {
    "class_names": ["0-2", "4-6", "8-12"],
    "ordered_classes": True,
    "preprocess": {
        "image_size": 96, "resize": "warp", "resize_size": 110, "interpolation": "bicubic",
        "mean": [0.5] * 3, "std": [0.5] * 3, "color": "RGB",
    },
    "backbone": "tf_efficientnet_lite0",
    "head": {"name": "linear", "dropout": 0.1},
    "loss": {"name": "crl", "alpha": 1.5},
    "pretraining": {
        "kind": "file", "location": "/home/ada lovelace/My weights/lite0.pth", "origin": "", "tag": "",
        "license": "Apache-2.0", "size_bytes": 5, "sha256": "ab" * 32,
    },
    "seed": 3,
    "test_crops": "ten",
    "train": {"epochs": 6, "lr": 0.01, "optimizer": "sgd", "clip_grad": 0.0},
    "device": {"asked": "auto", "used": "cpu", "name": "the machine of ada"},
    "n": 50, "n_train": 200, "n_validation": 0,
    "model": {"weights": "/home/ada/weights/lite0.pth"},
    "notes": ["the classifier of /home/ada/weights/lite0.pth was left out"],
    "versions": {"torch": "2.15.0", "toolkit": "0.1.0"},
}  # fmt: skip
RUN_JSON: dict[str, Any] = {
    "command": "crl age cv --data.table /home/ada/faces.csv",
    "data_root": "/home/ada/faces",
    "policy": "table",
    "protocol": "fixed",
    "manifest": "m" * 64,
    "split": "s" * 64,
    "subjects": 80,
    "counts": {"table": "/home/ada/faces.csv", "images": 250},
}
RUN = RunRecord.from_dict(RUN_JSON)
CARD = {
    "metrics": {"n": 50, "exact": 51.0},
    "card": {"data": {"name": "the table faces.csv"}, "how_to_slice": ["read /home/ada/faces/README"]},
}


def facts(members: int = 1, own: dict[str, Any] = OWN, kind: str = "age") -> ModelFacts:
    made = [Member(fold, own, 1000, "w" * 64) for fold in range(members)]
    return build_facts(
        "Mine", RUN, made, kind=kind, crop={"style": "plain", "margin": 0.4}, crop_source="given", card=CARD
    )


def test_every_section_is_filled():
    found = facts()
    assert (found.title, found.task, found.ordered, found.test_crops) == ("Mine", "age", True, "ten")
    assert found.architecture == {
        "backbone": "tf_efficientnet_lite0", "tag": None, "head": "linear", "head_dropout": 0.1,
        "image_size": 96, "parameters": 1000, "members": 1,
    }  # fmt: skip
    assert found.data == {
        "name": "the table faces.csv", "policy": "table", "protocol": "fixed", "fold": 0, "folds": [0],
        "images": 250, "subjects": 80, "n_train": 200, "n_validation": 0, "n_test": 50, "manifest": "m" * 64,
        "split": "s" * 64, "weights_sha256": ["w" * 64], "face_crop": "given",
    }  # fmt: skip
    assert found.training == {"seed": 3, "epochs": 6, "lr": 0.01, "optimizer": "sgd", "device": "cpu"}
    assert found.pretraining == {
        "kind": "file", "file": "lite0.pth", "licence": "Apache-2.0", "sha256": "ab" * 32,
    }  # fmt: skip
    assert found.metrics == CARD["metrics"]
    assert found.versions["trained_with"] == OWN["versions"]
    assert found.versions["exported_with"] == exporters()
    assert {"python", "torch", "onnx", "onnxruntime"} <= set(exporters())


def test_an_average_tells_its_members_and_no_single_fold():
    found = facts(3)
    assert (found.architecture["members"], found.architecture["parameters"]) == (3, 3000)
    assert (found.data["fold"], found.data["folds"]) == (None, [0, 1, 2])
    assert found.data["n_test"] is None


def test_a_model_is_of_the_run_s_task_and_ordered_as_its_record_says():
    found = facts(own=OWN | {"ordered_classes": False}, kind="weather")
    assert (found.task, found.ordered) == ("weather", False)


def test_facts_survive_as_json_and_hold_no_path():
    found = finished_facts(facts(), "int8", {"note": "compared in /tmp/crl-export-x/int8.onnx"})
    text = found.to_json()
    back = ModelFacts.from_json(text)
    assert (back.precision, back.parity) == ("int8", {"note": "compared in int8.onnx"})
    assert json.loads(back.to_json()) == json.loads(text)
    for leak in ("/home", "ada", "/tmp", "My weights"):
        assert leak not in text, leak


def test_nothing_given_is_changed():
    before = copy.deepcopy((OWN, RUN, CARD))
    facts()
    assert before == (OWN, RUN, CARD)


@pytest.mark.parametrize(("text", "wanted"), [
    ("/a/b/c.pth", "c.pth"),
    ("from /home/ada/w.pth, then", "from w.pth, then"),
    ("'/home/ada/w.pth'", "'w.pth'"),
    ("~/faces/w.pth", "w.pth"),
    (r"C:\Users\ada\w.pth", "w.pth"),
    ("D:/data/w.pth", "w.pth"),
    ("file at /data/faces/", "file at faces"),
    ("https://example.org/models/w.pth", "https://example.org/models/w.pth"),
    ("timm/resnet18.a1_in1k", "timm/resnet18.a1_in1k"),
    ("and/or, 1/2, 8 img/s, 0-2/4-6", "and/or, 1/2, 8 img/s, 0-2/4-6"),
    ("60+ / older", "60+ / older"),
    ("", ""),
])  # fmt: skip
def test_paths_inside_texts_are_reduced_to_names(text: str, wanted: str):
    assert without_paths({"notes": [text, 1, None, True]}) == {"notes": [wanted, 1, None, True]}


def test_a_protocol_that_looks_twice_is_the_centre_in_a_file():
    assert facts(own=OWN | {"test_crops": "cam"}).test_crops == "center"


def test_a_model_of_no_faces_says_nothing_of_a_crop():
    made = [Member(-1, OWN | {"ordered_classes": False, "weights": "last"}, 10, "w" * 64)]
    card = CARD | {"data": {"fold": None, "folds": [], "picture_crop": "box"}}
    found = build_facts("Mine", RUN, made, kind="category", crop=None, crop_source="", card=card)
    assert (found.task, found.crop) == ("category", None)
    assert "face_crop" not in found.data
    assert (found.data["fold"], found.data["picture_crop"], found.data["weights"]) == (None, "box", "last")


def test_a_second_backbone_is_told():
    assert facts(own=OWN | {"model": {"second": "vgg11"}}).architecture["second"] == "vgg11"


def test_an_nllr_without_a_clamp_is_the_exact_one_in_bundles_and_in_files():
    """A model of the time before the published clamp became the default stored none, or null."""
    found = facts(own=OWN | {"loss": {"name": "nllr", "clamp": None}})
    assert found.loss["clamp"] == 0
    old = replace(found, loss={"name": "nllr", "clamp": None})
    assert ModelFacts.from_json(old.to_json()).loss["clamp"] == 0
