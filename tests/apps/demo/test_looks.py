from __future__ import annotations

import numpy as np

from apps.demo.looks import MOST_COVERED, look_at, most_looks
from apps.runtime.session import OnnxClassifier
from tests.apps.tiny_onnx import write_tiny


def models(tmp_path, *maps: bool) -> list[OnnxClassifier]:
    files = [write_tiny(tmp_path / f"{n}.onnx", seed=n, maps=has) for n, has in enumerate(maps)]
    return [OnnxClassifier(file, device="cpu", threads=1) for file in files]


def test_only_models_without_maps_are_bounded_and_share_the_bound(tmp_path):
    assert most_looks(models(tmp_path, True, True)) is None
    assert most_looks(models(tmp_path, True, False)) == MOST_COVERED
    assert most_looks(models(tmp_path, False, False)) == MOST_COVERED // 2
    assert most_looks(models(tmp_path, False) * (MOST_COVERED + 1)) == 1


def test_maps_that_came_with_the_answer_are_laid_over_the_crop(tmp_path):
    [model] = models(tmp_path, True)
    crop = np.random.default_rng(0).integers(0, 256, (model.size, model.size, 3), dtype=np.uint8)
    maps = np.zeros((len(model.class_names), 2, 2), np.float32)
    maps[1, 0, 0] = 1
    look, method = look_at(model, crop, 1, maps)
    changed = np.abs(look.astype(int) - crop).max(axis=2)
    half = model.size // 2
    assert changed[:half, :half].mean() > 20 * changed[half:, half:].mean()
    assert "class activation map" in method
    assert (look_at(model, crop, 0, maps)[0] == crop).all()


def test_without_maps_places_are_covered(tmp_path):
    [model] = models(tmp_path, False)
    crop = np.random.default_rng(0).integers(0, 256, (model.size, model.size, 3), dtype=np.uint8)
    look, method = look_at(model, crop, 0, None)
    assert look.shape == crop.shape
    assert "occlusion" in method
