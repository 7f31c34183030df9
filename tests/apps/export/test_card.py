from __future__ import annotations

import json
import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from agecls.report.card import age_card
from agecls.report.card_facts import NOT_MEASURED
from apps.export.card import write_card
from apps.runtime.metadata import ModelFacts
from finetune.metrics.learning import learning_warnings
from tests.agecls.results_by_hand import make_result
from tests.apps.tiny_onnx import tiny_facts

SHA, SIZE = "ab" * 32, 18_900_000


def page(facts: ModelFacts, file_name: str = "model.onnx") -> str:
    return write_card(facts, file_name, SHA, SIZE)


def facts_of(run: Path, fold: int | None, **changes: Any) -> ModelFacts:
    """Return an age model's facts with the card of a run."""
    found = age_card(run, fold)
    return tiny_facts(metrics=found["metrics"], card=found["card"], **changes)


def row_of(text: str, first: str) -> list[str]:
    """Return the cells of the first table row that begins with `first`."""
    line = next(line for line in text.splitlines() if line.startswith(f"| {first}"))
    return [cell.strip() for cell in re.split(r"(?<!\\)\|", line)[1:-1]]


def sections(text: str) -> list[str]:
    return re.findall(r"^## (.*)$", text, re.MULTILINE)


def test_little_known_is_little_said():
    text = page(tiny_facts())
    assert sections(text) == [
        "Use it",
        "How well it does",
        "How sure it is",
        "Limits",
        "How it was trained",
        "How this file was checked",
        "Weights and their licence",
        "The file",
    ]
    assert row_of(text, "correct group (exact)") == ["correct group (exact)", "50.0 %", "not measured"]
    assert "10 test images" in text
    assert "Agreement with the trained model: not measured." in text
    assert "How far the probabilities can be trusted: not measured." in text
    assert "None" not in text
    assert "nan" not in text


def test_facts_without_any_score_promise_nothing():
    text = page(tiny_facts(metrics={}, pretraining={}, parity={}, versions={}, architecture={}, loss={}))
    assert "How well it does was not measured." in text
    assert "Accuracy: not measured." in text
    assert row_of(text, "network")[1] == row_of(text, "loss")[1] == row_of(text, "versions")[1] == "unknown"
    assert "licence: **unknown**" in text
    assert "%" not in text


def test_an_exact_nllr_is_called_so():
    for stored in ({"name": "nllr", "clamp": None}, {"name": "nllr", "clamp": 0.0}):
        assert row_of(page(tiny_facts(loss=stored)), "loss")[1] == "nllr, exact"


def test_the_numbers_of_a_fold_stand_in_the_tables(tmp_path):
    make_result(tmp_path / "run")
    facts = facts_of(tmp_path / "run", 4)
    metrics, groups = facts.metrics, facts.card["groups"]
    text = page(facts)
    assert row_of(text, f"{metrics['n']} test images of {metrics['subjects']} subjects")[1] == "this model"
    assert row_of(text, "correct group (exact)")[1] == f"{metrics['exact']:.1f} %"
    assert (
        row_of(text, "mean error, in groups")[1] == row_of(text, "mean error")[1] == f"{metrics['mae']:.2f}"
    )
    cell = groups[0]
    assert row_of(text, "0-2") == [
        "0-2",
        str(cell["images"]),
        str(cell["subjects"]),
        *(_score(cell, name) for name in ("exact", "one_off")),
    ]
    sisters = facts.card["cross_validation"]
    assert f"{sisters['exact_mean']:.1f} ± {sisters['exact_sd']:.1f} %" in text
    assert f"{100 * metrics['ece']:.1f} points on average" in text


def _score(cell: dict[str, Any], name: str) -> str:
    if cell[name] is None:
        return f"{cell['right' if name == 'exact' else 'one_off_right']} of {cell['images']}"
    low, high = cell[f"{name}_interval"]
    return f"{cell[name]:.1f} % ({low:.1f} to {high:.1f})"


def test_few_people_get_no_interval_and_a_warning(tmp_path):
    make_result(tmp_path / "run")
    facts = facts_of(tmp_path / "run", 0)
    text = page(facts)
    assert facts.metrics["subjects"] < 30
    assert row_of(text, "correct group (exact)")[2] == "too few subjects"
    assert f"{facts.metrics['subjects']} subjects are too few for an interval" in text
    assert "means fewer than 30 subjects: a count, no conclusion" in text


