"""Missing image files are found, and links do not lead out of the data root unnoticed."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from finetune.errors import DataError, UsageError
from finetune.images.checks import (
    check_missing_rule,
    equal_files,
    missing_files,
    missing_text,
    refuse_missing,
    subjects_known,
    tell_class_names,
    unlisted_notices,
)
from finetune.images.manifest import Manifest


def test_missing_files_are_marked_in_row_order(tmp_path: Path):
    (tmp_path / "a b").mkdir()
    (tmp_path / "a b" / "bébé 写真.jpg").write_bytes(b"x")
    paths = ["a b/bébé 写真.jpg", "gone.jpg", "a b", "n" * 300 + ".jpg"]
    assert missing_files(tmp_path, paths).tolist() == [False, True, True, True]


def test_a_link_out_of_the_root_is_refused_unless_followed(tmp_path: Path):
    root, elsewhere = tmp_path / "root", tmp_path / "elsewhere"
    root.mkdir()
    elsewhere.mkdir()
    (elsewhere / "x.jpg").write_bytes(b"x")
    (root / "link.jpg").symlink_to(elsewhere / "x.jpg")
    (root / "folder").symlink_to(elsewhere)
    for path in ("link.jpg", "folder/x.jpg"):
        words = r"outside the data root(.|\n)*--data.follow true(.|\n)*elsewhere"
        with pytest.raises(DataError, match=words):
            missing_files(root, [path])
        assert missing_files(root, [path], follow=True).tolist() == [False]


def test_a_link_inside_the_root_and_a_linked_root_are_fine(tmp_path: Path):
    root = tmp_path / "root"
    root.mkdir()
    (root / "x.jpg").write_bytes(b"x")
    (root / "y.jpg").symlink_to(root / "x.jpg")
    (tmp_path / "alias").symlink_to(root)
    assert missing_files(tmp_path / "alias", ["x.jpg", "y.jpg"]).tolist() == [False, False]


def test_a_sibling_whose_name_begins_like_the_root_is_outside(tmp_path: Path):
    for name in ("root", "root2"):
        (tmp_path / name).mkdir()
    (tmp_path / "root2" / "x.jpg").write_bytes(b"x")
    (tmp_path / "root" / "x.jpg").symlink_to(tmp_path / "root2" / "x.jpg")
    with pytest.raises(DataError, match="outside"):
        missing_files(tmp_path / "root", ["x.jpg"])


def test_a_link_loop_counts_as_missing(tmp_path: Path):
    (tmp_path / "one").symlink_to(tmp_path / "two")
    (tmp_path / "two").symlink_to(tmp_path / "one")
    assert missing_files(tmp_path, ["one", "one/x.jpg"]).tolist() == [True, True]


def test_refusing_missing_images_lists_them_and_says_how_many(tmp_path: Path):
    refuse_missing(tmp_path, [], 3)
    with pytest.raises(DataError, match=r"2 of 3(.|\n)*--data.missing drop(.|\n)*b\.jpg"):
        refuse_missing(tmp_path, ["a.jpg", "b.jpg"], 3)


@pytest.mark.parametrize(
    ("gone", "root", "drop"), [(10, True, False), (9, True, True), (8, False, True), (1, False, True)]
)
def test_where_nearly_all_images_are_missing_the_root_is_the_likely_fix(gone: int, root: bool, drop: bool):
    text = missing_text(Path("my"), ["a.jpg"], gone, 10)
    assert text.startswith(f"{gone} of 10 listed images are not under my; ")
    assert ("by --data.root FOLDER" in text, "--data.missing drop" in text) == (root, drop)
    assert "put them there" in text


def test_an_unknown_rule_for_missing_images_lists_the_known_ones():
    check_missing_rule("count")
    with pytest.raises(UsageError, match="error, count, drop"):
        check_missing_rule("skip")


def test_rows_of_equal_bytes_come_together_and_equal_sizes_do_not_suffice(tmp_path: Path):
    for name, content in {"a": b"one", "b": b"two", "c": b"one", "d": b"three"}.items():
        (tmp_path / name).write_bytes(content)
    columns = {"path": np.array(list("abcd")), "label": np.array([0, 1, 0, 1])}
    manifest = Manifest(tmp_path, ("x", "y"), columns)
    assert list(equal_files(manifest)) == [[0, 2]]
    (tmp_path / "c").unlink()
    with pytest.raises(DataError, match="cannot be read"):
        list(equal_files(manifest))


def test_classes_that_are_almost_one_are_told(capsys: pytest.CaptureFixture[str]):
    tell_class_names(["Owl", "owl", "snowy owl", "snowy_owl", "tit"])
    assert "count as different: Owl / owl, snowy owl / snowy_owl" in " ".join(capsys.readouterr().out.split())
    tell_class_names(["owl", "tit"])
    assert capsys.readouterr().out == ""


def test_images_beside_the_listed_ones_are_told(tmp_path: Path):
    for name in ("im/a/1.jpg", "im/a/2.jpg", "im/a/.3.jpg", "im/a/notes.txt", "im/b/4.jpg", "other/5.jpg"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_bytes(b"x")
    told = "2 images beside the listed ones are in no list and are not used: im/a/2.jpg, im/b/4.jpg"
    assert unlisted_notices(tmp_path, ["im/a/1.jpg"]) == [told]
    assert unlisted_notices(tmp_path, ["im/a/1.jpg", "im/a/2.jpg", "im/b/4.jpg"]) == []
    assert unlisted_notices(tmp_path, ["absent/1.jpg"]) == []


def test_subjects_are_known_by_counts_or_by_columns():
    path = np.array(["a.jpg", "b.jpg"])
    assert not subjects_known({"path": path, "subject": path})
    assert subjects_known({"path": path, "subject": np.array(["a.jpg", "a.jpg"])})
    assert subjects_known({"path": path[:0], "subject": path[:0]})
    assert [subjects_known(told) for told in ({}, {"subjects_known": True}, {"subjects_known": False})] == [
        True,
        True,
        False,
    ]
