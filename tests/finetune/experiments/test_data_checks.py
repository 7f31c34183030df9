"""Images that do not open, are equal across parts and classes, are gone, or were seen by a run."""

from __future__ import annotations

import json
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import agecls.config
import agecls.task
import finegrained.config
import finegrained.task
from finegrained.data.splits import as_split
from finetune.errors import DataError
from finetune.experiments.data_checks import (
    content_hashes,
    equal_contents,
    refuse_seen_images,
    seen_rows,
    tell_conflicts,
    tell_twins,
    twins_report,
    verify_data,
)
from finetune.experiments.records.predictions import Predictions
from finetune.experiments.records.record import RunRecord
from finetune.experiments.records.splits import Split, Splits
from finetune.experiments.result import Result
from finetune.experiments.sections import CONFLICTS, conflicts_line
from finetune.experiments.task import Task
from finetune.images.checks import equal_files, label_conflicts
from finetune.images.manifest import Manifest
from tests.agecls.tiny_ages import drawn_faces
from tests.finegrained.tiny_birds import birds


@dataclass
class DataSet:
    """A data set of one task in a folder of this test alone."""

    task: Task
    root: Path

    def verify(self, *, quick: bool = False, **options: Any) -> dict[str, Any]:
        """Verify it with these data options."""
        if self.task is agecls.task.TASK:
            data = agecls.config.AgeDataConfig(root=str(self.root), **options)
            return verify_data(self.task, agecls.config.VerifyAgeConfig(data=data, quick=quick))
        options = {"subset": True} | options
        fine = finegrained.config.FineDataConfig(root=str(self.root), **options)
        return verify_data(self.task, finegrained.config.VerifyFineConfig(data=fine, quick=quick))

    def files(self) -> list[Path]:
        """Return its images, by name."""
        return sorted(self.root.rglob("*.jpg"))

    def first(self, part: str) -> tuple[str, Path]:
        """Return path and file of the first image of this part of the first split."""
        config = (
            agecls.config.AgeDataConfig(root=str(self.root))
            if self.task is agecls.task.TASK
            else finegrained.config.FineDataConfig(root=str(self.root), subset=True)
        )
        data = self.task.read(config)
        split = self.task.splits(data, config).splits[0]
        row = int(dict(split.parts())[part][0])
        return str(data.manifest["path"][row]), data.manifest.file(row)


@pytest.fixture(params=["age", "fine"])
def drawn(request: pytest.FixtureRequest, tmp_path: Path) -> DataSet:
    if request.param == "age":
        return DataSet(agecls.task.TASK, drawn_faces(tmp_path / "faces"))
    return DataSet(finegrained.task.TASK, birds(tmp_path / "birds"))


def test_every_picture_is_opened_and_what_was_found_is_returned(drawn: DataSet, capsys):
    result = drawn.verify()
    assert (result["bad_images"], result["duplicate_contents"]) == ({}, [])
    assert result["images"] == len(drawn.files())
    assert {"split", "manifest", "same_content", "same_content_classes"} <= result.keys()
    told = capsys.readouterr().out
    assert f"{len(drawn.files())} images opened, 0 cannot be read" in told
    assert "no image of the test part is also in training or validation, by content" in told
    json.dumps(result)


def test_a_quick_look_opens_nothing(drawn: DataSet, capsys):
    drawn.files()[0].write_bytes(b"no image")
    assert "bad_images" not in drawn.verify(quick=True)
    assert "opened" not in capsys.readouterr().out


def test_unreadable_pictures_are_listed_with_their_reasons_and_refused_unless_they_are_to_be_skipped(
    drawn: DataSet,
):
    bad = drawn.files()[:2]
    bad[0].write_bytes(b"")
    bad[1].write_bytes(bad[1].read_bytes()[:200])
    with pytest.raises(DataError, match=r"(?s)2 of \d+ images cannot be read.*skip_bad.*0 bytes") as told:
        drawn.verify()
    assert all(str(file) in str(told.value) for file in bad)
    result = drawn.verify(skip_bad=True)
    assert sorted(result["bad_images"]) == sorted(map(str, bad))
    assert "0 bytes" in result["bad_images"][str(bad[0])]


def test_missing_pictures_are_counted_and_the_others_opened(drawn: DataSet, capsys):
    count = len(drawn.files())
    drawn.files()[3].unlink()
    result = drawn.verify(missing="drop")
    assert (result["images"], result["missing_images"]) == (count - 1, 1)
    assert f"{count - 1} images opened" in capsys.readouterr().out


