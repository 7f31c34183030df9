"""CUB's reader: the join on ids, every list's faults, boxes and parts, the real metadata."""

from __future__ import annotations

import random
from pathlib import Path

import pytest

from finegrained.data.cub import parts_of, read_cub
from finegrained.data.reading import ReadingRules
from finegrained.synthetic.datasets import write_lookalike_cub
from finetune.errors import DataError
from finetune.images.decode import decode_image

SUBSET = ReadingRules(subset=True)


@pytest.fixture
def birds(tmp_path: Path) -> Path:
    write_lookalike_cub(tmp_path, classes=3, per_class=5)
    return tmp_path


def _edit(file: Path, change: dict[str, str]) -> None:
    lines = file.read_text(encoding="utf-8").splitlines()
    file.write_text("\n".join(change.get(line, line) for line in lines) + "\n", encoding="utf-8")


def test_ids_count_from_one_in_the_files_and_from_zero_in_the_table(birds: Path):
    manifest = read_cub(birds, SUBSET).manifest
    assert manifest.label.tolist() == [0] * 5 + [1] * 5 + [2] * 5
    assert manifest["source_id"].tolist() == [str(number) for number in range(1, 16)]
    assert manifest.class_names == ("001.Drawn_Rusty_finch", "002.Drawn_Mossy_finch", "003.Drawn_Snowy_finch")


def test_one_is_train_and_zero_is_test(birds: Path):
    flags = dict(line.split() for line in (birds / "train_test_split.txt").read_text("utf-8").splitlines())
    manifest = read_cub(birds, SUBSET).manifest
    wanted = ["train" if flags[number] == "1" else "test" for number in manifest["source_id"].tolist()]
    assert manifest["split"].tolist() == wanted
    assert wanted.count("test") == 6


def test_the_order_of_lines_plays_no_part(birds: Path):
    before = read_cub(birds, SUBSET).manifest
    for seed, file in enumerate(sorted([*birds.glob("*.txt"), birds / "parts/part_locs.txt"])):
        lines = file.read_text(encoding="utf-8").splitlines()
        random.Random(seed).shuffle(lines)
        file.write_text("\r\n".join(lines) + "\r\n", encoding="utf-8")
    after = read_cub(birds, SUBSET).manifest
    assert after.fingerprint == before.fingerprint
    assert after["x2"].tolist() == before["x2"].tolist()
    assert parts_of(after, 3) == parts_of(before, 3)


def test_a_byte_order_mark_is_no_part_of_the_first_id(birds: Path):
    before = read_cub(birds, SUBSET).manifest
    for file in birds.glob("*.txt"):
        file.write_bytes(b"\xef\xbb\xbf" + file.read_bytes())
    assert read_cub(birds, SUBSET).manifest.fingerprint == before.fingerprint


def test_paths_are_those_of_the_list_though_capitals_differ_from_the_class(birds: Path):
    manifest = read_cub(birds, SUBSET).manifest
    assert manifest["path"][0].startswith("images/001.Drawn_Rusty_finch/Drawn_Rusty_Finch_0001_")
    assert all(manifest.file(row).is_file() for row in range(len(manifest)))


def test_sparse_class_ids_of_a_subset_close_up_in_order(birds: Path):
    _edit(birds / "classes.txt", {"2 002.Drawn_Mossy_finch": "17 002.Drawn_Mossy_finch"})
    change = {f"{number} 2": f"{number} 17" for number in range(1, 16)}
    _edit(birds / "image_class_labels.txt", change)
    manifest = read_cub(birds, SUBSET).manifest
    assert manifest.class_names == ("001.Drawn_Rusty_finch", "003.Drawn_Snowy_finch", "002.Drawn_Mossy_finch")
    assert manifest.label.tolist() == [0] * 5 + [2] * 5 + [1] * 5


def test_a_subset_must_be_asked_for(birds: Path):
    with pytest.raises(DataError, match=r"15 of 11788 images.*--data\.subset true"):
        read_cub(birds)


def test_boxes_become_corners(birds: Path):
    lines = (birds / "bounding_boxes.txt").read_text(encoding="utf-8").splitlines()
    lines[2] = "3 10.0 20.0 30.5 4.0"
    (birds / "bounding_boxes.txt").write_text("\n".join(lines) + "\n", encoding="utf-8")
    manifest = read_cub(birds, SUBSET).manifest
    assert [manifest[name][2] for name in ("x1", "y1", "x2", "y2")] == [10.0, 20.0, 40.5, 24.0]


def test_visible_parts_are_kept_by_name_and_hidden_ones_left_out(birds: Path):
    lines = (birds / "parts/part_locs.txt").read_text(encoding="utf-8").splitlines()
    lines[0] = "1 1 12.0 7.5 1"
    lines[1] = "1 2 0.0 0.0 0"
    (birds / "parts/part_locs.txt").write_text("\n".join(lines) + "\n", encoding="utf-8")
    places = parts_of(read_cub(birds, SUBSET).manifest, 0)
    assert places["crown"] == (12.0, 7.5)
    assert set(places) == {"crown", "left wing"}