def test_an_average_is_said_not_to_be_tested(tmp_path):
    make_result(tmp_path / "run")
    facts = facts_of(tmp_path / "run", None)
    text = page(facts)
    assert "**The averaged model itself was not tested.**" in text
    assert "Its members, each tested on its own subjects, named" in text
    assert "this model |" not in text.split("## How it was trained")[0]
    assert row_of(text, "correct group (exact)")[1] == (
        f"{facts.metrics['exact_mean']:.1f} ± {facts.metrics['exact_sd']:.1f} %"
    )


def test_the_limits_name_holes_uses_and_what_nobody_measured(tmp_path):
    make_result(tmp_path / "run")
    text = page(facts_of(tmp_path / "run", 1))
    limits = text.split("## Limits")[1].split("## How it was trained")[0]
    for words in (
        "3, 7, 13-14, 21-24, 33-37, 44-47, 54-59",
        "force a neighbour",
        "**Not for** verifying anybody's age",
        "profiling of minors",
        "Skin tone",
        "crl age evaluate RUN --data.table your.csv --data.gender_column gender",
        "--crop detector",
        "send no image anywhere",
    ):
        assert words in limits
    assert "false adult: subjects of 0-2 to 15-20 named 25-32 or older" in text
    assert "false minor: subjects of 25-32 to 60+ named 15-20 or younger" in text


def test_people_on_both_sides_are_a_warning(tmp_path):
    make_result(tmp_path / "run", shared_people=3)
    assert "**3 subjects are in both training and test: the scores are too high.**" in page(
        facts_of(tmp_path / "run", 1)
    )
    make_result(tmp_path / "unknown", policy="table", unknown=True)
    unknown = page(facts_of(tmp_path / "unknown", 1))
    assert "The subject of each image was not known" in unknown
    assert "| labelled group | images | correct group |" in unknown
    assert (
        "fewer than 30 images: a count, no conclusion. Intervals (95 %) resample single images, for"
        in unknown
    )
    assert "fewer than 30 subjects" not in unknown


def test_what_a_detector_costs_is_told():
    cost = {"own": 60.0, "detector": 58.0, "difference": -2.0, "interval": [-4.0, 0.5]}
    found: dict[str, Any] = {
        "n": 240,
        "subjects": 80,
        "found": 231,
        "equal_predictions": 91.0,
        "exact": cost,
        "one_off": cost,
    }
    found["crop"] = {"style": "plain", "margin": 0.15}
    text = page(tiny_facts(card={"detector": found}))
    assert "This file has faces cut out otherwise" in text
    assert "cut out otherwise" not in page(tiny_facts(card={"detector": found}, crop=dict(found["crop"])))
    assert "found the face in 231 of 240 test images of 80 subjects" in text
    assert (
        "On its crops (style plain, margin 0.15): exact 58.0 % instead of 60.0 % (-2.0 points, -4.0 to 0.5)"
        in text
    )


def test_only_adience_is_called_flickr_photographs(tmp_path):
    make_result(tmp_path / "adience", counts={"edition": "current"})
    make_result(tmp_path / "table", policy="table", counts={"table": "faces.csv"})
    assert "Flickr" in page(facts_of(tmp_path / "adience", 0))
    text = page(facts_of(tmp_path / "table", 0))
    assert "Flickr" not in text
    assert "the table faces.csv" in text


def test_drawings_are_called_drawings_at_the_top():
    about = "These images are drawings."
    card = {"data": {"kind": "drawn", "name": "synthetic (drawn) faces", "about": about}}
    text = page(tiny_facts(card=card))
    assert f"**Not for real faces.** {about}" in text.split("## Use it")[0]


@pytest.mark.parametrize("fold", ["", "fold 2: "])
def test_a_model_that_guessing_equals_says_so_before_its_scores(fold: str):
    (warning,) = learning_warnings([], classes=10, accuracy=9.7, majority=10.0, nll=None)
    top = page(tiny_facts(card={"warnings": ["5 images are gone", fold + warning]})).split("## Use it")[0]
    assert top.index("nothing useful was learned.**") < top.index("It named")
    assert "images are gone" not in top
    assert "majority" not in page(tiny_facts()).split("## Use it")[0]


def test_more_views_than_one_and_other_precisions_are_told():
    text = page(tiny_facts(test_crops="ten", precision="int8"))
    assert "several views of an image (test crops: ten)" in text
    assert "`crl predict` averages over the same ones" in text
    assert "in float32; how far this int8 file is from it" in text
    plain = page(tiny_facts())
    assert "several views" not in plain
    assert "in float32" not in plain


