"""Evidence over a crop: untouched where there is none, brightest where it peaks."""

from __future__ import annotations

import numpy as np
import pytest

from finetune.errors import UsageError
from finetune.figures.evidence import overlay


def test_overlay_leaves_what_has_no_evidence_and_glows_where_it_peaks():
    crop = np.random.default_rng(1).integers(0, 200, (40, 60, 3), dtype=np.uint8)
    evidence = np.zeros((40, 60), np.float32)
    evidence[:, 30:] = np.linspace(0, 1, 30)
    shown = overlay(crop, evidence)
    assert shown.dtype == np.uint8
    assert shown.shape == crop.shape
    np.testing.assert_array_equal(shown[:, :30], crop[:, :30])
    peak = shown[:, -1].astype(int)
    assert (peak[:, 0] > 180).all()  # inferno's upper end is a pale yellow
    assert (peak[:, 1] > 180).all()
    assert (peak[:, 2] < peak[:, 0]).all()


def test_brightness_grows_with_the_evidence():
    """On a black crop, so that it reads in grey as well."""
    shown = overlay(np.zeros((8, 64, 3), np.uint8), np.tile(np.linspace(0, 1, 64), (8, 1)))
    grey = shown[4] @ [0.2126, 0.7152, 0.0722]
    assert (np.diff(grey) >= 0).all()
    assert grey[-1] > 150


@pytest.mark.parametrize("value", [0.0, 3.0, -2.0])
def test_a_constant_map_shows_the_crop_alone(value: float):
    crop = np.random.default_rng(2).integers(0, 256, (32, 32, 3), dtype=np.uint8)
    shown = overlay(crop, np.full((4, 4), value))
    np.testing.assert_array_equal(shown, crop)
    assert shown is not crop


def test_overlay_refuses_what_is_no_map():
    crop = np.zeros((8, 8, 3), np.uint8)
    for evidence in (np.full((2, 2), np.nan), np.zeros((2, 2, 1))):
        with pytest.raises(UsageError, match="finite"):
            overlay(crop, evidence)
    with pytest.raises(UsageError, match="uint8"):
        overlay(crop.astype(float), np.zeros((2, 2)))