def test_equal_pictures_across_parts_are_told_although_another_is_missing(drawn: DataSet, capsys):
    (learned, source), (tested, target) = drawn.first("train"), drawn.first("test")
    gone = next(file for file in drawn.files() if file not in (source, target))
    gone.unlink()
    shutil.copy(source, target)
    result = drawn.verify(missing="drop")
    assert [sorted(pair) for pair in result["duplicate_contents"]] == [sorted((learned, tested))]
    assert result["same_content"] == result["duplicate_contents"]
    told = capsys.readouterr().out
    assert "1 pairs of images in training and test are the same bytes" in told
    assert " = ".join(result["duplicate_contents"][0]) in told
    with pytest.raises(DataError, match="same bytes"):
        drawn.verify(missing="drop", same_content="error")


def table_of(folder: Path, files: dict[str, bytes], **columns: list[Any]) -> Manifest:
    """Write files and return their table; `label` may be among the columns."""
    folder.mkdir(parents=True)
    for name, content in files.items():
        (folder / name).write_bytes(content)
    listed = {"path": np.array(list(files)), "label": np.zeros(len(files), dtype=np.int64)}
    return Manifest(folder, ("a", "b"), listed | {name: np.array(part) for name, part in columns.items()})


def test_equal_contents_are_pairs_of_learned_and_tested_files(tmp_path: Path):
    contents = dict(zip("abcde", (b"aa", b"bb", b"cc", b"aa", b"cc"), strict=True))
    table = table_of(tmp_path / "own", contents)
    split = as_split(table, np.array([0, 3]), np.array([2]), np.array([1, 4]))
    assert equal_contents(table, [split])[:3] == ([("c", "e")], [], [])
    turned = as_split(table, np.array([3]), np.array([4]), np.array([0, 2]))
    assert equal_contents(table, [turned]).tested == [("d", "a"), ("e", "c")], "learned first, then tested"
    apart = as_split(table, np.array([0, 3]), np.array([], dtype=int), np.array([1]))
    assert equal_contents(table, [apart])[:3] == ([], [], [])


def test_equal_contents_in_training_and_validation_or_of_two_classes_are_found_too(tmp_path: Path):
    contents = dict(zip("abcde", (b"aa", b"bb", b"aa", b"bb", b"cc"), strict=True))
    table = table_of(tmp_path / "own", contents, label=[0, 0, 0, 1, 1])
    split = as_split(table, np.array([0, 1, 3]), np.array([2]), np.array([4]))
    found = equal_contents(table, [split])
    assert found[:3] == ([], [("a", "c")], [("b", "d")])
    names = ("same_content", "same_content_validation", "same_content_classes")
    assert twins_report(found) == dict(zip(names, ([], [["a", "c"]], [["b", "d"]]), strict=True))


def test_in_a_cross_validation_a_pair_is_found_once_and_named_in_order(tmp_path: Path):
    contents = dict(zip("abcd", (b"aa", b"bb", b"cc", b"aa"), strict=True))
    table = table_of(tmp_path / "own", contents)
    none = np.arange(0)
    folds = [Split(np.array([2, 3]), none, np.array([0, 1])), Split(np.array([0, 1]), none, np.array([2, 3]))]
    assert equal_contents(table, folds)[:3] == ([("a", "d")], [], [])
    assert equal_contents(table, folds).images == 2, "each of the two is tested once"
    held = [Split(np.array([2]), np.array([3]), np.array([0, 1])), Split(np.array([0]), none, np.array([3]))]
    assert equal_contents(table, held).tested == [("a", "d")], "validation images are learned from too"
    rotated = [*folds, Split(np.array([0, 1]), np.array([3]), np.array([2]))]
    assert equal_contents(table, rotated).validated == [], "what is tested is told once"


def test_every_pair_of_two_classes_is_found(tmp_path: Path):
    table = table_of(tmp_path / "own", dict.fromkeys("abc", b"aa"), label=[0, 0, 1])
    assert equal_contents(table, []).relabelled == [("a", "c"), ("b", "c")]


def test_equal_contents_need_the_files(tmp_path: Path):
    table = table_of(tmp_path / "own", {"a": b"a", "b": b"b"})
    table.file(0).unlink()
    with pytest.raises(DataError, match="cannot be read"):
        equal_contents(table, [])


