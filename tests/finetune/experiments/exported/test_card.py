"""The card of a task without its own: the task's measures, and what every card says alike."""

from __future__ import annotations

from pathlib import Path

import pytest

from agecls.task import TASK as AGE
from finetune.experiments.exported.card import plain_card, plain_text
from finetune.experiments.measures import Measure
from finetune.experiments.records.record import UNTESTED
from finetune.experiments.result import Result
from tests.agecls.results_by_hand import make_result
from tests.apps.tiny_onnx import tiny_facts

MEASURES = (
    Measure("exact", "accuracy", frozenset({"facts", "card"})),
    Measure("mae", "mean error", frozenset({"facts", "card"}), score_key="mae_argmax", unit="steps"),
    Measure("nll", "log-loss", frozenset({"facts"}), unit=""),
    Measure("one_off", "not told", frozenset({"report"})),
)


@pytest.fixture
def result(tmp_path: Path) -> Result:
    return make_result(tmp_path / "run")


def test_a_fold_s_model_has_the_scores_of_its_own_images(result: Result):
    own = result.predictions.select(result.predictions.fold == 4)
    found = plain_card(result, 4, AGE.scores, MEASURES, tested=True)
    scores = AGE.scores(own)
    assert found["metrics"] == {
        "n": len(own), "exact": scores["exact"], "mae": scores["mae_argmax"], "nll": scores["nll"],
    }  # fmt: skip
    assert plain_card(result, None, AGE.scores, MEASURES, tested=True)["metrics"]["n"] == len(
        result.predictions
    )


def test_other_weights_have_no_scores(result: Result):
    found = plain_card(result, 4, AGE.scores, MEASURES, tested=False)
    assert (found["metrics"], found["card"]["not_measured"]) == ({}, [UNTESTED])


def test_the_text_tells_the_measures_in_their_units():
    text = plain_text(
        tiny_facts(metrics={"n": 1200, "exact": 51.02, "mae": 0.5}, class_names=("a|b", "c")), MEASURES
    )
    assert text.does == "This model takes an image and names its class, one of two: a\\|b, c."
    assert text.scored == "Its accuracy is 51.0 % on 1,200 test images."
    assert "| accuracy | 51.0 % |\n| mean error | 0.50 steps |" in text.measured
    assert "not told" not in text.measured


def test_nothing_known_is_nothing_said():
    text = plain_text(tiny_facts(metrics={}, card={}), MEASURES)
    assert (text.scored, text.measured) == ("", "Accuracy: not measured.")
    assert text.data == (("data", "unknown; images: unknown, classes: unknown"), ("split", "unknown"))


def test_precision_and_views_are_told():
    text = plain_text(tiny_facts(precision="int8", test_crops="ten"), MEASURES)
    assert "how far this int8 file is from it" in text.measured
    assert "(test crops: ten)" in text.measured
