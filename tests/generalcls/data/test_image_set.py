"""Image sets: their shapes, views, label rules, published counts, and what a fingerprint tells apart."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from finetune.errors import DataError
from generalcls.data.image_set import ImageSet, Reading, Whole, array_of, fingerprint, labels_within

ROWS = np.arange(4)


def _images(count: int = 4, channels: int = 1) -> ImageSet:
    pixels = np.arange(count * 64 * channels, dtype=np.uint8).reshape(count, 8, 8, channels)
    return ImageSet(pixels, np.arange(count, dtype=np.int64) % 2)


@pytest.mark.parametrize(
    ("images", "target"),
    [
        (np.zeros((2, 8, 8, 1), np.float32), np.zeros(2, np.int64)),
        (np.zeros((2, 8, 8), np.uint8), np.zeros(2, np.int64)),
        (np.zeros((2, 3, 8, 8), np.uint8), np.zeros(2, np.int64)),
        (np.zeros((2, 8, 8, 1), np.uint8), np.zeros(3, np.int64)),
        (np.zeros((2, 8, 8, 1), np.uint8), np.zeros(2, np.int32)),
    ],
)
def test_other_shapes_and_types_are_refused(images: np.ndarray, target: np.ndarray):
    with pytest.raises(DataError, match=r"uint8 \(N, H, W|int64 \(2,\)"):
        ImageSet(images, target)


def test_neighbouring_rows_are_a_view_and_others_a_copy():
    whole = _images()
    assert np.shares_memory(whole.select(np.array([1, 2])).images, whole.images)
    apart = whole.select(np.array([0, 3]))
    assert not np.shares_memory(apart.images, whole.images)
    assert np.array_equal(apart.images, whole.images[[0, 3]])
    assert len(whole.select(np.array([], dtype=np.int64))) == 0


@pytest.mark.parametrize("labels", [[0, 10], [-1, 0], [0.5, 1.0], [np.nan, 1.0]])
def test_labels_out_of_range_or_between_are_refused_with_their_row(labels: list[float]):
    with pytest.raises(DataError, match=r"file: 1 labels are no whole numbers of \[0, 9\]:\n  row [01]: "):
        labels_within(np.array(labels), 0, 9, "file")


def test_counts_and_checksums_that_differ_are_refused_or_told():
    whole = Whole("Drawn", 6, 2, "the drawer")
    assert whole.difference(6, 2) == ()
    with pytest.raises(DataError, match=r"5 of 6 training and 2 of 2 test images.*the drawer"):
        whole.difference(5, 2)
    with pytest.raises(DataError, match=r"not the published ones: a\.mat"):
        whole.difference(6, 2, ("a.mat",))
    (told,) = replace(whole, subset=True).difference(5, 2, ("a.mat",))
    assert "no published score" in told
    assert "a.mat" in told


def test_the_fingerprint_changes_with_pixels_labels_names_and_split():
    part = _images()
    reading = Reading(part, None, ("a", "b"), official=False)
    base = fingerprint(reading, part, part, (ROWS, ROWS))
    assert base == fingerprint(reading, _images(), _images(), (ROWS, ROWS))
    pixels = part.images.copy()
    pixels[3, 7, 7, 0] ^= 1
    changed = [
        fingerprint(reading, ImageSet(pixels, part.target), part, (ROWS, ROWS)),
        fingerprint(reading, part, ImageSet(pixels, part.target), (ROWS, ROWS)),
        fingerprint(reading, ImageSet(part.images, 1 - part.target), part, (ROWS, ROWS)),
        fingerprint(replace(reading, class_names=("b", "a")), part, part, (ROWS, ROWS)),
        fingerprint(reading, part.select(ROWS[:3]), part, (ROWS, ROWS)),
    ]
    assert len({base, *changed}) == 6


def test_a_digest_stands_for_the_pixels_with_the_rows_in_use():
    part = _images()
    reading = Reading(part, None, ("a", "b"), official=False, content="digest")
    base = fingerprint(reading, part, part, (ROWS, ROWS))
    other_rows = fingerprint(reading, part, part, (ROWS + 1, ROWS))
    other_content = fingerprint(replace(reading, content="other"), part, part, (ROWS, ROWS))
    assert len({base, other_rows, other_content}) == 3


def test_lists_of_unequal_lengths_are_no_array():
    assert array_of([1, 2], "file: labels").tolist() == [1, 2]
    with pytest.raises(DataError, match="file: labels are no array but lists of unequal lengths"):
        array_of([[1], [2, 3]], "file: labels")


def test_the_refusal_of_a_part_tells_how_to_read_it():
    with pytest.raises(DataError, match=r"meant to be a part of it.*say --data\.subset true"):
        Whole("Drawn", 6, 2, "the drawer").difference(5, 2)


def test_yes_and_no_are_no_labels():
    with pytest.raises(DataError, match="labels are numbers in one column, got bool"):
        labels_within(np.array([True, False]), 0, 9, "file")
