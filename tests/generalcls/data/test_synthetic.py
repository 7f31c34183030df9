"""The look-alikes: the same arguments write the same bytes, and the classes can be told apart."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from generalcls.data.synthetic import (
    draw_images,
    write_lookalike_cifar,
    write_lookalike_mnist,
    write_lookalike_svhn,
)


def test_the_same_arguments_write_the_same_pictures(tmp_path: Path):
    for write in (write_lookalike_mnist, write_lookalike_cifar):
        for name in ("one", "two"):
            write(tmp_path / name)
    files = {
        name: sorted(file for file in (tmp_path / name).rglob("*") if file.is_file())
        for name in ("one", "two")
    }
    for one, two in zip(files["one"], files["two"], strict=True):
        assert one.read_bytes() == two.read_bytes()
    first, second = (write_lookalike_svhn(tmp_path / name, seed=seed) for name, seed in (("a", 0), ("b", 1)))
    assert not np.array_equal(first["train"].images, second["train"].images)


@pytest.mark.parametrize("channels", [1, 3])
def test_a_linear_rule_on_the_spectrum_tells_the_classes_apart(channels: int):
    train, test = (draw_images(10, 20, 28, channels, part=part) for part in ("train", "test"))
    spectra = [
        np.abs(np.fft.fft2(part.images.mean(-1)))[:, :8].reshape(len(part), -1) for part in (train, test)
    ]
    means = np.stack([spectra[0][train.target == label].mean(0) for label in range(10)])
    near = np.linalg.norm(spectra[1][:, None] - means, axis=-1).argmin(1)
    assert (near == test.target).mean() > 0.8
