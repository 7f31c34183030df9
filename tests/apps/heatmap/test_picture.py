"""The heat map as a PNG: it exists at every size that is offered, and says so where one is not."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from apps.heatmap.heatmap import heat_map
from apps.heatmap.picture import draw_png, encode_image, fits_png
from finetune.errors import UsageError
from finetune.figures import canvas
from finetune.figures.canvas import VERMILION
from finetune.images.decode import decode_image
from tests.finetune.drawing import has_colour


def softmax(pictures: int, classes: int, seed: int = 0) -> np.ndarray:
    """Return made-up probabilities (N, K)."""
    powers = np.exp(2 * np.random.default_rng(seed).normal(size=(pictures, classes)))
    return np.asarray(powers / powers.sum(axis=1, keepdims=True))


@pytest.mark.parametrize(("pictures", "models", "classes"), [(1, 1, 2), (2, 4, 8), (16, 1, 25), (4, 2, 80)])
def test_every_size_is_drawn(tmp_path: Path, pictures: int, models: int, classes: int):
    found = heat_map(
        [f"{row}.jpg" for row in range(pictures)],
        [f"class {index}" for index in range(classes)],
        {f"model {number}": softmax(pictures, classes, number) for number in range(models)},
        [0] * pictures,
    )
    pixels = decode_image(draw_png(found, tmp_path / "made" / "a.png"))
    assert pixels.shape[1] >= 5 * 160
    assert has_colour(pixels, VERMILION)


def test_the_crop_the_network_saw_stands_beside_the_name(tmp_path: Path):
    leaf = np.full((48, 48, 3), (20, 200, 60), np.uint8)
    names, tables = ["a", "b"], {"m": softmax(2, 8)}
    groups = [str(index) for index in range(8)]
    found = heat_map(names, groups, tables, None, [leaf, None])
    assert has_colour(decode_image(draw_png(found, tmp_path / "a.png")), "#14c83c")
    assert not has_colour(
        decode_image(draw_png(heat_map(names, groups, tables), tmp_path / "b.png")), "#14c83c"
    )


def test_the_words_tell_what_the_marks_mean(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    from matplotlib.figure import Figure

    seen: list[str] = []
    original = Figure.text

    def record(self: Any, x: float, y: float, s: str, *arguments: Any, **keywords: Any) -> Any:
        seen.append(s)
        return original(self, x, y, s, *arguments, **keywords)

    monkeypatch.setattr(Figure, "text", record)
    draw_png(heat_map(["a"], ["cat", "dog"], {"m": softmax(1, 2)}), tmp_path / "a.png")
    assert seen == ["Softmax probabilities: 1 image", "bold = predicted class; 0 = below 0.005"]
    seen.clear()
    names = [str(index) for index in range(40)]
    draw_png(heat_map(["a"], names, {"m": softmax(1, 40)}, [3]), tmp_path / "b.png", title="Mine")
    assert seen[0] == "Mine"
    assert seen[1].startswith("outlined = true class, bold = predicted class")
    assert "24 of 40 classes have a column: the most probable and the true ones" in seen[1]


def test_too_many_pictures_are_refused_with_the_way_out(tmp_path: Path):
    many = heat_map([str(row) for row in range(401)], ["cat", "dog"], {"m": softmax(401, 2)})
    with pytest.raises(UsageError, match=r"401 images.*\.html or \.csv"):
        draw_png(many, tmp_path / "a.png")
    assert list(tmp_path.iterdir()) == []


def test_long_names_of_columns_stay_different(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    seen: list[str] = []
    monkeypatch.setattr(canvas, "label_ticks", lambda axes, side, names, **style: seen.extend(names))
    names = [f"Chevrolet Silverado {kind} Regular Cab 2012" for kind in ("1500", "2500HD")]
    draw_png(heat_map(["a"], names, {"m": np.array([[0.25, 0.75]])}), tmp_path / "a.png")
    assert len(set(seen)) == 2
    assert max(map(len, seen)) <= 28


def test_what_fits_a_picture_is_drawn():
    table = softmax(400, 2)
    assert fits_png(heat_map([str(row) for row in range(400)], ["cat", "dog"], {"m": table}))
    assert not fits_png(heat_map([str(row) for row in range(401)], ["cat", "dog"], {"m": softmax(401, 2)}))


def test_a_png_gives_the_same_pixels_back_and_a_jpg_gives_near_ones():
    image = np.zeros((16, 24, 3), np.uint8)
    image[:, :12] = (200, 60, 10)
    np.testing.assert_array_equal(decode_image(encode_image(image)), image)
    near = decode_image(encode_image(image, ".jpg", quality=95)).astype(int)
    assert np.abs(near[4, 4] - (200, 60, 10)).max() < 12
    noise = np.random.default_rng(0).integers(0, 256, (64, 64, 3), dtype=np.uint8)
    assert len(encode_image(noise, ".jpg", quality=30)) < len(encode_image(noise, ".jpg", quality=95))


def test_what_cannot_be_encoded_is_refused():
    with pytest.raises(ValueError, match="could not be written"):
        encode_image(np.zeros((1, 70_000, 3), np.uint8), ".jpg")
