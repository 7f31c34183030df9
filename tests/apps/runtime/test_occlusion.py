"""Explanations by hand: where one quarter of the image makes the class, that quarter lights up."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from apps.runtime import occlusion as explain
from apps.runtime.occlusion import explain_onnx, log_odds
from apps.runtime.session import OnnxClassifier
from finetune.errors import UsageError
from finetune.figures.evidence import evidence_map
from tests.apps.tiny_onnx import weights, write_tiny

GREY = 128  # what the tiny model's preprocessing turns to zero, up to half a grey level
QUARTERS = {"top left": (0, 0), "top right": (0, 16), "bottom right": (16, 16)}


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Callable[[bool], OnnxClassifier]:
    """The tiny model, with or without class activation maps."""
    folder = tmp_path_factory.mktemp("tiny")
    made = {
        maps: OnnxClassifier(write_tiny(folder / f"{maps}.onnx", maps=maps), device="cpu", threads=1)
        for maps in (True, False)
    }
    return lambda maps: made[maps]


def telling_crop(row: int, column: int, class_index: int) -> np.ndarray:
    """Return grey with 16 x 16 px at (row, column) in the colour that most raises the class's lead."""
    matrix, _ = weights(8)
    direction = matrix[class_index] - np.delete(matrix, class_index, axis=0).mean(axis=0)
    crop = np.full((32, 32, 3), GREY, np.uint8)
    crop[row : row + 16, column : column + 16] = np.where(direction > 0, 255, 0)
    return crop


@pytest.mark.parametrize("place", QUARTERS.values(), ids=QUARTERS)
@pytest.mark.parametrize("class_index", [2, 7])
def test_occlusion_lights_up_the_quarter_that_makes_the_class(
    model: Callable[[bool], OnnxClassifier], place: tuple[int, int], class_index: int
):
    row, column = place
    found, method = explain_onnx(model(False), telling_crop(row, column, class_index), class_index)
    assert found.shape == (32, 32)
    assert found.dtype == np.float32
    assert 0 <= found.min() <= found.max() <= 1
    inside = found[row : row + 16, column : column + 16]
    outside = found.copy()
    outside[row : row + 16, column : column + 16] = 0
    assert inside[4:12, 4:12].min() > 0.75
    assert outside.sum() < 0.2 * found.sum()
    assert "log-odds" in method


@pytest.mark.parametrize("place", QUARTERS.values(), ids=QUARTERS)
def test_maps_light_up_the_quarter_that_makes_the_class(
    model: Callable[[bool], OnnxClassifier], place: tuple[int, int]
):
    """The map is W x, worked out here: what the colour of the quarter adds, and what grey adds."""
    row, column = place
    matrix, _ = weights(8)
    for class_index, scale in enumerate(matrix):
        crop = np.full((32, 32, 3), GREY, np.uint8)
        crop[row : row + 16, column : column + 16] = np.where(scale > 0, 255, 0)
        found, method = explain_onnx(model(True), crop, class_index)
        own, grey = scale.clip(min=0).sum(), max(scale.sum() * GREY / 255, 0)
        if not own:  # no colour at all speaks for this class
            assert found.max() == 0
            continue
        assert found[row + 3 : row + 13, column + 3 : column + 13].min() > 0.9
        assert found[24 - row, 24 - column] == pytest.approx(grey / own, abs=0.02)
        assert method.startswith("class activation map")


def test_the_map_is_that_of_the_class_asked_for(model: Callable[[bool], OnnxClassifier]):
    crop = np.random.default_rng(0).integers(0, 256, (32, 32, 3), dtype=np.uint8)
    maps = model(True).run(crop[None], maps=True).maps
    assert maps is not None
    for class_index in range(8):
        found, _ = explain_onnx(model(True), crop, class_index)
        np.testing.assert_array_equal(found, evidence_map(maps[0, class_index], 32))


def test_nothing_to_see_is_a_map_of_zeros(model: Callable[[bool], OnnxClassifier]):
    flat = np.full((32, 32, 3), GREY, np.uint8)
    for maps in (True, False):
        assert explain_onnx(model(maps), flat, 3)[0].max() == 0


def test_occlusion_runs_in_batches(model: Callable[[bool], OnnxClassifier], monkeypatch: pytest.MonkeyPatch):
    sizes: list[int] = []
    found = model(False)
    original = found.run
    monkeypatch.setattr(found, "run", lambda batch: sizes.append(len(batch)) or original(batch))
    explain_onnx(found, telling_crop(0, 0, 1), 1)
    assert sizes == [1, 32, 17]


def test_squares_cover_every_pixel_and_leave_the_crop_alone():
    for size in (2, 5, 32, 97):
        crop = np.random.default_rng(size).integers(0, 100, (size, size, 3), dtype=np.uint8)
        before = crop.copy()
        covered, places, edges = explain._covered_crops(crop, (0.5, 1.0, 0.75))
        assert len(covered) == len(places)
        touched = (covered == [128, 255, 191]).all(axis=3)
        assert touched.any(axis=0).all()
        np.testing.assert_array_equal(covered[~touched], np.broadcast_to(crop, covered.shape)[~touched])
        np.testing.assert_array_equal(crop, before)
        assert edges[0] == 0
        assert edges[-1] == size


@pytest.mark.parametrize(("crop", "class_index"), [((32, 32, 3), 8), ((32, 32, 3), -1), ((16, 16, 3), 0)])
def test_another_class_or_crop_is_refused(
    model: Callable[[bool], OnnxClassifier], crop: tuple[int, ...], class_index: int
):
    for maps in (True, False):
        with pytest.raises(UsageError):
            explain_onnx(model(maps), np.zeros(crop, np.uint8), class_index)


def test_log_odds_are_exact_where_the_probability_is_not():
    logits = np.array([[800.0, 0.0, 0.0], [0.0, 0.0, 0.0], [-800.0, 0.0, 0.0]])
    wanted = np.array([800, 0, -800]) - np.log(2)
    np.testing.assert_allclose(log_odds(logits, 0), wanted)


def test_evidence_is_smooth_and_stays_in_place():
    coarse = np.zeros((4, 4))
    coarse[1, 2] = 5.0
    fine = evidence_map(coarse, 64)
    assert np.unravel_index(fine.argmax(), fine.shape) in {(r, c) for r in (23, 24) for c in (39, 40)}
    assert np.abs(np.diff(fine, axis=0)).max() < 0.15
    assert fine[:, :16].max() < 0.02
    assert fine[44:].max() < 0.02


def test_evidence_against_the_class_is_left_out():
    assert evidence_map(np.array([[-5.0, -1.0], [-2.0, -9.0]]), 8).max() == 0
    assert evidence_map(np.array([[-5.0, 1.0], [0.0, 0.0]]), 2).tolist() == [[0, 1], [0, 0]]


def test_importing_needs_no_torch(tmp_path: Path):
    import subprocess
    import sys

    code = (
        "import sys, apps.runtime.occlusion; "
        "sys.exit(bool({'torch', 'timm', 'albumentations'} & set(sys.modules)))"
    )
    root = Path(__file__).resolve().parents[3]
    assert subprocess.run([sys.executable, "-c", code], cwd=root, check=False).returncode == 0
