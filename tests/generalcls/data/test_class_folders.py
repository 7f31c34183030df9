"""Own class folders and ImageNet's: parts, mapped pixels, and every way in which the folders may be wrong."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest

from finetune.errors import DataError, UsageError
from finetune.images.decode import decode_image
from finetune.images.preprocess import resize
from generalcls.config import GeneralDataConfig
from generalcls.data import class_folders
from generalcls.data.class_folders import read_imagenet, read_own_folders
from generalcls.data.datasets import read_general_data
from generalcls.data.synthetic import write_lookalike_folders, write_lookalike_imagenet


@pytest.fixture
def cache(tmp_path: Path) -> str:
    return str(tmp_path / "cache")


def _folders(root: Path, **options: object) -> GeneralDataConfig:
    return GeneralDataConfig("folders", str(root), **{"image_size": 16, **options})  # type: ignore[arg-type]


def _imagenet(root: Path, **options: object) -> GeneralDataConfig:
    return GeneralDataConfig("imagenet", str(root), **{"image_size": 16, **options})  # type: ignore[arg-type]


def test_pixels_are_the_decoded_squeezed_pictures_from_a_map_or_from_memory(tmp_path: Path, cache: str):
    names = write_lookalike_folders(tmp_path / "set")
    mapped = read_own_folders(_folders(tmp_path / "set"), cache)
    assert isinstance(mapped.train.images, np.memmap)
    assert mapped.class_names == names
    for part, found in (("train", mapped.train), ("test", mapped.test)):
        files = sorted((tmp_path / "set" / part).rglob("*.JPEG"))
        assert found is not None
        assert [names[label] for label in found.target] == [file.parent.name for file in files]
        wanted = np.stack([resize(decode_image(file), 16, 16) for file in files])
        assert np.array_equal(found.images, wanted)
    decoded = read_own_folders(_folders(tmp_path / "set"), "none")
    assert np.array_equal(decoded.train.images, mapped.train.images)
    assert decoded.content == mapped.content


def test_folders_without_parts_are_split_class_by_class(tmp_path: Path, cache: str):
    write_lookalike_folders(tmp_path / "set", per_class=8, parts=())
    data = read_general_data(_folders(tmp_path / "set"), cache)
    assert data.train.class_counts(3).tolist() == [6, 6, 6]
    assert data.test.class_counts(3).tolist() == [2, 2, 2]
    assert not data.official_test
    assert any("0.25 of each class is tested" in note for note in data.notes)


@pytest.mark.parametrize(
    ("parts", "tested"),
    [(("train", "val"), "val"), (("train", "val", "test"), "test"), (("Training", "testing"), "testing")],
)
def test_the_test_part_is_test_or_else_val(tmp_path: Path, cache: str, parts: tuple[str, ...], tested: str):
    write_lookalike_folders(tmp_path / "set", parts=parts)
    shutil.rmtree(tmp_path / "set" / tested / "grating_02")
    reading = read_own_folders(_folders(tmp_path / "set"), cache)
    assert reading.test is not None
    assert reading.test.class_counts(3).tolist() == [6, 6, 0]
    assert len(reading.train) == 18
    assert any("1 classes have no test images: grating_02" in note for note in reading.notes)
    assert any("val/ is not used" in note for note in reading.notes) == (len(parts) == 3)


def test_a_tested_class_without_training_pictures_is_refused(tmp_path: Path, cache: str):
    write_lookalike_folders(tmp_path / "set")
    shutil.rmtree(tmp_path / "set/train/grating_01")
    with pytest.raises(DataError, match="1 tested classes have no training images:\n  grating_01"):
        read_own_folders(_folders(tmp_path / "set"), cache)


def test_unreadable_pictures_stop_or_are_left_out_and_told(tmp_path: Path, cache: str):
    write_lookalike_folders(tmp_path / "set")
    whole = read_own_folders(_folders(tmp_path / "set"), cache)
    bad = sorted((tmp_path / "set/train/grating_01").iterdir())[0]
    bad.write_bytes(bad.read_bytes()[:200])
    with pytest.raises(DataError, match=rf"1 of 36 images cannot be used:\n.*{bad.name}: truncated"):
        read_own_folders(_folders(tmp_path / "set"), cache)
    reading = read_own_folders(_folders(tmp_path / "set", skip_bad=True), cache)
    assert np.array_equal(reading.train.images, np.delete(whole.train.images, 6, axis=0))
    assert np.array_equal(reading.train.target, np.delete(whole.train.target, 6))
    assert whole.test is not None
    assert reading.test is not None
    assert np.array_equal(reading.test.images, whole.test.images)
    assert any("1 images cannot be read and are left out" in note for note in reading.notes)


def test_missing_pictures_stop_or_are_dropped_and_told(tmp_path: Path, cache: str):
    write_lookalike_folders(tmp_path / "set")
    (tmp_path / "set/train/grating_00/gone.jpg").symlink_to(tmp_path / "nowhere.jpg")
    with pytest.raises(DataError, match=r"1 of 37 listed images are not under"):
        read_own_folders(_folders(tmp_path / "set"), cache)
    reading = read_own_folders(_folders(tmp_path / "set", missing="drop"), cache)
    assert len(reading.train) == 18
    assert any("1 images are not there" in note for note in reading.notes)


def test_the_fingerprint_changes_with_a_pictures_bytes_and_with_the_size(tmp_path: Path, cache: str):
    write_lookalike_folders(tmp_path / "set")
    first = read_general_data(_folders(tmp_path / "set"), cache).fingerprint
    assert first == read_general_data(_folders(tmp_path / "set"), "none").fingerprint
    assert first != read_general_data(_folders(tmp_path / "set", image_size=24), cache).fingerprint
    one, other = sorted((tmp_path / "set/train/grating_01").iterdir())[:2]
    one.write_bytes(other.read_bytes())
    assert first != read_general_data(_folders(tmp_path / "set"), cache).fingerprint


@pytest.mark.parametrize("given", ["set", "set/train", ""])
def test_imagenet_is_found_from_its_folder_its_parent_and_its_child(tmp_path: Path, given: str):
    names = write_lookalike_imagenet(tmp_path / "set")
    reading = read_imagenet(_imagenet(tmp_path / given), "none")
    assert reading.class_names == names
    assert reading.test is not None
    assert (len(reading.train), len(reading.test)) == (12, 6)
    assert not reading.official
    assert any("3 of 1000 classes, 12 of 1281167 training and 6 of 50000" in note for note in reading.notes)


def test_flat_validation_pictures_are_refused_with_the_way_to_sort_them(tmp_path: Path):
    write_lookalike_imagenet(tmp_path)
    shutil.rmtree(tmp_path / "val")
    (tmp_path / "val").mkdir()
    for number in (1, 2):
        (tmp_path / f"val/ILSVRC2012_val_{number:08d}.JPEG").write_bytes(b"x")
    with pytest.raises(DataError, match=r"2 images in no class \(ILSVRC2012_val_00000001.*ImageNet\(root"):
        read_imagenet(_imagenet(tmp_path), "none")


def test_other_classes_no_wordnet_ids_and_no_parts_are_refused(tmp_path: Path):
    names = write_lookalike_imagenet(tmp_path / "a")
    shutil.rmtree(tmp_path / "a/val" / names[1])
    with pytest.raises(DataError, match=f"hold other classes; complete them:\n  {names[1]}: in train/ alone"):
        read_imagenet(_imagenet(tmp_path / "a"), "none")
    write_lookalike_folders(tmp_path / "b", parts=("train", "val"))
    with pytest.raises(DataError, match="3 folders are no WordNet ids"):
        read_imagenet(_imagenet(tmp_path / "b"), "none")
    write_lookalike_folders(tmp_path / "c", parts=())
    with pytest.raises(DataError, match="found class folders alone"):
        read_imagenet(_imagenet(tmp_path / "c"), "none")


def test_no_folder_and_no_class_folders_are_refused(tmp_path: Path):
    with pytest.raises(UsageError, match=r"say --data\.root FOLDER"):
        read_own_folders(GeneralDataConfig("folders"), "none")
    with pytest.raises(DataError, match="there is no such folder"):
        read_own_folders(_folders(tmp_path / "none"), "none")
    (tmp_path / "empty").mkdir()
    with pytest.raises(DataError, match="holds no class folders"):
        read_own_folders(_folders(tmp_path / "empty"), "none")
    (tmp_path / "parts/train/a").mkdir(parents=True)
    with pytest.raises(DataError, match="holds no folder with images"):
        read_own_folders(_folders(tmp_path / "parts"), "none")


@pytest.mark.parametrize("parts", [(), ("train", "test")])
@pytest.mark.parametrize("keep", ["none", "cache"])
def test_pictures_of_which_none_can_be_read_are_a_sentence(
    tmp_path: Path, cache: str, parts: tuple[str, ...], keep: str
):
    names = write_lookalike_folders(tmp_path / "set", per_class=1, parts=parts)
    for file in (tmp_path / "set").rglob("*.JPEG"):
        file.write_bytes(b"no image")
    config = _folders(tmp_path / "set", skip_bad=True)
    with pytest.raises(DataError, match=rf"none of the \d images can be read:\n.*{names[0]}_000\d"):
        read_general_data(config, cache if keep == "cache" else "none")


def test_pictures_of_which_none_is_there_are_a_sentence(tmp_path: Path):
    for name in ("train/a", "test/a"):
        (tmp_path / "set" / name).mkdir(parents=True)
        (tmp_path / "set" / name / "gone.jpg").symlink_to(tmp_path / "nowhere.jpg")
    with pytest.raises(DataError, match=r"none of the 2 images is there:\n  test/a/gone\.jpg"):
        read_general_data(_folders(tmp_path / "set", missing="drop"), "none")


def test_imagenet_counts_as_published_at_224_px_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    write_lookalike_imagenet(tmp_path)
    for name, count in (("CLASSES", 3), ("TRAIN", 12), ("VAL", 6)):
        monkeypatch.setattr(class_folders, f"IMAGENET_{name}", count)
    for size, official in ((None, True), (224, True), (64, False)):
        reading = read_imagenet(_imagenet(tmp_path, image_size=size), "none")
        assert reading.official == official
        assert any("at 64 px the test part does not count" in note for note in reading.notes) != official
    own = write_lookalike_folders(tmp_path / "own")
    assert not read_own_folders(_folders(tmp_path / "own", image_size=224), "none").official
    assert len(own) == 3