def test_twins_are_told_of_and_refused_when_asked(tmp_path: Path, capsys):
    contents = dict(zip("abcdef", (b"aa", b"aa", b"bb", b"bb", b"cc", b"cc"), strict=True))
    table = table_of(tmp_path / "own", contents, label=[0, 0, 0, 0, 0, 1])
    split = as_split(table, np.array([0, 2, 4, 5]), np.array([1]), np.array([3]))
    twins = equal_contents(table, [split])
    tell_twins(twins, "warn")
    told = capsys.readouterr().out
    assert "1 pairs of images in training and validation are the same bytes:\n  a = b" in told
    assert "1 pairs of images with two classes are the same bytes:\n  e = f" in told
    assert "warning: test images with an equal image in training or validation: 1; " in told
    assert "1 pairs of images in training and test are the same bytes:\n  c = d" in told
    with pytest.raises(DataError, match=r"(?s)training and test are the same bytes.*same_content warn"):
        tell_twins(twins, "error")


def run_of(table: Manifest, tested: list[str], *folds: int, fingerprint: str = "") -> Result:
    """Return a run that tested these images, with the fold of each where it has folds."""
    count = len(tested)
    columns = {"fold": np.array(folds)} if folds else {}
    found = Predictions(("a", "b"), tested, [0] * count, np.full((count, 2), 0.5), columns)
    record = RunRecord("", ("a", "b"), manifest=fingerprint or table.fingerprint)
    return Result(Path("run"), record, {}, found)


def trained(folder: Path, **columns: list[Any]) -> Manifest:
    files = {"1": b"one", "2": b"two", "3": b"six"}
    return table_of(folder / "own", files, part=["train", "validation", "test"], **columns)


def refuse(own: Manifest, shown: Manifest, *rows: int) -> None:
    """Ask whether these rows (all without any) may be shown to the run of this table."""
    refuse_seen_images(run_of(own, ["3"]), own, shown.select(np.array(rows or range(len(shown)))))


def test_seen_images_are_refused_by_their_new_names(tmp_path: Path):
    other = table_of(tmp_path / "other", {"x": b"new", "y": b"two", "z": b"one"})
    with pytest.raises(DataError, match=r"on 2 of these 3 images \(equal bytes\).*\n *y\n *z") as told:
        refuse(trained(tmp_path), other)
    assert "own test images" in str(told.value)


def test_test_images_and_rows_that_are_not_shown_do_not_count(tmp_path: Path):
    other = table_of(tmp_path / "other", {"x": b"six", "y": b"two", "z": b"longer"})
    refuse(trained(tmp_path), other, 0, 2)


def test_how_many_of_the_seen_images_can_be_compared_is_told(tmp_path: Path, capsys):
    own = trained(tmp_path)
    (tmp_path / "own" / "1").unlink()
    other = table_of(tmp_path / "other", {"x": b"one"})
    refuse(own, other)
    assert "1 of 2 training and validation images of run are still there" in capsys.readouterr().out
    (tmp_path / "own" / "2").unlink()
    refuse(own, other)
    told = capsys.readouterr().out
    assert "0 of 2 training and validation images" in told
    assert "among them is unknown" in told


@pytest.mark.parametrize("files", [["1"], ["2"], ["2", "1"]])
def test_gone_images_are_refused_by_the_very_list_of_their_paths_and_classes(tmp_path: Path, files):
    own = trained(tmp_path)
    for name in ("1", "2"):
        (tmp_path / "own" / name).unlink()
    other = table_of(tmp_path / "other", dict.fromkeys(files, b"new"))
    with pytest.raises(DataError, match="very paths and classes"):
        refuse(own, other)


def test_kept_hashes_are_compared_although_the_images_are_gone(tmp_path: Path, capsys):
    own = trained(tmp_path)
    own = own.with_column("sha256", content_hashes(own))
    for name in ("1", "2"):
        (tmp_path / "own" / name).unlink()
    other = table_of(tmp_path / "other", {"x": b"one", "y": b"six"})
    with pytest.raises(DataError, match=r"on 1 of these 2 images"):
        refuse(own, other)
    refuse(own, other, 1)
    assert capsys.readouterr().out == ""


