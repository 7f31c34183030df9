"""The lines that card and docs give to other programs: a file's probabilities from its metadata alone."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from apps.export.card import write_card
from apps.export.metadata import REFERENCE, reference_code
from apps.runtime.session import OnnxClassifier
from finetune.images.preprocess import PreprocessSpec
from tests.apps.tiny_onnx import tiny_facts, write_tiny
from tests.finetune.pictures import smooth_picture

MEAN = (0.5, 0.5, 0.5)
SIZES = [(300, 200), (200, 330), (20, 14), (20, 90), (36, 36), (37, 36)]  # height, width


@pytest.mark.parametrize("resize", ["warp", "short"])
@pytest.mark.parametrize("interpolation", ["bicubic", "bilinear"])
def test_the_metadata_alone_give_the_same_probabilities(tmp_path: Path, resize: str, interpolation: str):
    spec = PreprocessSpec(32, resize, 36, interpolation, MEAN, MEAN)  # type: ignore[arg-type]
    model = write_tiny(tmp_path / "model.onnx", tiny_facts(preprocess=spec))
    noise = np.random.default_rng(0)
    for height, width in SIZES:
        file = tmp_path / f"{height}x{width}.png"
        rough = noise.integers(0, 80, (height, width, 3))
        image = np.clip(smooth_picture(1, height, width).astype(int) + rough, 0, 255)
        Image.fromarray(image.astype(np.uint8)).save(file)
        found: dict[str, np.ndarray] = {}
        exec(reference_code(str(model), str(file)), found)
        expected = OnnxClassifier(model, device="cpu").predict([file])[0].probs
        assert np.abs(found["probs"] - expected).max() < 1e-5


def test_card_and_docs_show_these_very_lines():
    assert REFERENCE in (Path(__file__).parents[3] / "docs" / "export.md").read_text()
    text = write_card(tiny_facts(), "tiny.onnx", "0" * 64, 1000)
    assert reference_code("tiny.onnx") in text
    assert "shrinking by area averages and enlarging by bicubic" in text
