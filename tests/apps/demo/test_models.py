from __future__ import annotations

import re

import pytest

from apps.demo.models import drawn_html, facts_html, model_facts, scores, warnings_html
from apps.runtime.session import OnnxClassifier
from tests.apps.runtime.test_calibration import ENTRY
from tests.apps.tiny_onnx import tiny_facts, write_tiny


def load(tmp_path, **facts):
    return OnnxClassifier(write_tiny(tmp_path / "m.onnx", tiny_facts(**facts)), device="cpu", threads=1)


def test_the_facts_of_a_model_in_plain_words(tmp_path):
    model = load(
        tmp_path,
        architecture={"backbone": "resnet18", "tag": "a1_in1k", "head": "linear", "parameters": 11_180_616},
        loss={"name": "crl", "alpha": 1.5, "beta": 1.0, "class_weights": "none"},
        data={"name": "FG-NET", "fold": 0, "images": 731, "subjects": 82, "manifest": "0" * 64},
        metrics={"n": 147, "subjects": 17, "exact": 47.62, "one_off": 80.95, "mae": 0.755},
    )
    told = model_facts(model)
    assert told["Backbone"] == "resnet18.a1_in1k, linear head, 11.2 million parameters"
    assert told["Loss"] == "crl (alpha 1.5, beta 1.0)"
    assert told["Data"] == "FG-NET, 731 images of 82 subjects, fold 0 kept for testing"
    assert told["Scores"] == (
        "correct class 47.6 %, correct or next to it 81.0 %, mean error 0.76 groups "
        "(147 test images of 17 subjects)"
    )
    assert told["Input"] == "32 px, face: plain, 40 % of the face box added on every side"
    assert told["Precision"] == "fp32"
    assert told["Runs on"] == "CPU (ONNX Runtime)"
    assert told["SHA-256"] == model.sha256
    assert len(told["SHA-256"]) == 64


def test_what_calibrated_a_file_and_what_its_sets_promise(tmp_path):
    model = OnnxClassifier(write_tiny(tmp_path / "a.onnx", tiny_facts(calibration=ENTRY)), device="cpu")
    assert model_facts(model)["Calibration"] == (
        "temperature 1.5, fitted on its own test images (fold 0), 40 images; sets hold the right group in "
        "about 90 of 100 pictures of new people"
    )
    without = OnnxClassifier(write_tiny(tmp_path / "b.onnx"), device="cpu")
    assert "Calibration" not in model_facts(without)


def test_a_loss_is_called_as_reports_call_it(tmp_path):
    for loss, called in (
        ({"name": "nllr", "clamp": None}, "nllr, exact"),
        ({"name": "nllr", "clamp": 1e-7}, "nllr (clamp 1e-07)"),
        ({"name": "crl", "alpha": 0.0, "beta": 1.0}, "crl (alpha 0.0, beta 1.0)"),
        ({"name": "cel", "branches": {"main": "crl:alpha=1"}}, "cel (branches main crl:alpha=1)"),
    ):
        assert model_facts(load(tmp_path, loss=loss))["Loss"] == called


def test_what_a_model_does_not_tell_is_left_out(tmp_path):
    nothing = {key: {} for key in ("architecture", "loss", "data", "metrics", "pretraining")}
    told = model_facts(load(tmp_path, crop=None, **nothing))
    assert set(told) == {"Input", "Precision", "Runs on", "SHA-256"}
    assert told["Input"] == "32 px, the whole image"


def test_scores_of_an_average_say_that_they_are_its_members():
    found = {"scope": "members", "n": 731, "exact_pooled": 50.0, "one_off_pooled": 80.0}
    told = "its members, each on {} it had not seen: correct class 50.0 %"
    assert scores({**found, "subjects": 82}).startswith(told.format("subjects"))
    assert scores(found).startswith(told.format("images"))  # subjects are not known


def test_scores_without_known_names_are_told_as_they_are():
    assert scores({"f_score": 91.25, "n": 40}) == "f score 91.25, n 40"


def test_scores_of_fine_grained_models_are_told_in_words():
    told = scores({"top1": 84.12, "top5": 96.2, "balanced_accuracy": 84.0, "n": 5794})
    assert told == (
        "correct class 84.1 %, among the five most probable 96.2 %, mean over classes 84.0 % "
        "(5794 test images)"
    )


