"""A report's pictures that need the model: drawn where they can be, and told why where they cannot."""

from __future__ import annotations

from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np
import torch

from finegrained.figures.model_pictures import MODEL, _has_one_cell, _responder, draw_model_pictures
from finetune.experiments.result import Result
from finetune.images.batches import normalise
from finetune.models.bundle import save_bundle
from finetune.models.classifier import build_classifier
from finetune.training.learner import load_classifier
from tests.finegrained.made_results import make_result
from tests.finetune.drawing import pixels_of

PLACE = PurePosixPath("pictures")
BACKBONE = "test_resnet"


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
