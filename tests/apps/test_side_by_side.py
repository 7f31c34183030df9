from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

import apps.side_by_side
from apps.session import OnnxClassifier
from apps.side_by_side import probabilities
from finetune.preprocess import PreprocessSpec, preprocess
from tests.apps.tiny_onnx import SPEC, expected_probs, tiny_facts, write_tiny
from tests.apps.tiny_run import write_pictures


def test_a_picture_is_decoded_once_for_all_models(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    small = PreprocessSpec(16, "warp", 20, "bicubic", (0.5,) * 3, (0.5,) * 3)
    facts = [tiny_facts(), tiny_facts(), tiny_facts(preprocess=small)]
    models = [
        OnnxClassifier(write_tiny(tmp_path / f"{seed}.onnx", fact, seed=seed), device="cpu")
        for seed, fact in enumerate(facts)
    ]
    pixels = write_pictures(tmp_path / "pictures", 9)
    files = sorted((tmp_path / "pictures").iterdir())
    seen: list[Path] = []
    decode = apps.side_by_side.decode_image
    monkeypatch.setattr(apps.side_by_side, "decode_image", lambda file: seen.append(file) or decode(file))
    found = probabilities(models, files, ["center", "flip", "ten"], batch_size=30)
    assert sorted(seen) == files
    prepared = np.stack([preprocess(image, SPEC) for image in pixels])
    np.testing.assert_allclose(found[0], expected_probs(prepared, seed=0), atol=1e-6)
    np.testing.assert_allclose(found[1], expected_probs(prepared, seed=1), atol=1e-6)
    alone = np.stack([answer.probs for answer in models[2].predict(files, test_crops="ten")])
    np.testing.assert_allclose(found[2], alone, atol=1e-6)


def test_no_picture_gives_no_row(tmp_path: Path):
    model = OnnxClassifier(write_tiny(tmp_path / "tiny.onnx"), device="cpu")
    assert probabilities([model], [], ["center"])[0].shape == (0, 8)