def test_hostile_facts_are_escaped(tmp_path):
    html = facts_html({"<b>": load(tmp_path, loss={"name": "<script>alert(1)</script>"})})
    assert "<script" not in html
    assert "&lt;script&gt;" in html
    assert '<th scope="col">&lt;b&gt;</th>' in html


def test_drawings_and_random_weights_are_said(tmp_path):
    drawn = tiny_facts(card={"data": {"kind": "drawn"}}, pretraining={"kind": "none"})
    models = {
        "A & B": OnnxClassifier(write_tiny(tmp_path / "a.onnx", drawn), device="cpu"),
        "C": OnnxClassifier(write_tiny(tmp_path / "c.onnx"), device="cpu"),
    }
    told = drawn_html(models)
    assert "Not for real faces:" in told
    assert "A &amp; B learned from drawings" in told
    assert drawn_html({"C": models["C"]}) == ""
    assert model_facts(models["A & B"])["Pretraining"] == "none: random weights"


def test_fine_grained_models_say_what_their_pictures_must_be(tmp_path):
    given = {"task": "category", "ordered": False, "crop": None}
    drawn = load(tmp_path, card={"data": {"kind": "drawn"}}, **given)
    assert "Not for photographs:" in drawn_html({"A": drawn})
    boxed = load(tmp_path, data={"picture_crop": "box"}, **given)
    told = warnings_html({"B & C": boxed})
    assert (
        "<b>B &amp; C:</b> Trained and tested on images cut to the object&#x27;s box: cut yours like" in told
    )
    assert warnings_html({"A": drawn}) == ""
    assert model_facts(boxed)["Input"] == "32 px, an image cut to its object"


def test_classes_that_were_put_into_another_order_are_told(tmp_path):
    first, other = (load(tmp_path, title=title) for title in ("one", "two"))
    other.answer_in_order_of(first)
    assert model_facts(other)["Class order"] == "classes put into the order of one, by their names"
    assert "Class order" not in model_facts(first)


USELESS = "accuracy 9.70 % is not above the majority-class baseline (10.00 %): nothing useful was learned"


def test_what_speaks_against_a_model_is_said_above_the_page_and_in_its_facts(tmp_path):
    data = {"subjects_known": False}
    bad = load(tmp_path, card={"warnings": [USELESS, "5 images <b>are</b> gone"], "data": data})
    other = load(tmp_path, title="two", card={"data": data})
    told = warnings_html({"CE": bad, "CRL": other})
    lines = [
        f"<b>CE:</b> {USELESS[0].upper()}{USELESS[1:]}.",
        "<b>CE:</b> 5 images &lt;b&gt;are&lt;/b&gt; gone.",
        "<b>all models:</b> The subject of each image was not known: if subjects repeat, the scores are too "
        "high.",
    ]
    assert re.findall("<li>(.*?)</li>", told) == lines
    assert model_facts(bad)["Warnings"].startswith("Accuracy 9.70 % is not above")
    assert "nothing useful was learned. 5 images" in model_facts(bad)["Warnings"]
    assert warnings_html({"C": load(tmp_path)}) == ""


def test_a_file_with_endless_warnings_does_not_fill_the_page(tmp_path):
    model = load(tmp_path, card={"warnings": [f"{number} {'x' * 5000}" for number in range(500)]})
    told = warnings_html({"A": model})
    assert told.count("<li>") == 7
    assert "494 further warnings are in its model card." in told
    assert len(told) < 4000


@pytest.mark.parametrize(("task", "card"), [("age", {"holes": {"<": 1}}), ("category", {}), ("other", {})])
def test_odd_facts_of_anybodys_file_break_no_warning(tmp_path, task, card):
    odd = {"shared_people": "many", "subjects_known": "no"}
    facts = {"task": task, "crop": None, "card": {"data": odd, "warnings": {"a": 1}, **card}}
    told = warnings_html({"A": load(tmp_path, data={"picture_crop": "box", "box_margin": [1]}, **facts)})
    assert "<b>A:</b> A." in told
    assert "<<" not in told