def test_what_a_run_has_seen_is_told_by_parts_else_by_what_it_tested(tmp_path: Path):
    own = trained(tmp_path)
    assert seen_rows(run_of(own, ["3"]), own).tolist() == [True, True, False]
    bare = table_of(tmp_path / "bare", {"1": b"one", "2": b"two", "3": b"six"})
    assert seen_rows(run_of(bare, ["2"], 0), bare).tolist() == [True, False, True]
    assert seen_rows(run_of(bare, []), bare).tolist() == [True, True, True], "trained on everything"
    assert seen_rows(run_of(bare, ["1", "2", "3"], 0, 1, 2), bare).tolist() == [True, True, True], (
        "every image was seen by the other folds' models"
    )


def test_a_table_without_parts_is_refused_as_a_list_and_by_every_file(tmp_path: Path):
    bare = table_of(tmp_path / "bare", {"1": b"one", "2": b"two", "3": b"six"}, fold=[0, 1, 2])
    run = run_of(bare, ["1"], 0)
    other = table_of(tmp_path / "other", {"1": b"ONE", "2": b"TWO", "3": b"SIX"}, fold=[2, 0, 1])
    with pytest.raises(DataError, match="3 of 3 images belong to the data set"):
        refuse_seen_images(run, bare, other)
    one = Manifest(tmp_path, ("a", "b"), {"path": np.array(["bare/1", "other/2"]), "label": np.zeros(2, int)})
    with pytest.raises(DataError, match=r"1 of 2 images belong to the data set(.|\n)*bare/1"):
        refuse_seen_images(run, bare, one)
    copies = table_of(tmp_path / "copies", {"x": b"one", "y": b"two"})
    with pytest.raises(DataError, match=r"on 1 of these 2 images \(equal bytes\).*\n *y"):
        refuse_seen_images(run, bare, copies)


def test_without_a_table_the_same_list_is_refused_and_the_doubt_is_told(tmp_path: Path, capsys):
    own = table_of(tmp_path / "own", {"1": b"one"})
    other = table_of(tmp_path / "other", {"x": b"new"})
    refuse_seen_images(run_of(own, ["1"], 0), None, other)
    assert "holds no table of its images" in capsys.readouterr().out
    with pytest.raises(DataError, match="1 of 1 images belong to the data set"):
        refuse_seen_images(run_of(own, ["1"], 0), None, own)


def test_what_is_said_of_equal_images_holds_for_the_folds_in_use(tmp_path: Path):
    contents = dict(zip("abcdef", (b"aa", b"bb", b"aa", b"bb", b"bb", b"c"), strict=True))
    table = table_of(tmp_path / "own", contents)
    none, rows = np.arange(0), np.arange(6)
    tests = [np.array([0, 1]), np.array([2, 3]), np.array([4, 5])]
    splits = Splits(
        tuple(Split(np.setdiff1d(rows, test), none, test, fold=fold) for fold, test in enumerate(tests)), "x"
    )
    found = {fold: len(equal_contents(table, splits.only([fold], 6)).tested) for fold in (-1, 0, 1, 2)}
    assert (found, len(equal_contents(table, splits.only([], 6)).tested)) == ({-1: 0, 0: 3, 1: 3, 2: 2}, 4)


def test_equal_files_with_other_labels_are_counted_by_sets(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    contents = dict(zip("abcdefgh", (b"11", b"11", b"22", b"22", b"33", b"33", b"33", b"4"), strict=True))
    table = table_of(
        tmp_path / "own",
        contents,
        label=[0, 1, 0, 0, 1, 1, 1, 0],
        age=[5.0, 30, 4, 6, 30, 30, np.nan, 1],
        subject=["p", "p", "q", "q", "r", "s", "r", "t"],
    )
    unknown = table.with_column("subject", table["path"])
    assert label_conflicts(unknown, list(equal_files(table)))["subjects"] == 0
    found = label_conflicts(table, list(equal_files(table)))
    assert {name: found[name] for name in ("sets", "classes", "ages", "subjects")} == {
        "sets": 3,
        "classes": 1,
        "ages": 1,
        "subjects": 1,
    }
    assert found["first"] == [["a: a, 5 years", "b: b, 30 years"], ["c: a, 4 years", "d: a, 6 years"]]
    tell_conflicts(found)
    told = "3 sets of images are the same bytes: 1 of them under different classes, 1 under different ages"
    shown = capsys.readouterr().out
    assert told in shown
    assert "a: a, 5 years = b: b, 30 years" in shown
    assert conflicts_line({CONFLICTS: found}).startswith(told)
    assert conflicts_line({}) == ""
