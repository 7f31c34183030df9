"""`crl general verify`: counts, and equal images within and between the parts."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from generalcls.commands import main
from generalcls.config import GeneralDataConfig
from generalcls.data import verify
from generalcls.data.image_set import ImageSet
from generalcls.data.synthetic import write_lookalike_cifar
from generalcls.data.verify import equal_images, read_checked, verify_general_data


def test_the_digits_are_counted_and_told(capsys: pytest.CaptureFixture[str]):
    result = verify_general_data(GeneralDataConfig())
    told = capsys.readouterr().out
    assert sum(result["counts"]["train"]) + sum(result["counts"]["test"]) == 1797
    assert result["image_shape"] == [8, 8, 1]
    assert "1347 training and 450 test images of 10 classes, 8 x 8 grey" in told
    assert "0 test images are also learned from" in told
    assert json.loads(json.dumps(result)) == result


def test_many_classes_are_told_by_their_spread_and_quick_looks_at_no_pixels(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    write_lookalike_cifar(tmp_path, "cifar100", 2, 1, layout="parquet")
    config = GeneralDataConfig("cifar100", str(tmp_path), subset=True)
    result = verify_general_data(config, quick=True)
    told = capsys.readouterr().out
    assert "equal_images" not in result
    assert ["train", "2", "2.0", "2"] in [line.split() for line in told.splitlines()]
    assert "note: not the published CIFAR-100" in told


def test_equal_images_are_found_within_and_between_the_parts():
    pixels = np.arange(5, dtype=np.uint8).repeat(64).reshape(5, 8, 8, 1)
    train = ImageSet(pixels[[0, 1, 0, 0, 2]], np.array([0, 1, 0, 1, 1]))
    test = ImageSet(pixels[[0, 3, 3, 2, 4]], np.array([0, 1, 1, 1, 0]))
    found = equal_images(train, test)
    assert {kind: (told["images"], told["other_class"]) for kind, told in found.items()} == {
        "within_train": (2, 1),
        "within_test": (1, 0),
        "between": (2, 1),
    }
    assert found["within_test"]["first"] == [[["test", 1, 1], ["test", 2, 1]]]
    assert found["between"]["first"][1] == [["train", 4, 1], ["test", 3, 1]]


def test_a_partial_set_is_told_in_plain_words_by_the_command(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    write_lookalike_cifar(tmp_path, layout="parquet")
    words = ["verify", "--data.name", "cifar10", "--data.root", str(tmp_path)]
    assert main(words) == 3
    told = capsys.readouterr().err
    assert "50 of 50000 training and 20 of 10000 test images" in told
    assert "say --data.subset true" in told
    assert main([*words, "--data.subset", "true"]) == 0
    told = capsys.readouterr().out
    assert "the test part is not the published one" in told
    assert "not the published CIFAR-10, no published score is on it: 50 of 50000 training" in told


def test_equal_images_stand_beside_every_result(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    rng = np.random.default_rng(0)
    for part, name in (("train", "a"), ("train", "b"), ("test", "a"), ("test", "b")):
        (tmp_path / part / name).mkdir(parents=True)
        for number in range(4):
            pixels = rng.integers(0, 256, (8, 8, 3), dtype=np.uint8)
            Image.fromarray(pixels).save(tmp_path / part / name / f"{number}.png")
    shutil.copy(tmp_path / "train/a/0.png", tmp_path / "test/b/0.png")
    config = GeneralDataConfig("folders", str(tmp_path), image_size=8)
    told = "1 test images are also learned from, pixel by pixel, 1 of them under another class"
    data = read_checked(config, "none")
    assert data.notes[-1] == told
    assert not any("repeat" in note for note in data.notes)
    monkeypatch.setattr(verify, "MOST_BYTES", 10)
    assert told not in read_checked(config, "none").notes
    words = ["train", "--data.name=folders", f"--data.root={tmp_path}", "--data.image_size=8", "--device=cpu"]
    words += ["--network.name=logistic", "--train.epochs=1", "--train.batch_size=4", "--run.cache=none"]
    monkeypatch.undo()
    assert main([*words, f"--run.dir={tmp_path / 'run'}"]) == 0
    assert told in json.loads((tmp_path / "run" / "run.json").read_text())["warnings"]
