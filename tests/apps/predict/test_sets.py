"""Sets of calibrated files in `crl predict`: the right classes, and nothing where there is no entry."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from apps.predict.predict import predict_pictures
from apps.predict.run import set_kind
from apps.runtime.session import OnnxClassifier
from finetune.metrics.conformal import ordinal_aps_scores, raps_scores
from tests.apps.predict.test_run import crl, home, rows  # noqa: F401  (home is a fixture)
from tests.apps.runtime.test_answer_words import MEASURED
from tests.apps.runtime.test_calibration import ENTRY, SETS
from tests.apps.tiny_onnx import GROUPS, tiny_facts, write_tiny

CALIBRATED = ENTRY | {"sets": SETS | {"q": 0.9}, "measured": MEASURED}


def test_sets_are_those_of_the_probabilities_that_stand_beside_them(home: Path, capsys):  # noqa: F811
    write_tiny(home / "a.onnx", tiny_facts(title="CE", calibration=CALIBRATED))
    assert crl("a.onnx", "b.onnx", "photos", "--out", "answers.csv") == 0
    found = rows(home / "answers.csv")
    assert len(found) == 8
    for row in found:
        probs = np.array([[float(row[f"p({name})"]) for name in GROUPS]])
        inside = np.flatnonzero(ordinal_aps_scores(probs)[0] <= 0.9).tolist() or [int(probs.argmax())]
        wanted = [GROUPS[inside[0]], GROUPS[inside[-1]], str(len(inside))]
        told = [row["set_low"], row["set_high"], row["set_size"]]
        assert told == (wanted if row["model"] == "CE" else [""] * 3)
        assert row["model"] != "CE" or inside[0] <= GROUPS.index(row["class"]) <= inside[-1]
    said = capsys.readouterr().out
    assert "CE: sets hold the right group in about 90 of 100 pictures of new people" in said
    assert "(measured: 91.2 of 100, 412 people)" in said
    assert "CRL: sets" not in said


def test_an_average_over_views_has_no_set_and_says_so(home: Path, capsys):  # noqa: F811
    write_tiny(home / "a.onnx", tiny_facts(title="CE", calibration=CALIBRATED))
    assert crl("a.onnx", "photos", "--out", "answers.csv", "--test_crops", "ten") == 0
    assert "set_low" not in rows(home / "answers.csv")[0]
    said = capsys.readouterr().out
    assert "CE: no sets: they were calibrated for one view of an image, not for ten" in said


@pytest.mark.parametrize("q", [None, 0.0])
def test_a_set_is_whole_without_a_quantile_and_never_empty(tmp_path: Path, q: float | None):
    entry = ENTRY | {"sets": SETS | {"q": q}}
    model = OnnxClassifier(write_tiny(tmp_path / "a.onnx", tiny_facts(crop=None, calibration=entry)))
    [answer] = predict_pictures([model], [np.full((40, 40, 3), 90, np.uint8)])
    assert answer.inside is not None
    assert answer.inside.sum() == (len(GROUPS) if q is None else 1)
    assert answer.inside[answer.class_index]
    assert (set_kind(model, "center"), set_kind(model, "flip")) == ("range", "")


def test_classes_without_an_order_have_their_names(home: Path):  # noqa: F811
    entry = ENTRY | {"unit": "image", "sets": SETS | {"score": "raps", "q": 0.9}}
    birds = tuple(f"bird {number}" for number in range(6))
    facts = tiny_facts(task="category", crop=None, ordered=False, class_names=birds, calibration=entry)
    write_tiny(home / "bird.onnx", facts)
    assert crl("bird.onnx", "photos", "--out", "answers.csv") == 0
    for row in rows(home / "answers.csv"):
        probs = np.array([[float(row[f"p({name})"]) for name in birds]])
        inside = (raps_scores(probs)[0] <= 0.9) | (np.arange(6) == probs.argmax())
        order = [int(place) for place in np.argsort(-probs[0], kind="stable") if inside[place]]
        assert row["set"] == "; ".join(birds[place] for place in order)
        assert row["set_size"] == str(len(order))
        assert "set_low" not in row
