"""Attention pictures ask for the evidence of the right classes and draw what they were told."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from finegrained.figures.attention import ONE_CELL, draw_attention
from finegrained.figures.examples import Example
from finegrained.figures.image_grid import Line
from tests.finegrained.made_results import class_names
from tests.finetune.drawing import pixels_of

SIZE = 32


def example(target: int, said: int) -> Example:
    return Example(np.full((SIZE, SIZE, 3), 90, np.uint8), target, said, 0.5)


def ramp(crop: np.ndarray, index: int) -> np.ndarray:
    return np.linspace(0, 1, SIZE * SIZE, dtype=np.float32).reshape(SIZE, SIZE)


def test_the_answer_is_explained_and_of_a_wrong_one_the_true_class_too(tmp_path: Path):
    asked: list[int] = []

    def look(crop: np.ndarray, index: int) -> np.ndarray:
        asked.append(index)
        return ramp(crop, index)

    examples = [example(3, 3), example(1, 4), example(0, 0)]
    pixels_of(draw_attention(examples, look, class_names(6), tmp_path / "a.png"))
    assert sorted(asked) == [0, 1, 3, 4]


@pytest.mark.parametrize("said", [0, 1])
def test_only_right_or_only_wrong_answers_are_drawn_too(said: int, tmp_path: Path):
    pixels_of(draw_attention([example(0, said)] * 4, ramp, class_names(200), tmp_path / "a.png"))


def test_evidence_changes_the_picture_and_none_leaves_the_crop(tmp_path: Path):
    def nothing(crop: np.ndarray, index: int) -> np.ndarray:
        return np.zeros((SIZE, SIZE), np.float32)

    names = class_names(2)
    some = pixels_of(draw_attention([example(0, 0)], ramp, names, tmp_path / "some.png"))
    none = pixels_of(draw_attention([example(0, 0)], nothing, names, tmp_path / "none.png"))
    yellow = (some[..., 0] > 150) & (some[..., 2] < 80)
    assert yellow.sum() > 100
    assert not ((none[..., 0] > 150) & (none[..., 2] < 80)).any()


def test_why_there_is_no_evidence_is_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    told: list[str] = []
    monkeypatch.setattr(
        "finegrained.figures.attention.Line", lambda text, *more: told.append(text) or Line(text, *more)
    )

    def nothing(crop: np.ndarray, index: int) -> np.ndarray:
        return np.zeros((SIZE, SIZE), np.float32)

    draw_attention([example(0, 0)], nothing, class_names(2), tmp_path / "a.png")
    draw_attention([example(0, 0)], nothing, class_names(2), tmp_path / "b.png", nothing=ONE_CELL)
    assert told == ["no evidence anywhere", "the last map has one cell"]
