from __future__ import annotations

import json

import pytest

from apps.model_facts import LONGEST_NAME, MAX_CHARACTERS, SCHEMA, ModelFacts
from finetune.errors import ModelFileError
from tests.apps.tiny_onnx import GROUPS, SPEC, tiny_facts


def changed(**changes: object) -> str:
    """The JSON of good facts with some values replaced; a value of None takes its key away."""
    values = json.loads(tiny_facts().to_json()) | changes
    return json.dumps({name: value for name, value in values.items() if value is not None or name == "crop"})


def test_facts_come_back_as_they_were():
    facts = tiny_facts(metrics={"n": 3, "exact": float("nan")}, title="CRL Größe 頭")
    back = ModelFacts.from_json(facts.to_json())
    assert back.class_names == GROUPS
    assert back.preprocess == SPEC
    assert back.title == "CRL Größe 頭"
    assert back.metrics == {"n": 3, "exact": None}
    assert back.crop == {"style": "plain", "margin": 0.4}
    assert json.loads(facts.to_json())["schema"] == SCHEMA


def test_no_face_crop_is_a_fact_too():
    assert ModelFacts.from_json(tiny_facts(crop=None).to_json()).crop is None


WRONG = {
    "no JSON": ("{", "no valid JSON"),
    "deep JSON": ("[" * 100_000, "no valid JSON"),
    "huge number": ('{"schema": ' + "9" * 10_000 + "}", "no valid JSON"),
    "list": ("[]", "one JSON object, got list"),
    "schema": (changed(schema=2), "schema 2, this toolkit reads 1"),
    "no schema": (changed(schema=None), "schema None"),
    "unknown key": (changed(surprise=1), r"unknown keys \['surprise'\]"),
    "missing key": (changed(loss=None), r"lack \['loss'\]"),
    "names no list": (changed(class_names="abc"), "must be a list of text"),
    "names no text": (changed(class_names=["a", 3]), "must be a list of text"),
    "empty name": (changed(class_names=["a", ""]), "must be a list of text"),
    "one name": (changed(class_names=["a"]), "two or more different names, got 1"),
    "twin names": (changed(class_names=["a", "b", "a"]), "two or more different names"),
    "terminal codes": (changed(class_names=["a", "\x1b[2J"]), "printable text"),
    "line break in title": (changed(title="a\nb"), "printable text"),
    "turned text": (changed(title="a\u202eb"), "printable text"),
    "half a character": (changed(class_names=["a", "\ud800"]), "printable text"),
    "blank title": (changed(title="  "), "printable text"),
    "long name": (changed(class_names=["a", "b" * (LONGEST_NAME + 1)]), "at most 200"),
    "title no text": (changed(title=7), "title are of the wrong kind"),
    "ordered no flag": (changed(ordered="yes"), "ordered are of the wrong kind"),
    "metrics a list": (changed(metrics=[1]), "metrics are of the wrong kind"),
    "crop a text": (changed(crop="plain"), "crop are of the wrong kind"),
    "crop style": (changed(crop={"style": "round", "margin": 0.1}), "face crop cannot be read.*'round'"),
    "crop margin": (changed(crop={"style": "faces", "margin": "wide"}), "face crop cannot be read"),
    "empty crop": (changed(crop={}), "face crop cannot be read"),
    "crop keys": (changed(crop={"style": "faces", "size": 3}), "face crop cannot be read"),
    "task": (changed(task="weather"), "task must be one of age, category"),
    "task a list": (changed(task=["age"]), "task must be one of"),
    "precision": (changed(precision="int4"), "precision must be one of fp32, fp16, int8"),
    "crops": (changed(test_crops="twelve"), "test_crops must be one of"),
    "preprocess key": (changed(preprocess={"size": 3}), "preprocessing cannot be read"),
    "preprocess type": (
        changed(preprocess=SPEC.to_dict() | {"image_size": "big"}),
        "preprocessing cannot be read",
    ),
    "preprocess mean": (changed(preprocess=SPEC.to_dict() | {"mean": 3}), "preprocessing cannot be read"),
    "too long": (" " * (MAX_CHARACTERS + 1), "4,000,001 characters"),
}


@pytest.mark.parametrize("name", WRONG)
def test_wrong_facts_are_refused(name: str):
    text, reason = WRONG[name]
    with pytest.raises(ModelFileError, match=reason):
        ModelFacts.from_json(text)
