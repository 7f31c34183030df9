"""The figure of evidence: its pixels are the network's, and its words say what it shows."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest

from finetune.figures import canvas, evidence_figure
from finetune.figures.evidence import enlarged, overlay
from finetune.figures.evidence_figure import FOOT, GAP, MARGIN, NONE, Caption, draw_evidence

HOW = "class activation map: what each place adds to the class's score"
CROP = np.random.default_rng(0).integers(0, 256, (32, 32, 3), dtype=np.uint8)
CORNER = np.pad(np.ones((1, 1), np.float32), ((0, 3), (3, 0)))


@pytest.fixture
def written(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """What a figure has written: title, lines below it, and every further text."""
    told: list[str] = []
    real_figure, real_write = canvas.new_figure, evidence_figure._write

    def new_figure(out: Path, height: float, title: str, subtitle: str, width: float) -> Any:
        told.extend([title, subtitle])
        return real_figure(out, height, title, subtitle, width=width)

    def write(figure: Any, x: float, y: float, text: str, *colour: str) -> None:
        told.append(text)
        real_write(figure, x, y, text, *colour)

    monkeypatch.setattr(canvas, "new_figure", new_figure)
    monkeypatch.setattr(evidence_figure, "_write", write)
    return told


def caption(**changes: Any) -> Caption:
    given = {"class_names": ("cat", "dog"), "class_index": 1, "probability": 0.8731, "model": "CRL"}
    return Caption(**{**given, "image": "a.jpg", "method": HOW, **changes})


def test_crop_and_overlay_stand_there_pixel_for_pixel(tmp_path: Path):
    drawn = cv2.cvtColor(cv2.imread(str(draw_evidence(tmp_path / "a.png", CROP, CORNER, caption()))), 4)
    side, bottom = 256, len(drawn) - FOOT
    left, right = enlarged(CROP), enlarged(overlay(CROP, CORNER))
    shown = drawn[bottom - side : bottom]
    np.testing.assert_array_equal(shown[:, MARGIN : MARGIN + side], left)
    start = MARGIN + side + GAP
    np.testing.assert_array_equal(shown[:, start : start + side], right)
    assert (drawn[: bottom - side] < 128).any()  # words stand above


def test_the_caption_names_class_probability_model_image_and_method(tmp_path: Path, written: list[str]):
    draw_evidence(tmp_path / "a.png", CROP, CORNER, caption())
    assert written[0] == "dog, probability 0.873"
    assert written[1].replace("\n", " ") == f"model: CRL image: a.jpg right: {HOW}"
    assert [text for text in written[2:] if text] == ["evidence for the class: low", "high"]


def test_the_colour_key_runs_from_grey_to_the_brightest_colour(tmp_path: Path):
    drawn = cv2.imread(str(draw_evidence(tmp_path / "a.png", CROP, CORNER, caption())))
    row = cv2.cvtColor(drawn, cv2.COLOR_BGR2RGB)[len(drawn) - FOOT + 2 * MARGIN]
    ramp = np.tile(np.linspace(0, 1, 200, dtype=np.float32), (14, 1))
    key = overlay(np.full((14, 200, 3), 128, np.uint8), ramp)[7]
    assert any((row[start : start + 200] == key).all() for start in range(len(row) - 199))
    assert (key[0] == 128).all()
    assert key[-1, 0] > 180 > key[-1, 2]  # a pale yellow


def test_a_map_without_evidence_says_so_and_has_no_key(tmp_path: Path, written: list[str]):
    draw_evidence(tmp_path / "a.png", CROP, CORNER * 0, caption())
    assert [text for text in written[2:] if text] == [NONE]


def test_long_names_are_cut_to_the_figure_with_a_note(tmp_path: Path, written: list[str]):
    long = "Chevrolet Silverado 1500 Hybrid Crew Cab 2012 and so on " * 5
    given = caption(class_names=("cat", long), model="x" * 200, image="y" * 300 + ".jpg")
    drawn = cv2.imread(str(draw_evidence(tmp_path / "a.png", CROP, CORNER, given)))
    room = (drawn.shape[1] - 2 * MARGIN) / canvas.DOTS_PER_INCH
    assert canvas.text_width(written[0], canvas.TITLE, bold=True) <= room
    assert canvas.text_width(written[1], evidence_figure.TEXT) <= room
    assert written[0].endswith("probability 0.873")
    assert written[-1] == "…: shortened; the command's table has the whole names"
    assert (drawn[:, -4:] == 255).all()  # nothing runs out of the figure


def test_signs_that_no_font_has_become_numbers_and_question_marks_with_a_note(
    tmp_path: Path, written: list[str]
):
    given = caption(class_names=("cat", "\ue000\ue001"), model="CRL \ue002")
    drawn = cv2.imread(str(draw_evidence(tmp_path / "a.png", CROP, CORNER, given)))
    assert written[0] == "class 1, probability 0.873"
    assert "?: a sign that no font here can draw" in written
    plain = cv2.imread(str(draw_evidence(tmp_path / "b.png", CROP, CORNER, caption())))
    assert len(drawn) > len(plain) + 26  # and below it the note on numbers