def test_boxes_and_parts_may_be_absent(birds: Path):
    for name in ("bounding_boxes.txt", "parts/parts.txt", "parts/part_locs.txt"):
        (birds / name).unlink()
    manifest = read_cub(birds, SUBSET).manifest
    assert "x1" not in manifest
    assert parts_of(manifest, 0) == {}


def test_a_greyscale_picture_decodes_to_three_channels(birds: Path):
    manifest = read_cub(birds, SUBSET).manifest
    assert decode_image(manifest.file(5)).shape == (64, 64, 3)


@pytest.mark.parametrize(
    "name", ["images.txt", "image_class_labels.txt", "train_test_split.txt", "classes.txt"]
)
def test_a_missing_list_is_named_with_its_source(birds: Path, name: str):
    (birds / name).unlink()
    with pytest.raises(DataError, match=rf"lacks {name}.*data\.caltech\.edu"):
        read_cub(birds, SUBSET)


@pytest.mark.parametrize(
    ("file", "line", "changed", "said"),
    [
        ("train_test_split.txt", "2 ", "2 2", "1 is training and 0 is test"),
        ("image_class_labels.txt", "2 1", "2 0", "class that classes.txt lacks"),
        ("image_class_labels.txt", "2 1", "2 3", "outside their class's folder"),
        ("image_class_labels.txt", "2 1", "99 1", "image 2: only in images.txt"),
        ("image_class_labels.txt", "2 1", "1 1", "line 2: the id 1 stands twice"),
        ("image_class_labels.txt", "2 1", "0 1", "no whole number from 1"),
        ("image_class_labels.txt", "2 1", "2", "do not hold 2 columns"),
        ("bounding_boxes.txt", "2 ", "2 a b c d", "'a' is not a number of pixels"),
        ("bounding_boxes.txt", "2 ", "2 nan 1 2 2", "'nan' is not a number of pixels"),
        ("bounding_boxes.txt", "2 ", "2 1 1 inf 2", "'inf' is not a number of pixels"),
        ("parts/part_locs.txt", "1 2 ", "1 9 1 1 1", "part 9 is not in"),
    ],
)
def test_faults_are_named(birds: Path, file: str, line: str, changed: str, said: str):
    lines = (birds / file).read_text(encoding="utf-8").splitlines()
    place = next(number for number, text in enumerate(lines) if text.startswith(line))
    lines[place] = changed
    (birds / file).write_text("\n".join(lines) + "\n", encoding="utf-8")
    with pytest.raises(DataError, match=said):
        read_cub(birds, SUBSET)


@pytest.mark.real_data
def test_the_whole_metadata_have_the_official_counts(real_data: Path):
    reading = read_cub(real_data / "cub_meta/CUB_200_2011", ReadingRules(metadata_only=True))
    report = reading.report
    assert [report[name] for name in ("images", "classes", "train", "test")] == [11788, 200, 5994, 5794]
    assert report["official"]
    assert len({Path(path).name for path in reading.manifest["path"].tolist()}) == 11788


@pytest.mark.real_data
def test_the_ten_real_classes_have_boxes_and_fifteen_parts(real_data: Path):
    manifest = read_cub(real_data / "cub10/CUB_200_2011", SUBSET).manifest
    assert (len(manifest), manifest.num_classes) == (543, 10)
    assert [manifest[name][0] for name in ("x1", "y1", "x2", "y2")] == [60.0, 27.0, 385.0, 331.0]
    assert parts_of(manifest, 0)["beak"] == (312.0, 182.0)
    assert len({name for row in range(len(manifest)) for name in parts_of(manifest, row)}) == 15


@pytest.mark.real_data
def test_forty_real_classes_with_sparse_ids_are_numbered_anew(real_data: Path):
    manifest = read_cub(real_data / "cub40_crops/CUB_200_2011", SUBSET).manifest
    assert sorted(set(manifest.label.tolist())) == list(range(40))
    assert manifest.class_names[1] == "004.Groove_billed_Ani"
    assert (manifest["split"] == "train").sum() == 1200


def test_two_boxes_of_one_image_are_refused(birds: Path):
    file = birds / "bounding_boxes.txt"
    file.write_text(f"{file.read_text(encoding='utf-8')}1 0 0 5 5\n", encoding="utf-8")
    with pytest.raises(DataError, match="line 16: image 1 has a box already"):
        read_cub(birds, SUBSET)


def test_a_list_with_backslashes_is_read(birds: Path):
    before = read_cub(birds, SUBSET).manifest["path"].tolist()
    file = birds / "images.txt"
    file.write_text(file.read_text(encoding="utf-8").replace("/", "\\"), encoding="utf-8")
    assert read_cub(birds, SUBSET).manifest["path"].tolist() == before


def test_images_that_no_list_names_are_told(birds: Path):
    image = next((birds / "images").rglob("*.jpg"))
    image.with_name("stranger.jpg").write_bytes(image.read_bytes())
    (birds / "images" / "200.New").mkdir()
    (birds / "images" / "200.New" / "1.jpg").write_bytes(image.read_bytes())
    assert (
        read_cub(birds, SUBSET).report["notices"][-1].startswith("2 images beside the listed ones are in no")
    )
