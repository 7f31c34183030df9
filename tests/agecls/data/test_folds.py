"""Splits: nobody on two sides, every image tested once, the published sizes, lists that can be checked."""

from __future__ import annotations

import csv
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from agecls.data.adience import read_adience
from agecls.data.age_table import read_age_table
from agecls.data.folds import (
    Split,
    _none_empty,
    _stratified,
    assign_folds,
    check_splits,
    export_splits,
    make_splits,
    missing_classes,
    split_hash,
    verify_splits,
)
from finetune.errors import DataError, UsageError
from finetune.experiments.data_checks import equal_contents
from finetune.images.manifest import Manifest


def _manifest(root: Path = Path("data"), *, folds: bool = True, users: int = 40) -> Manifest:
    """Four images of two people in each album; album k lies in fold k mod 5; four classes."""
    album = np.repeat(np.arange(users), 4)
    columns = {
        "path": np.array([f"{user}/{number}.jpg" for number, user in enumerate(album)]),
        "label": (album // 5 + np.tile([0, 1, 0, 1], users)) % 4,
        "subject": np.array([f"s{number // 2}" for number in range(len(album))]),
        "user": np.array([f"u{user}" for user in album]),
    }
    if folds:
        columns["fold"] = album % 5
    return Manifest(root, ("a", "b", "c", "d"), columns)


def _changed(manifest: Manifest, name: str, changes: dict[int, object]) -> Manifest:
    values = manifest[name].astype(object)
    for row, value in changes.items():
        values[row] = value
    return manifest.with_column(name, values)


def _sizes(splits: list[Split]) -> list[tuple[int, int, int]]:
    return [(len(split.train), len(split.val), len(split.test)) for split in splits]


@pytest.mark.parametrize("protocol", ["fixed", "grouped", "rotate"])
def test_parts_share_nobody_and_every_image_is_tested_once(protocol: str):
    manifest = _manifest()
    splits = make_splits(manifest, protocol)  # type: ignore[arg-type]
    assert [split.fold for split in splits] == [0, 1, 2, 3, 4]
    assert np.sort(np.concatenate([split.test for split in splits])).tolist() == list(range(160))
    for split in splits:
        everything = np.concatenate([rows for _, rows in split.parts()])
        assert np.sort(everything).tolist() == list(range(160))
        for column in ("path", "subject", "user"):
            sides = [set(manifest[column][rows].tolist()) for _, rows in split.parts()]
            assert not (sides[0] & sides[1])
            assert not (sides[0] & sides[2])
            assert not (sides[1] & sides[2])
        assert all((np.diff(rows) > 0).all() for _, rows in split.parts())


def test_the_protocols_validate_on_nothing_on_an_eighth_and_on_the_fold_before():
    manifest = _manifest()
    assert all(len(split.val) == 0 for split in make_splits(manifest, "fixed"))
    assert all(10 <= len(split.val) <= 24 for split in make_splits(manifest, "grouped"))
    for split in make_splits(manifest, "rotate"):
        assert set(manifest["fold"][split.val].tolist()) == {(split.fold - 1) % 5}
        assert len(split.train) == 96


@pytest.mark.real_data
def test_sizes_on_the_real_fold_files_are_the_published_ones(real_data: Path):
    root = real_data / "adience"
    manifest = read_adience(root, layout="none", folds_dir=root / "folds_current").manifest
    tests = [4377, 3092, 3285, 2963, 3676]
    assert [len(split.test) for split in make_splits(manifest, "fixed")] == tests
    assert [len(split.train) for split in make_splits(manifest, "fixed")] == [17393 - n for n in tests]
    rotated = make_splits(manifest, "rotate")
    assert [len(split.train) for split in rotated] == [9340, 9924, 11016, 11145, 10754]
    assert [len(split.val) for split in rotated] == [tests[fold - 1] for fold in range(5)]
    grouped = make_splits(manifest, "grouped")
    assert [len(split.val) for split in grouped] == [1705, 1710, 1772, 2110, 1652]
    for split in grouped:
        assert 11 <= len(set(manifest["user"][split.val].tolist())) <= 13
        assert np.bincount(manifest.label[split.val], minlength=8).min() >= 69
    assert missing_classes(grouped, manifest) == []


@pytest.mark.real_data
def test_fg_net_gets_five_folds_of_its_82_people(real_data: Path):
    manifest = read_age_table(real_data / "fgnet" / "fgnet.csv").manifest
    fold = assign_folds(manifest)
    assert sorted(np.bincount(fold).tolist())[0] > 130
    splits = make_splits(manifest)
    people = [set(manifest["subject"][split.test].tolist()) for split in splits]
    assert sum(map(len, people)) == len(set.union(*people)) == 82


def test_own_folds_keep_albums_whole_and_classes_spread():
    manifest = _manifest(folds=False)
    fold = assign_folds(manifest, 5, seed=3)
    for user in set(manifest["user"].tolist()):
        assert len(set(fold[manifest["user"] == user].tolist())) == 1
    per_class = np.array([np.bincount(fold[manifest.label == k], minlength=5) for k in range(4)])
    assert per_class.min() >= 4
    assert np.array_equal(np.bincount(fold), np.full(5, 32))


def test_own_folds_depend_on_the_seed_and_not_on_the_order_of_rows():
    manifest = _manifest(folds=False)
    order = np.random.default_rng(0).permutation(len(manifest))
    fold = assign_folds(manifest, seed=1)
    assert np.array_equal(assign_folds(manifest.select(order), seed=1), fold[order])
    assert not np.array_equal(assign_folds(manifest, seed=2), fold)


def test_a_manifest_without_folds_is_split_by_its_own_folds():
    manifest = _manifest(folds=False)
    for without in (manifest, manifest.with_column("fold", np.full(len(manifest), -1))):
        splits = make_splits(without, "fixed", seed=4, n_folds=4)
        assert len(splits) == 4
        fold = assign_folds(manifest, 4, seed=4)
        assert all(np.array_equal(split.test, np.flatnonzero(fold == split.fold)) for split in splits)


def test_fewer_people_than_folds_are_refused():
    manifest = _manifest(folds=False, users=3)
    with pytest.raises(DataError, match="there are 3 subjects"):
        assign_folds(manifest, 5)


@pytest.mark.parametrize("protocol", ["fixed", "rotate"])
def test_too_few_folds_with_images_are_refused(protocol: str):
    manifest = _manifest()
    kept = manifest.select(manifest["fold"] < (1 if protocol == "fixed" else 2))
    with pytest.raises(DataError, match=f"protocol {protocol} needs at least"):
        make_splits(kept, protocol)  # type: ignore[arg-type]


def test_a_row_without_a_fold_among_others_is_refused():
    with pytest.raises(DataError, match="1 of 160 rows have no fold"):
        make_splits(_changed(_manifest(), "fold", {7: -1}))


@pytest.mark.parametrize("column", ["subject", "user"])
def test_a_person_in_two_folds_is_refused_by_name_unless_allowed(column: str):
    leaking = _changed(_manifest(), column, {0: "twin", 5: "twin"})
    with pytest.raises(
        DataError, match=rf"2 leaks(.|\n)*{column} twin is in train and test of fold 0"
    ) as caught:
        make_splits(leaking)
    assert caught.value.exit_code == 3
    assert len(make_splits(leaking, allow_subject_overlap=True)) == 5


def test_a_file_in_two_folds_is_refused_even_where_people_may_overlap():
    path = _manifest()["path"][0]
    label = _manifest().label[0]
    leaking = _changed(_changed(_manifest(), "path", {4: path}), "label", {4: label})
    with pytest.raises(DataError, match=rf"path {path} is in train and test"):
        make_splits(leaking, allow_subject_overlap=True)


@pytest.mark.parametrize(
    "spoil",
    [
        lambda splits: splits[:-1],
        lambda splits: [*splits, splits[0]],
        lambda splits: [Split(s.train, s.val, s.test[1:], s.protocol, s.fold) for s in splits],
    ],
)
def test_test_parts_that_miss_or_repeat_an_image_are_refused(spoil: Callable[[list[Split]], list[Split]]):
    manifest = _manifest()
    with pytest.raises(DataError, match="not tested exactly once"):
        check_splits(spoil(make_splits(manifest)), manifest)


def test_training_on_one_class_is_refused_with_counts():
    manifest = _manifest()
    single = manifest.with_column("label", np.where(manifest["fold"] == 0, 1, 0))
    with pytest.raises(DataError, match=r"fold 0: training needs images of two classes, found a: 128, b: 0"):
        make_splits(single)


def test_a_class_that_a_part_lacks_is_reported_and_keeps_its_index():
    manifest = _manifest()
    label = np.where((manifest.label == 3) & (manifest["fold"] != 2), 0, manifest.label)
    rare = manifest.with_column("label", label)
    lines = missing_classes(make_splits(rare), rare)
    assert "fold 2: no d in train" in lines
    assert "fold 0: no d in test" in lines
    assert "fold 2: no d in test" not in lines
    assert rare.class_names[3] == "d"


def test_the_hash_ignores_the_order_of_rows_and_sees_every_move():
    manifest = _manifest()
    splits = make_splits(manifest, "rotate")
    order = np.random.default_rng(0).permutation(len(manifest))
    shuffled = manifest.select(order)
    assert split_hash(make_splits(shuffled, "rotate"), shuffled) == split_hash(splits, manifest)
    assert split_hash(splits[::-1], manifest) == split_hash(splits, manifest)
    moved = Split(
        splits[0].train[1:], np.append(splits[0].val, splits[0].train[0]), splits[0].test, "rotate", 0
    )
    assert split_hash([moved, *splits[1:]], manifest) != split_hash(splits, manifest)


def test_the_grouped_split_does_not_depend_on_the_order_of_rows():
    manifest = _manifest()
    shuffled = manifest.select(np.random.default_rng(1).permutation(len(manifest)))
    hashes = {split_hash(make_splits(table, "grouped"), table) for table in (manifest, shuffled)}
    assert len(hashes) == 1


def test_exported_lists_come_back_as_the_same_splits(tmp_path: Path):
    manifest = _manifest()
    splits = make_splits(manifest, "grouped")
    export_splits(splits, manifest, tmp_path / "lists")
    with (tmp_path / "lists" / "fold_0" / "test.csv").open() as stream:
        rows = list(csv.DictReader(stream))
    assert [row["path"] for row in rows] == sorted(manifest["path"][splits[0].test].tolist())
    assert list(rows[0]) == ["path", "label", "class_name", "subject", "user"]
    for again, split in zip(verify_splits(tmp_path / "lists", manifest), splits, strict=True):
        assert all(
            np.array_equal(one, two) for (_, one), (_, two) in zip(again.parts(), split.parts(), strict=True)
        )
    with pytest.raises(UsageError, match="not empty"):
        export_splits(splits, manifest, tmp_path / "lists")


def test_lists_with_a_file_twice_come_back_whole(tmp_path: Path):
    once = _manifest()
    doubled = once.select(np.append(np.arange(len(once)), 0))
    export_splits(make_splits(doubled), doubled, tmp_path / "lists")
    assert _sizes(verify_splits(tmp_path / "lists", doubled)) == _sizes(make_splits(doubled))


def test_changed_lists_are_found_out(tmp_path: Path):
    manifest = _manifest()
    export_splits(make_splits(manifest), manifest, tmp_path)
    file = tmp_path / "fold_1" / "train.csv"
    lines = file.read_text().splitlines()
    file.write_text("\n".join(lines[:-1]) + "\n")
    with pytest.raises(DataError, match="were changed"):
        verify_splits(tmp_path, manifest)
    file.write_text("\n".join([*lines, "new.jpg,0,a,s,u"]) + "\n")
    with pytest.raises(DataError, match=r"fold_1/train\.csv: new\.jpg as a"):
        verify_splits(tmp_path, manifest)
    file.unlink()
    with pytest.raises(DataError, match="does not hold whole split lists"):
        verify_splits(tmp_path, manifest)


def test_equal_bytes_on_two_sides_are_paired(tmp_path: Path):
    manifest = _manifest(tmp_path)
    for row in range(len(manifest)):
        manifest.file(row).parent.mkdir(exist_ok=True)
        manifest.file(row).write_bytes(f"image {row:04d}".encode())
    splits = make_splits(manifest)
    assert equal_contents(manifest, splits).tested == []
    for row in (1, 20, 4):  # rows 1 and 20 lie in fold 0, row 4 in fold 1
        manifest.file(row).write_bytes(b"the same bytes")
    paths = manifest["path"]
    assert manifest["fold"][[1, 20, 4]].tolist() == [0, 0, 1]
    expected = {tuple(sorted((str(paths[1]), str(paths[4])))), tuple(sorted((str(paths[20]), str(paths[4]))))}
    assert set(equal_contents(manifest, splits).tested) == expected
    manifest.file(3).unlink()
    with pytest.raises(DataError, match="cannot be read"):
        equal_contents(manifest, splits)


def test_an_unknown_protocol_lists_the_known_ones():
    with pytest.raises(UsageError, match="fixed, grouped, rotate"):
        make_splits(_manifest(), "random")  # type: ignore[arg-type]


def test_a_table_that_knows_no_people_cannot_be_given_folds():
    manifest = Manifest(Path(), ("a", "b"), {"path": np.array(["1", "2"]), "label": np.array([0, 1])})
    with pytest.raises(DataError, match="neither user nor subject"):
        assign_folds(manifest, 2)


def _five_subjects() -> Manifest:
    """Return 15 images of five subjects, of which scikit-learn 1.9 makes four folds and an empty one."""
    people = np.repeat(np.arange(5), [3, 4, 2, 1, 5])
    columns = {
        "path": np.array([f"p{row}.jpg" for row in range(15)]),
        "label": np.array([0, 0, 0, 1, 1, 1, 1, 2, 2, 0, 1, 1, 1, 1, 1]),
        "subject": people.astype(str),
    }
    return Manifest(Path("data"), ("a", "b", "c"), columns)


def test_five_subjects_make_five_folds_with_somebody_in_each():
    manifest = _five_subjects()
    fold = assign_folds(manifest, 5, seed=0)
    assert [len(set(manifest["subject"][fold == number])) for number in range(5)] == [1] * 5


@pytest.mark.parametrize("seed", range(6))
def test_no_fold_and_no_validation_part_is_empty(seed: int):
    rng = np.random.default_rng(seed)
    people = np.repeat(np.arange(9), rng.integers(1, 7, 9))
    label = rng.integers(0, 2, len(people))
    columns = {
        "path": np.array([f"{row}.jpg" for row in range(len(people))]),
        "label": label,
        "subject": people.astype(str),
    }
    manifest = Manifest(Path("data"), ("a", "b"), columns)
    largest = int(np.bincount(label).max())
    for n_folds in range(2, min(9, largest) + 1):
        fold = assign_folds(manifest, n_folds, seed)
        assert sorted(set(fold.tolist())) == list(range(n_folds))


def test_the_parts_that_validation_is_taken_from_all_have_somebody():
    assert [len(part) > 0 for part in _stratified(_five_subjects(), np.arange(15), 5, 0)] == [True] * 5


def test_an_empty_part_takes_the_smallest_album_of_the_fullest_one():
    albums = np.array(["a", "a", "b", "c", "c", "d"])
    parts = _none_empty([np.array([0, 1]), np.array([], dtype=int), np.array([2, 3, 4, 5])], albums)
    assert [part.tolist() for part in parts] == [[0, 1], [2], [3, 4, 5]]
