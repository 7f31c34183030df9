"""What all readers share: official counts, missing images, subsets, the table."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from finegrained.data.reading import (
    OFFICIAL_CARS,
    OFFICIAL_CUB,
    ListedImage,
    Lists,
    ReadingRules,
    check_official,
    finish,
)
from finetune.errors import DataError, UsageError


def _listed(train: int, test: int) -> list[ListedImage]:
    return [ListedImage(f"{n}.jpg", 0, "train" if n < train else "test", str(n)) for n in range(train + test)]


def _lists(root: Path, count: int = 4) -> Lists:
    rows = [ListedImage(f"{n}.jpg", n % 2, ("train", "test")[n // 2 % 2], str(n)) for n in range(count)]
    return Lists("cub", root, ("a", "b", "empty"), rows, whole=True)


def test_the_official_counts_pass_and_are_called_whole(tmp_path: Path):
    assert check_official(OFFICIAL_CUB, _listed(5994, 5794), 200, tmp_path, subset=False) == (True, [])
    assert check_official(OFFICIAL_CARS, _listed(8144, 8041), 196, tmp_path, subset=True) == (True, [])


@pytest.mark.parametrize(
    ("train", "test", "classes"), [(5993, 5794, 200), (5794, 5994, 200), (5994, 5794, 199)]
)
def test_any_other_count_is_refused_with_both_and_told_of_a_subset(
    tmp_path: Path, train: int, test: int, classes: int
):
    rows = _listed(train, test)
    told = f"{train} of 5994 train, {test} of 5794 test, {classes} of 200 classes"
    with pytest.raises(DataError, match=told):
        check_official(OFFICIAL_CUB, rows, classes, tmp_path, subset=False)
    whole, notices = check_official(OFFICIAL_CUB, rows, classes, tmp_path, subset=True)
    assert not whole
    assert told in notices[0]


def test_a_seventy_thirty_split_of_all_birds_is_refused(tmp_path: Path):
    with pytest.raises(DataError, match="8251 of 5994 train"):
        check_official(OFFICIAL_CUB, _listed(8251, 3537), 200, tmp_path, subset=False)


def test_the_2010_edition_is_named_for_what_it_is(tmp_path: Path):
    for subset in (False, True):
        with pytest.raises(DataError, match="CUB-200 of 2010"):
            check_official(OFFICIAL_CUB, _listed(3000, 3033), 200, tmp_path, subset=subset)


def test_missing_pictures_are_refused_counted_or_dropped(tmp_path: Path):
    for name in ("0.jpg", "1.jpg", "2.jpg"):
        (tmp_path / name).write_bytes(b"x")
    with pytest.raises(DataError, match=r"1 of 4 listed images.*\n.*3\.jpg"):
        finish(_lists(tmp_path), ReadingRules())
    counted = finish(_lists(tmp_path), ReadingRules(missing="count"))
    assert (len(counted.manifest), counted.report["missing_images"], counted.report["official"]) == (
        4,
        1,
        True,
    )
    dropped = finish(_lists(tmp_path), ReadingRules(missing="drop"))
    assert (len(dropped.manifest), dropped.report["missing_first"]) == (3, ["3.jpg"])
    assert not dropped.report["official"]
    assert "1 images are missing" in dropped.report["notices"][-1]


def test_metadata_alone_looks_for_no_picture(tmp_path: Path):
    report = finish(_lists(tmp_path), ReadingRules(metadata_only=True)).report
    assert (report["images"], report["missing_images"]) == (4, None)


def test_nothing_left_is_refused(tmp_path: Path):
    with pytest.raises(DataError, match="none of the 4 images"):
        finish(_lists(tmp_path), ReadingRules(missing="drop"))


def test_classes_without_an_image_stay_in_a_whole_set_and_leave_a_subset(tmp_path: Path):
    whole = finish(_lists(tmp_path), ReadingRules(metadata_only=True)).manifest
    assert whole.class_names == ("a", "b", "empty")
    part = finish(_lists(tmp_path), ReadingRules(metadata_only=True, subset=True))
    assert part.manifest.class_names == ("a", "b")
    assert "1 of 3 listed classes" in part.report["notices"][0]


def test_labels_close_up_in_the_official_order_when_classes_leave(tmp_path: Path):
    rows = [ListedImage("x.jpg", 2, "train", "1"), ListedImage("y.jpg", 0, "train", "2")]
    lists = Lists("cub", tmp_path, ("a", "gone", "c"), rows)
    manifest = finish(lists, ReadingRules(metadata_only=True, subset=True)).manifest
    assert manifest["class_name"].tolist() == ["c", "a"]
    assert manifest.label.tolist() == [1, 0]


def test_a_file_listed_twice_is_refused(tmp_path: Path):
    rows = [ListedImage("x.jpg", 0, "train", "1"), ListedImage("x.jpg", 0, "test", "2")]
    with pytest.raises(DataError, match="more than once"):
        finish(Lists("cub", tmp_path, ("a",), rows), ReadingRules(metadata_only=True))


def test_an_unknown_box_is_nan_beside_known_ones(tmp_path: Path):
    rows = [ListedImage("x.jpg", 0, "", "1", (1, 2, 3, 4)), ListedImage("y.jpg", 0, "", "2")]
    manifest = finish(Lists("cub", tmp_path, ("a",), rows), ReadingRules(metadata_only=True)).manifest
    assert manifest["y2"][0] == 4
    assert np.isnan(manifest["x1"][1])


def test_links_out_of_the_root_are_refused_unless_followed(tmp_path: Path):
    root = tmp_path / "root"
    root.mkdir()
    (tmp_path / "out.jpg").write_bytes(b"x")
    (root / "0.jpg").symlink_to(tmp_path / "out.jpg")
    with pytest.raises(DataError, match="outside the data root"):
        finish(_lists(root, 1), ReadingRules())
    assert len(finish(_lists(root, 1), ReadingRules(follow=True)).manifest) == 1


def test_counts_are_per_part_and_per_class(tmp_path: Path):
    report = finish(_lists(tmp_path, 7), ReadingRules(metadata_only=True, subset=True)).report
    assert (report["train"], report["val"], report["test"]) == (4, 0, 3)
    assert report["per_class"] == {"min": 3, "median": 3.5, "max": 4}
    assert report["per_class_train"] == {"min": 2, "median": 2.0, "max": 2}


def test_an_unknown_rule_for_missing_pictures_is_refused():
    with pytest.raises(UsageError, match="error, count, drop"):
        ReadingRules(missing="skip")  # type: ignore[arg-type]
