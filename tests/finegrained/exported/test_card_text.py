"""The card of a category model: scores, the categories recognised worst, and how images were shown."""

from __future__ import annotations

import re
from typing import Any

from apps.export.card import write_card
from apps.runtime.metadata import ModelFacts
from finegrained.exported.card_text import boxes_line, by_class, in_one_sentence
from tests.apps.tiny_onnx import tiny_facts

METRICS = {
    "n": 60, "top1": 81.25, "top5": 95.0, "balanced_accuracy": 80.5, "ece": 0.05, "nll": 0.6,
    "top1_interval": [70.0, 89.1], "baseline": {"class": "wren_1", "top1": 5.0},
}  # fmt: skip


def class_rows(count: int) -> list[dict[str, Any]]:
    """Return rows of classes, each a percent better than the one before."""
    return [
        {
            "name": f"bird {i}",
            "n": 100,
            "right": i,
            "accuracy": float(i),
            "taken_for": "wren",
            "taken_for_n": 3,
        }
        for i in range(count)
    ]


def facts(**changes: Any) -> ModelFacts:
    given: dict[str, Any] = {
        "task": "category", "ordered": False, "crop": None, "class_names": ("wren_1", "auk", "owl"),
        "metrics": METRICS, "data": {},
    }  # fmt: skip
    return tiny_facts(**(given | changes))


def page(**changes: Any) -> str:
    return write_card(facts(**changes), "model.onnx", "ab" * 32, 1_000_000)


def test_scores_stand_in_a_sentence_and_a_table():
    text = page()
    assert "It named the labelled category for 81 in 100 of 60 test images; that category was among" in text
    assert "| correct category (top-1) | 81.2 % | 70.0 to 89.1 | 5.0 % |" in text
    assert "| correct category among five (top-5) | 95.0 % |" in text
    assert r"naming wren\_1 always" in text
    assert "differ by 5.0 points on average" in text


def test_few_classes_have_no_top_five():
    assert in_one_sentence({"n": 9, "top1": 50.0, "top5": None}).endswith("of 9 test images.")
    assert in_one_sentence({}) == ""


def test_the_worst_come_first_and_the_rest_can_be_opened():
    text = by_class(class_rows(60))
    first, rest = text.split("<details>")
    assert re.findall(r"bird \d+", first) == [f"bird {number}" for number in range(10)]
    assert "The other 50 categories" in rest
    assert len(re.findall(r"bird \d+", rest)) == 50
    assert "| bird 7 | 7 of 100 | 7.0 % | wren (3) |" in first
    assert "details" not in by_class(class_rows(20))


def test_categories_that_nobody_tested_are_counted():
    rows = [*class_rows(3), {"name": "dodo", "n": 0, "right": 0, "accuracy": None, "taken_for": None}]
    assert by_class(rows).endswith("1 further categories have no test image.")
    assert by_class(rows[3:]) == ""


def test_views_that_were_averaged_are_told():
    assert "averages over the same ones" in page(test_crops="ten")
    assert "**This file shows the centre alone**" in page(card={"test_crops": "cam"})
    assert "several views" not in page()


def test_a_smaller_file_s_scores_are_the_trained_model_s():
    assert "how far this fp16 file is from it" in page(precision="fp16")


def test_boxes_are_told():
    assert boxes_line(facts()) == ""
    line = boxes_line(facts(data={"picture_crop": "box", "box_margin": 0.15}))
    assert "with 15 % of its sides added" in line
    assert line in page(data={"picture_crop": "box", "box_margin": 0.15})


def test_data_are_told_in_a_few_rows():
    data = {
        "name": "a part of CUB", "images": 543, "classes": 10, "per_class": {"min": 41, "max": 60},
        "test": 243, "protocol_words": "test split scored once", "crop": {"kind": "box", "margin": 0.1},
        "left_out": {"unreadable images": 2}, "about": "Photographs.",
    }  # fmt: skip
    text = page(card={"data": data, "training": {"n_train": 270, "n_validation": 30}})
    assert "| data | a part of CUB; 543 images of 10 categories; per category 41 to 60 |" in text
    assert "270 training images; 30 validation images; 243 test images; test split scored once" in text
    assert "cut to their boxes (margin 0.1)" in text
    assert "2 unreadable images" in text
    assert "Photographs." in text
