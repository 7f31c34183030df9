from __future__ import annotations

import json

import pytest

from apps.runtime.metadata import LONGEST_NAME, MAX_CHARACTERS, SCHEMA, ModelFacts
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


def test_names_of_any_script_may_stand_side_by_side():
    names = ["Größe 3-5", "頭", "глава", "θ", "سن", "हिन्दी", "a b", "=1", "A", "a"]
    assert ModelFacts.from_json(changed(class_names=names)).class_names == tuple(names)


def test_no_face_crop_is_a_fact_too():
    assert ModelFacts.from_json(tiny_facts(crop=None).to_json()).crop is None


def test_a_task_that_is_not_installed_is_read():
    facts = tiny_facts(
        task="sky-2_b",
        metrics={
            "n": 4, "clouds": 0.5, "clouds_interval": [0.1, None], "folds": [0, 1], "scope": "members",
            "baseline": {"class": "blue", "clouds": 0.25}, "clouds_per_fold": [0.5, 0.5], "wind": None,
        },
        card={"privacy": "none", "data": None, "maps": [{"a": 1}], "holes": ["3"]},
    )  # fmt: skip
    back = ModelFacts.from_json(facts.to_json())
    assert (back.task, back.metrics, back.card) == ("sky-2_b", facts.metrics, facts.card)


WRONG = {
    "no JSON": ("{", "no valid JSON"),
    "deep JSON": ("[" * 100_000, "no valid JSON"),
    "huge number": ('{"schema": ' + "9" * 10_000 + "}", "no valid JSON"),
    "list": ("[]", "one JSON object, got list"),
    "schema": (changed(schema=4), "schema 4, this toolkit reads 1, 2 and 3"),
    "resize rule": (
        changed(preprocess=SPEC.to_dict() | {"algorithm": {"schema": 2}}),
        "follows the resize rule .*, this toolkit applies number 1",
    ),
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
    "task no word": (changed(task="the <b>weather</b>"), "task must be a word of small letters"),
    "task a long word": (changed(task="w" * 41), "task must be a word of small letters.* at most 40"),
    "task two lines": (changed(task="age\n"), "task must be a word of small letters"),
    "task a list": (changed(task=["age"]), "task must be a word of small letters"),
    "precision": (changed(precision="int4"), "precision must be one of fp32, fp16, int8"),
    "crops": (changed(test_crops="twelve"), "test_crops must be one of"),
    "preprocess key": (changed(preprocess={"size": 3}), "preprocessing cannot be read"),
    "preprocess type": (
        changed(preprocess=SPEC.to_dict() | {"image_size": "big"}),
        "preprocessing cannot be read",
    ),
    "preprocess mean": (changed(preprocess=SPEC.to_dict() | {"mean": 3}), "preprocessing cannot be read"),
    "unseen space": (changed(class_names=["a", "a\u200b"]), "printable text"),
    "unseen alone": (changed(class_names=["a", "\u200b"]), "printable text"),
    "line separator": (changed(class_names=["a", "b\u2028c"]), "printable text"),
    "paragraph separator": (changed(title="b\u2029c"), "printable text"),
    "tag letters": (changed(class_names=["a", "\U000e0061b"]), "printable text"),
    "private letters": (changed(class_names=["a", "\ue000"]), "printable text"),
    "no letter yet": (changed(class_names=["a", "\u0378"]), "printable text"),
    "blank name": (changed(class_names=["a", " \u3000"]), "printable text"),
    "wide twin": (changed(class_names=["1", "\uff11"]), "look the same"),
    "spaced twin": (changed(class_names=["a", "b", " b"]), "look the same"),
    "composed twin": (changed(class_names=["\u00e9", "e\u0301"]), "look the same"),
    "schema a flag": (changed(schema=True), "schema True"),
    "schema a fraction": (changed(schema=1.0), "schema 1.0"),
    "key told twice": (changed()[:-1] + ', "title": "other"}', "a key of one object twice"),
    "inner key told twice": (changed().replace('"n": 10', '"n": 10, "n": 11'), "a key of one object twice"),
    "NaN": (changed(metrics={"n": 1, "exact": float("nan")}), "NaN, which is no finite number"),
    "NaN mean": (
        changed(preprocess=SPEC.to_dict() | {"mean": [float("nan"), 0.5, 0.5]}),
        "NaN, which is no finite number",
    ),
    "too large a number": (changed().replace('"n": 10', '"n": 1e999'), "1e999, which is no finite number"),
    "too long a number": (changed(metrics={"n": 10**30}), "a number of 31 digits"),
    "mean a text": (changed(preprocess=SPEC.to_dict() | {"mean": "123"}), "mean is a list of numbers"),
    "std of texts": (changed(preprocess=SPEC.to_dict() | {"std": ["1", 1, 1]}), "std is a list of numbers"),
    "score a text": (
        changed(metrics={"n": 3, "exact": "good"}),
        "metrics give exact as 'good', not a number",
    ),
    "score a flag": (changed(metrics={"n": True}), "metrics give n as 'True', not a number"),
    "score of any task a text": (
        changed(metrics={"n": 3, "warmth": "<b>"}),
        "metrics give warmth as '<b>', not a number",
    ),
    "score with an odd name": (changed(metrics={"<b>": "x"}), "metrics give '<b>' as 'x', not a number"),
    "score a list": (changed(metrics={"warmth": [1, 2]}), r"give warmth as '\[1, 2\]', not a number"),
    "interval a number": (changed(metrics={"warmth_interval": 3}), "as '3', not a list of numbers"),
    "interval of texts": (changed(metrics={"warmth_interval": ["1", 2]}), "not a list of numbers"),
    "fold scores of flags": (changed(metrics={"warmth_per_fold": [True]}), "not a list of numbers"),
    "scope a number": (changed(metrics={"scope": 1}), "metrics give scope as '1', not text"),
    "baseline a number": (changed(metrics={"baseline": 1}), "metrics give baseline as '1', not an object"),
    "fold an object": (changed(data={"fold": {}}), "data give fold as '{}', not a number"),
    "members a text": (changed(architecture={"members": "x"}), "architecture give members as 'x'"),
    "card data a number": (changed(card={"data": 5}), "card gives data as '5', not an object"),
    "card detector a text": (changed(card={"detector": "x"}), "detector as 'x', not an object or a list"),
    "card privacy a list": (changed(card={"privacy": ["x"]}), "card gives privacy as .*, not text"),
    "too long": (" " * (MAX_CHARACTERS + 1), "4,000,001 characters"),
}


def test_a_file_of_the_first_schema_states_no_resize_rule_and_is_read():
    values = json.loads(tiny_facts().to_json())
    rule = values["preprocess"].pop("algorithm")
    assert rule["shrinking"] == {"method": "area average", "opencv": "INTER_AREA"}
    assert ModelFacts.from_json(json.dumps(values | {"schema": 1})) == tiny_facts()


@pytest.mark.parametrize("name", WRONG)
def test_wrong_facts_are_refused(name: str):
    text, reason = WRONG[name]
    with pytest.raises(ModelFileError, match=reason):
        ModelFacts.from_json(text)
