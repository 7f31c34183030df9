"""Configuration to data and split: the official test part, own validation rows, hold-outs, bad images."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest

from finegrained.config import FineDataConfig
from finegrained.data.load import check_contents, make_fine_split, read_fine_data, untested_classes
from finegrained.synthetic.datasets import write_lookalike_cub, write_lookalike_folders
from finetune.errors import DataError, UsageError


@pytest.fixture(scope="module")
def birds(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("birds")
    write_lookalike_cub(root, classes=3, per_class=20, image_size=32)
    return root


def test_the_test_part_is_the_official_one_and_validation_a_tenth_of_training(birds: Path):
    config = FineDataConfig(root=str(birds), subset=True, val_share=0.25)
    data = read_fine_data(config)
    (split,) = make_fine_split(data, config)
    named = data.manifest["split"]
    assert named[split.test].tolist() == ["test"] * 24
    assert set(named[split.train].tolist()) == set(named[split.val].tolist()) == {"train"}
    assert np.bincount(data.manifest.label[split.val]).tolist() == [3, 3, 3]
    assert len({*split.train.tolist(), *split.val.tolist(), *split.test.tolist()}) == 60


def test_no_validation_where_none_is_wanted_and_another_with_another_seed(birds: Path):
    data = read_fine_data(FineDataConfig(root=str(birds), subset=True))
    splits = [
        make_fine_split(data, FineDataConfig(root=str(birds), **options))
        for options in ({}, {"split_seed": 1}, {"val_share": 0.0})
    ]
    assert [len(split.val) for (split,) in splits] == [4, 4, 0]
    assert len({found.hash for found in splits}) == 3
    assert len({tuple(split.test.tolist()) for (split,) in splits}) == 1


def test_the_sets_own_validation_rows_win(tmp_path: Path):
    write_lookalike_folders(tmp_path, classes=2, per_class=8, parts=("train", "val", "test"), image_size=32)
    config = FineDataConfig(root=str(tmp_path), val_share=0.5)
    data = read_fine_data(config)
    (split,) = make_fine_split(data, config)
    assert split.val.tolist() == np.flatnonzero(data.manifest["split"] == "val").tolist()
    assert split.train.tolist() == np.flatnonzero(data.manifest["split"] == "train").tolist()


def test_a_set_without_a_test_part_gets_a_stratified_one_and_it_is_said(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    write_lookalike_folders(tmp_path, classes=3, per_class=10, parts=(), image_size=32)
    config = FineDataConfig(root=str(tmp_path), test_share=0.3, val_share=0.2)
    data = read_fine_data(config)
    (split,) = make_fine_split(data, config)
    label = data.manifest.label
    assert np.bincount(label[split.test]).tolist() == [3, 3, 3]
    assert len(split.val) == 4
    assert "9 of 30 images are held out" in capsys.readouterr().out
    (other,) = make_fine_split(data, FineDataConfig(root=str(tmp_path), test_share=0.3, val_share=0.0))
    assert other.test.tolist() == split.test.tolist()


def test_a_made_test_part_takes_training_rows_and_leaves_the_sets_own_validation(tmp_path: Path):
    write_lookalike_folders(tmp_path, classes=2, per_class=20, parts=("train", "val"), image_size=32)
    config = FineDataConfig(root=str(tmp_path), test_share=0.4)
    data = read_fine_data(config)
    (split,) = make_fine_split(data, config)
    named = data.manifest["split"]
    assert set(named[split.test].tolist()) == {"train"}
    assert split.val.tolist() == np.flatnonzero(named == "val").tolist()
    assert len(split.test) == round(0.4 * (named == "train").sum())


def test_classes_of_one_image_stay_in_training(tmp_path: Path):
    write_lookalike_folders(tmp_path, classes=2, per_class=6, parts=(), image_size=32)
    lone = tmp_path / "Lone"
    lone.mkdir()
    shutil.copy(next(tmp_path.glob("Drawn*/*.jpg")), lone / "1.jpg")
    config = FineDataConfig(root=str(tmp_path), test_share=0.5, val_share=0.5)
    data = read_fine_data(config)
    (split,) = make_fine_split(data, config)
    row = data.manifest["path"].tolist().index("Lone/1.jpg")
    assert row in split.train
    assert len(np.unique(data.manifest.label[split.train])) == 3


def test_a_set_of_single_images_cannot_be_split(tmp_path: Path):
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "1.jpg").write_bytes(b"x")
    config = FineDataConfig(root=str(tmp_path))
    with pytest.raises(DataError, match="none of 2 images"):
        make_fine_split(read_fine_data(config), config)


def test_a_class_without_training_images_is_refused_by_name(tmp_path: Path):
    write_lookalike_folders(tmp_path, classes=2, per_class=6, image_size=32)
    shutil.rmtree(tmp_path / "train/Drawn_Mossy_finch")
    config = FineDataConfig(root=str(tmp_path))
    with pytest.raises(DataError, match=r"no training image:\n  Drawn_Mossy_finch"):
        make_fine_split(read_fine_data(config), config)


def test_rows_that_name_a_part_and_rows_that_do_not_are_refused(tmp_path: Path):
    (tmp_path / "t.csv").write_text("path,class_name,split\n1.jpg,a,train\n2.jpg,a,\n", encoding="utf-8")
    config = FineDataConfig(table=str(tmp_path / "t.csv"), metadata_only=True)
    with pytest.raises(DataError, match="1 of 2 images name no part"):
        make_fine_split(read_fine_data(config, lists_only=True), config)


def test_absent_pictures_stop_a_run_and_not_a_look(birds: Path, tmp_path: Path):
    root = tmp_path / "birds"
    shutil.copytree(birds, root)
    next(root.glob("images/*/*.jpg")).unlink()
    config = FineDataConfig(root=str(root), subset=True)
    with pytest.raises(DataError, match="1 of 60 listed images"):
        read_fine_data(config)
    assert read_fine_data(config, lists_only=True).report["missing_images"] == 1
    assert len(read_fine_data(FineDataConfig(root=str(root), subset=True, missing="drop")).manifest) == 59


def test_bad_pictures_are_dropped_and_recorded_where_asked(birds: Path, tmp_path: Path):
    root = tmp_path / "birds"
    shutil.copytree(birds, root)
    bad = next(root.glob("images/*/*.jpg"))
    bad.write_bytes(b"no image")
    data = read_fine_data(FineDataConfig(root=str(root), subset=True, skip_bad=True))
    assert (len(data.manifest), list(data.report["bad_images"])) == (59, [str(bad)])
    assert data.report["images"] == 59


def test_equal_pictures_in_training_and_test_are_told_or_refused(
    birds: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    root = tmp_path / "birds"
    shutil.copytree(birds, root)
    config = FineDataConfig(root=str(root), subset=True)
    data = read_fine_data(config)
    (split,) = make_fine_split(data, config)
    learned, tested = (data.manifest.file(int(rows[0])) for rows in (split.val, split.test))
    shutil.copy(learned, tested)
    pair = (str(data.manifest["path"][split.val[0]]), str(data.manifest["path"][split.test[0]]))
    assert check_contents(data, split, config).report["same_content"] == [list(pair)]
    assert " = ".join(pair) in capsys.readouterr().out
    with pytest.raises(DataError, match=r"--data\.same_content warn"):
        check_contents(data, split, FineDataConfig(root=str(root), same_content="error"))


def test_lists_alone_are_not_enough_to_train(birds: Path):
    with pytest.raises(UsageError, match="metadata_only"):
        read_fine_data(FineDataConfig(root=str(birds), subset=True, metadata_only=True))


def test_no_place_and_a_wrong_place_are_refused(tmp_path: Path):
    with pytest.raises(UsageError, match=r"--data\.root FOLDER"):
        read_fine_data(FineDataConfig())
    (tmp_path / "t.csv").write_text("path,label\n1.jpg,0\n", encoding="utf-8")
    with pytest.raises(DataError, match="no such folder"):
        read_fine_data(FineDataConfig(table=str(tmp_path / "t.csv"), root=str(tmp_path / "gone")))


def test_classes_without_a_test_image_are_named_and_one_image_classes_give_no_validation(tmp_path: Path):
    lines = ["path,class_name,split", "1.jpg,a,train", "2.jpg,b,train", "3.jpg,a,test"]
    (tmp_path / "t.csv").write_text("\n".join(lines), encoding="utf-8")
    config = FineDataConfig(table=str(tmp_path / "t.csv"), val_share=0)
    data = read_fine_data(config, lists_only=True)
    (split,) = make_fine_split(data, config)
    assert untested_classes(data.manifest, split) == "1 of 2 classes have no test image:\n  b"
    with pytest.raises(DataError, match=r"no validation part can be held out.*--data\.val_share 0"):
        make_fine_split(data, FineDataConfig(table=str(tmp_path / "t.csv")))
