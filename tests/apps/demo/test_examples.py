from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
import pytest

from apps.demo.examples import THUMBNAIL, read_examples
from finetune.errors import UsageError

CLASSES = ("0-2", "60+", "..")


def paint(file: Path, shade: int) -> Path:
    """Write an image that is wider than high."""
    file.parent.mkdir(parents=True, exist_ok=True)
    cv2.imwrite(str(file), np.full((40, 90, 3), shade, np.uint8))
    return file


def test_the_folder_tells_the_class_and_the_root_tells_none(tmp_path):
    paint(tmp_path / "0-2" / "baby.png", 10)
    paint(tmp_path / "60+" / "old.png", 20)
    paint(tmp_path / "free.png", 30)
    paint(tmp_path / "cats" / "tom.png", 40)
    (tmp_path / "0-2" / "notes.txt").write_text("no image")
    found = read_examples(tmp_path, CLASSES)
    assert [(item.path.name, item.class_name) for item in found.items] == [
        ("free.png", None),
        ("baby.png", "0-2"),
        ("old.png", "60+"),
    ]
    assert found.notices == ()
    assert found.items[0].thumbnail.shape == (THUMBNAIL, THUMBNAIL, 3)


def test_a_class_named_like_the_parent_folder_leads_nowhere(tmp_path):
    paint(tmp_path / "secret.png", 10)
    inner = tmp_path / "examples"
    inner.mkdir()
    assert read_examples(inner, CLASSES).items == ()


def test_every_class_gets_its_turn_when_there_are_too_many(tmp_path):
    for number in range(5):
        paint(tmp_path / "0-2" / f"a{number}.png", number)
        paint(tmp_path / "60+" / f"b{number}.png", 50 + number)
    names = [item.path.name for item in read_examples(tmp_path, CLASSES, limit=3).items]
    assert names == ["a0.png", "b0.png", "a1.png"]


def test_a_bad_picture_is_left_out_and_said(tmp_path):
    (tmp_path / "0-2").mkdir()
    (tmp_path / "0-2" / "bad.jpg").write_text("<html>")
    paint(tmp_path / "0-2" / "good.jpg", 9)
    found = read_examples(tmp_path, CLASSES)
    assert [item.path.name for item in found.items] == ["good.jpg"]
    assert found.notices[0].startswith("example bad.jpg is left out: a web page")


def test_a_picture_under_two_classes_has_no_known_class(tmp_path):
    first, second = paint(tmp_path / "0-2" / "a.png", 7), tmp_path / "60+" / "b.png"
    second.parent.mkdir()
    second.write_bytes(first.read_bytes())
    found = read_examples(tmp_path, CLASSES)
    assert [item.class_name for item in found.items] == [None]
    assert "two classes" in found.notices[0]


def test_a_copy_of_an_example_is_known_again(tmp_path):
    example = paint(tmp_path / "in" / "60+" / "a.png", 7)
    found = read_examples(tmp_path / "in", CLASSES)
    copy, other = tmp_path / "copy.png", paint(tmp_path / "other.png", 8)
    copy.write_bytes(example.read_bytes())
    assert found.class_of(copy) == "60+"
    assert found.class_of(other) is None
    assert found.holds(example)
    assert not found.holds(copy)


@pytest.mark.parametrize("places", [None, "0", 5, {"a": 1}, [-1], [9], [True], ["0"], [1.0], [[0]]])
def test_places_from_the_browser_that_are_none_are_left_out(tmp_path, places):
    paint(tmp_path / "a.png", 7)
    paint(tmp_path / "b.png", 8)
    assert read_examples(tmp_path, CLASSES).at(places) == []


def test_places_name_pictures(tmp_path):
    files = [paint(tmp_path / f"{name}.png", ord(name)) for name in "ab"]
    assert read_examples(tmp_path, CLASSES).at([1, 0]) == files[::-1]


def test_a_missing_folder_is_refused(tmp_path):
    with pytest.raises(UsageError, match="no such folder"):
        read_examples(tmp_path / "nowhere", CLASSES)


def test_a_folder_cannot_hold_a_slash_and_has_a_hyphen_for_it(tmp_path):
    paint(tmp_path / "Ram C-V Cargo Van Minivan 2012" / "a.png", 10)
    (found,) = read_examples(tmp_path, ("Audi", "Ram C/V Cargo Van Minivan 2012")).items
    assert found.class_name == "Ram C/V Cargo Van Minivan 2012"
