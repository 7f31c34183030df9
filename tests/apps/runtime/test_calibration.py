"""What a file may say of its calibration, what old files say, and the sets that follow from it."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import pytest

from apps.runtime.calibration import answer_sets, as_stated, check_calibration, may_reorder, scaling_of
from apps.runtime.metadata import ModelFacts
from finetune.errors import ModelFileError
from finetune.metrics.calibration import softmax
from finetune.metrics.conformal import ordinal_aps_scores
from tests.apps.tiny_onnx import tiny_facts

SETS = {"score": "oaps", "level": 0.9, "q": 0.8, "unit": "person", "range": [0.8, 0.95]}
ENTRY: dict[str, Any] = {
    "method": "temperature",
    "T": 1.5,
    "n": 40,
    "persons": 12,
    "unit": "person",
    "from": "its own test images (fold 0)",
    "note": "",
    "sets": SETS,
    "per_group": None,
    "refusal": None,
}
CLASSES = len(tiny_facts().class_names)
VECTOR = {**ENTRY, "method": "vector", "T": None, "scale": [1.0] * CLASSES, "shift": [0.0] * CLASSES}
GOOD = [{}, ENTRY, ENTRY | {"sets": None}, ENTRY | {"sets": SETS | {"q": None}}, VECTOR]
WRONG = {
    "method": (ENTRY | {"method": "isotonic"}, "method 'isotonic', not temperature or vector"),
    "T of text": (ENTRY | {"T": "1.5"}, "T '1.5', not a number of 0.05 to 20"),
    "T of nothing": (ENTRY | {"T": None}, "T 'None'"),
    "T too small": (ENTRY | {"T": 0.001}, "T '0.001'"),
    "T as a truth": (ENTRY | {"T": True}, "T 'True'"),
    "few scales": (VECTOR | {"scale": [1.0]}, "no scale of . numbers"),
    "no shift": (VECTOR | {"shift": None}, "no shift of . numbers"),
    "no origin": (ENTRY | {"from": None}, "no text under from"),
    "no people": (ENTRY | {"persons": 0}, "no count under persons"),
    "score": (ENTRY | {"sets": SETS | {"score": "best"}}, "sets by 'best', not oaps"),
    "level": (ENTRY | {"sets": SETS | {"level": 1}}, r"a level '1', not in \(0, 1\)"),
    "no q": (ENTRY | {"sets": {"score": "oaps", "level": 0.9}}, "sets without a quantile"),
    "sets": (ENTRY | {"sets": [1]}, "sets that are no object"),
    "groups": (ENTRY | {"per_group": {"q": [0.5]}}, "no quantile per class"),
}


def changed(schema: int, **changes: Any) -> str:
    """Return the JSON of good facts of a schema, some replaced; None takes one away."""
    values = json.loads(tiny_facts().to_json()) | {"schema": schema} | changes
    return json.dumps({name: value for name, value in values.items() if value is not None or name == "crop"})


@pytest.mark.parametrize("entry", GOOD)
def test_a_whole_calibration_comes_back(entry: dict[str, Any]):
    facts = tiny_facts(calibration=entry)
    assert ModelFacts.from_json(facts.to_json()).calibration == entry


@pytest.mark.parametrize("name", WRONG)
def test_anything_else_is_refused(name: str):
    entry, match = WRONG[name]
    with pytest.raises(ModelFileError, match=f"its calibration has .*{match}"):
        check_calibration(entry, CLASSES)
    with pytest.raises(ModelFileError, match="its calibration has"):
        ModelFacts.from_json(changed(3, calibration=entry))


def test_a_number_that_is_not_finite_is_refused():
    text = changed(3, calibration=ENTRY).replace("0.8,", "Infinity,")
    with pytest.raises(ModelFileError, match="no finite number"):
        ModelFacts.from_json(text)
    with pytest.raises(ModelFileError, match=r"are of the wrong kind"):
        ModelFacts.from_json(changed(3, calibration=[1]))


@pytest.mark.parametrize("schema", [1, 2])
def test_files_of_earlier_schemas_have_none(schema: int):
    assert ModelFacts.from_json(changed(schema, calibration=None)).calibration == {}


def test_a_file_of_today_without_the_key_is_refused():
    with pytest.raises(ModelFileError, match=r"lack \['calibration'\]"):
        ModelFacts.from_json(changed(3, calibration=None))


def test_what_was_stated_comes_back():
    stated = np.random.default_rng(0).dirichlet(np.ones(CLASSES), 20)
    scaling = scaling_of(ENTRY, CLASSES)
    assert scaling is not None
    served = scaling.apply(stated)
    np.testing.assert_allclose(served, softmax(np.log(stated) / 1.5))
    np.testing.assert_allclose(as_stated(ENTRY, served), stated)
    assert as_stated({}, stated) is stated
    assert as_stated(VECTOR, stated) is stated
    assert scaling_of({}, CLASSES) is None
    assert (may_reorder({}), may_reorder(ENTRY), may_reorder(VECTOR)) == (False, False, True)


def test_sets_are_those_of_the_quantile():
    probs = np.random.default_rng(0).dirichlet(np.ones(CLASSES), 50)
    sets = answer_sets(ENTRY, probs, ordered=True)
    assert sets is not None
    wanted = ordinal_aps_scores(probs) <= 0.8
    wanted[np.arange(50), probs.argmax(1)] = True
    assert (sets == wanted).all()
    assert sets.any(axis=1).all()
    assert not sets.all()
    whole = answer_sets(ENTRY | {"sets": SETS | {"q": None}}, probs, ordered=True)
    assert whole is not None
    assert whole.all()
    assert answer_sets({}, probs, ordered=True) is None
    assert answer_sets(ENTRY | {"sets": None}, probs, ordered=True) is None
    assert answer_sets(ENTRY, probs, ordered=True, per_group=True) is None


def test_a_class_without_a_quantile_is_in_every_set():
    probs = np.random.default_rng(0).dirichlet(np.ones(CLASSES), 50)
    groups = {"q": [0.5] * (CLASSES - 1) + [None], "people": [20] * (CLASSES - 1) + [3]}
    sets = answer_sets(ENTRY | {"per_group": groups}, probs, ordered=False, per_group=True)
    assert sets is not None
    assert sets[:, -1].all()
    assert not sets[:, 0].all()
