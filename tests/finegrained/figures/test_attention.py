"""Attention images ask for the evidence of the right classes and draw what they were told."""

from __future__ import annotations

from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np
import pytest
import torch

from finegrained.figures.attention import (
    MODEL,
    ONE_CELL,
    _has_one_cell,
    _responder,
    draw_attention,
    draw_model_pictures,
)
from finegrained.figures.examples import Example
from finegrained.figures.image_grid import Line
from finetune.experiments.result import Result
from finetune.images.batches import normalise
from finetune.models.bundle import save_bundle
from finetune.models.classifier import build_classifier
from finetune.training.learner import load_classifier
from tests.finegrained.made_results import class_names, make_result
from tests.finetune.drawing import pixels_of

SIZE = 32

PLACE = PurePosixPath("pictures")
BACKBONE = "test_resnet"


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


def with_model(folder: Path, head: str, pictures: bool = True, **options: Any) -> Result:
    """Return a result whose folder holds an untrained model with this head."""
    result = make_result(folder, 3, per_class=3, pictures=pictures, hit=0.5)
    generator = torch.random.get_rng_state()
    torch.manual_seed(0)
    core = build_classifier(BACKBONE, head, 3, weights="none", head_options=options)
    torch.random.set_rng_state(generator)
    spec = core.backbone.preprocess_spec(64)
    facts = {
        "class_names": list(result.class_names),
        "preprocess": spec.to_dict(),
        "model": {"backbone": BACKBONE},
        "head": {"name": head, "options": options},
    }
    save_bundle(folder / MODEL, core.state_dict(), facts)
    return result


def test_any_head_gets_its_attention_drawn(tmp_path: Path):
    result = with_model(tmp_path / "run", "linear")
    pictures, notes = draw_model_pictures(result, PLACE)
    assert notes == []
    assert [picture.file.as_posix() for picture in pictures] == ["pictures/attention.png"]
    pixels_of(result.folder / "pictures" / "attention.png")


def test_a_dfl_head_gets_its_detectors_drawn(tmp_path: Path):
    result = with_model(tmp_path / "run", "dfl", detectors=2, init="random")
    pictures, _ = draw_model_pictures(result, PLACE)
    assert "pictures/detectors.png" in [picture.file.as_posix() for picture in pictures]
    pixels_of(result.folder / "pictures" / "detectors.png")


def test_responses_are_those_of_the_head_in_evaluation(tmp_path: Path):
    result = with_model(tmp_path / "run", "dfl", pictures=False, detectors=2, init="random")
    core, spec, _ = load_classifier(result.folder / MODEL)
    crop = np.random.default_rng(0).integers(0, 256, (64, 64, 3)).astype(np.uint8)
    images = normalise(torch.from_numpy(crop)[None], spec.mean, spec.std)
    with torch.no_grad():
        expected = core.head.explain(core.backbone(images))["responses"][0].numpy()
    found = _responder(core, spec)(crop)
    assert found.shape[0] == 3 * 2
    assert np.array_equal(found, expected)


def test_without_a_model_the_reason_is_told(tmp_path: Path):
    pictures, (note,) = draw_model_pictures(make_result(tmp_path / "run", 3), PLACE)
    assert pictures == []
    assert "no model.safetensors" in note


def test_without_the_pictures_the_reason_is_told(tmp_path: Path):
    result = with_model(tmp_path / "run", "linear", pictures=False)
    pictures, (note,) = draw_model_pictures(result, PLACE)
    assert pictures == []
    assert ".png" in note


def test_a_damaged_model_is_told(tmp_path: Path):
    result = make_result(tmp_path / "run", 3)
    (result.folder / MODEL).write_bytes(b"not a model")
    pictures, (note,) = draw_model_pictures(result, PLACE)
    assert pictures == []
    assert MODEL in note


def test_a_map_of_one_cell_is_known(tmp_path: Path):
    result = with_model(tmp_path / "run", "linear")
    core, spec, _ = load_classifier(result.folder / MODEL)
    stride = 32
    assert _has_one_cell(core, spec, np.zeros((stride, stride, 3), np.uint8))
    assert not _has_one_cell(core, spec, np.zeros((2 * stride, 2 * stride, 3), np.uint8))
    dfl, spec, _ = load_classifier(with_model(tmp_path / "dfl", "dfl", init="random").folder / MODEL)
    assert not _has_one_cell(dfl, spec, np.zeros((64, 64, 3), np.uint8))