def test_a_category_model_has_no_word_about_age():
    names = tuple(f"bird {number}" for number in range(200))
    facts = tiny_facts(
        task="category", class_names=names, crop=None, metrics={"n": 243, "accuracy": 81.25}, ordered=False
    )
    text = page(facts)
    assert "one of 200: bird 0," in text
    assert "bird 12" not in text
    assert row_of(text, "accuracy") == ["accuracy", "81.25"]
    for word in ("age", "face", "people", "person", "subject", "one-off"):
        assert not re.search(rf"\b{word}s?\b", text), word


@pytest.mark.parametrize("field", ["title", "class_names", "data", "architecture", "pretraining"])
def test_no_name_is_read_as_markdown_or_html(field):
    evil = "a|b`c*d_[x](y)<script>\n# head"
    values: dict[str, Any] = {
        "title": evil,
        "class_names": (evil, *tiny_facts().class_names[1:]),
        "data": {evil: evil},
        "architecture": {"backbone": evil},
        "pretraining": {"kind": "file", "tag": evil, "license": evil},
    }
    text = page(replace(tiny_facts(), **{field: values[field]}))
    outside = re.sub(r"```.*?```", "", text, flags=re.DOTALL)
    assert "<script>" not in outside
    assert "](y)" not in outside.replace("\\](y)", "")
    assert "\n# head" not in text
    assert len(sections(text)) == 8


def test_no_name_in_a_card_is_read_as_markdown_or_html(tmp_path):
    evil = "<b>|x"
    found = age_card(make_result(tmp_path / "run", policy="table", counts={"table": evil}).folder, 1)
    text = json.dumps(found).replace("15-20", evil).replace("frontal", evil)
    text = page(tiny_facts(**json.loads(text)))
    assert "&lt;b&gt;\\|x" in text
    assert "<b>" not in text


def test_a_file_name_may_hold_anything():
    text = page(tiny_facts(), "odd '```\n name.onnx")
    assert "crl predict 'odd '" in text
    assert not re.search(r"^ name", text, re.MULTILINE)
    assert text.count("\n```") == page(tiny_facts()).count("\n```")


def test_the_python_lines_run_as_they_stand(tmp_path, monkeypatch, capsys):
    import cv2
    import numpy as np

    from tests.apps.tiny_onnx import write_tiny

    write_tiny(tmp_path / "it's.onnx")
    cv2.imwrite(str(tmp_path / "image.jpg"), np.full((40, 40, 3), 90, np.uint8))
    monkeypatch.chdir(tmp_path)
    code = re.search(r"```python\n(.*?)```", page(tiny_facts(), "it's.onnx"), re.DOTALL)
    assert code is not None
    exec(code[1], {})
    assert capsys.readouterr().out.split()[0] in tiny_facts().class_names


def test_parity_licence_and_file_are_told():
    parity = {"batches": [1, 2, 7], "images": 32, "max_relative_difference": 3.2e-6, "equal_argmax": True}
    source = {"kind": "hub", "tag": "a1_in1k", "license": "apache-2.0", "sha256": "cd" * 32}
    text = page(tiny_facts(parity=parity, pretraining=source, versions={"onnxruntime": "1.31.0"}))
    assert row_of(text, "max relative difference")[1] == "3.2e-06"
    assert row_of(text, "batches")[1] == "1, 2, 7"
    assert "licence: **apache-2.0**" in text
    assert row_of(text, "size")[1] == "18.9 MB"
    assert row_of(text, "SHA-256")[1] == f"`{SHA}`"
    assert row_of(text, "versions")[1] == "onnxruntime 1.31.0"
    assert "no other weights" in page(tiny_facts())
    exported = {"exported_with": {"onnxruntime": "1.31.0"}}
    assert row_of(page(tiny_facts(parity=parity, versions=exported)), "ONNX Runtime")[1] == "1.31.0"
    other = {"kind": "file", "file": "w.pth", "licence": "mit"}
    assert "w.pth" in page(tiny_facts(pretraining=other))
    assert "licence: **mit**" in page(tiny_facts(pretraining=other))


def test_a_crop_that_nobody_measured_is_a_limit():
    crop = {"style": "plain", "margin": 0.4}
    asked = page(tiny_facts(crop=crop, data={"face_crop": NOT_MEASURED}))
    assert (
        "**How faces are cut out of photographs for this model is a default that nobody measured**" in asked
    )
    measured = page(tiny_facts(crop=crop, data={"face_crop": "measured on the run's own images by X"}))
    assert "nobody measured**" not in measured
    assert "(measured on the run's own images by X)" in row_of(measured, "face cut out as")[1]
