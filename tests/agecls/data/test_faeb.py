"""The CVPR 2024 benchmark: its lists, its overlapping splits, its crops, and what is refused of it."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from agecls.config import AgeConfig, AgeDataConfig, VerifyAgeConfig
from agecls.data.faeb import FIVE, read_database
from agecls.data.overlapping import PARTS_COLUMN, listed_splits, splits_of
from agecls.data.read import make_age_splits, read_data
from agecls.faces.quadrilateral import cut_marked_face
from agecls.synthetic.faeb import write_faeb
from agecls.task import TASK
from finetune.cli.console import quiet, reset
from finetune.errors import DataError, UsageError
from finetune.experiments.data_checks import verify_data
from finetune.images.manifest import Manifest
from finetune.training.config import TrainConfig

AGES = (5, 12, 20, 30, 45, 70)
AGEDB_FOLDERS = (1701, 1721, 1615, 1619, 1626, 1643, 1634, 1596, 1676, 1657)  # counted in the published list


@pytest.fixture(autouse=True)
def _quiet(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setenv("CRL_CACHE", str(tmp_path / "cache"))
    quiet()
    yield
    reset()


def config_of(file: Path, **options: Any) -> AgeDataConfig:
    """Return the data options of a database whose images lie beside it."""
    return AgeDataConfig(
        **{"faeb": str(file), "root": str(file.parent), "groups": "0-17,18-39,40+"} | options
    )


def changed(file: Path, place: int, **values: Any) -> Path:
    """Change one face of a database."""
    entries = json.loads(file.read_text())
    entries[place] = {**entries[place], **values}
    file.write_text(json.dumps(entries))
    return file


def test_the_published_folders_give_the_published_sizes():
    folder = np.repeat(np.arange(10), AGEDB_FOLDERS)
    letters = {
        one: "".join("tvs"[[one in s[p] for p in ("trn", "val", "tst")].index(True)] for s in FIVE)
        for one in range(10)
    }
    columns = {
        "path": np.array([f"{row}.jpg" for row in range(len(folder))]),
        "label": np.arange(len(folder)) % 2,
        PARTS_COLUMN: np.array([letters[one] for one in folder.tolist()]),
    }
    splits = listed_splits(Manifest(Path(), ("a", "b"), columns))
    assert [len(rows) for _, rows in splits[0].parts()] == [9925, 3230, 3333]
    tested = [sorted(set(folder[split.test].tolist())) for split in splits]
    assert tested == [[8, 9], [0, 1], [2, 3], [3, 4], [4, 5]]
    assert [sorted(set(folder[split.val].tolist())) for split in splits] == [
        [6, 7],
        [8, 9],
        [0, 1],
        [1, 2],
        [2, 3],
    ]


def test_the_benchmarks_splits_are_kept_as_they_are_and_told(tmp_path: Path):
    config = config_of(write_faeb(tmp_path, AGES))
    data = read_data(config)
    assert (len(data.manifest), data.report["subjects"], data.report["database"]) == (60, 30, "AgeDB")
    assert any("folders 3, 4 are tested twice, folders 6, 7 never" in told for told in data.report["notices"])
    splits = make_age_splits(data, config)
    assert splits.folds == [0, 1, 2, 3, 4]
    assert {split.protocol for split in splits} == {"faeb"}
    times = np.bincount(np.concatenate([split.test for split in splits]), minlength=60).reshape(10, 6)
    assert times[:, 0].tolist() == [1, 1, 1, 2, 2, 1, 0, 0, 1, 1]
    saved = tmp_path / "manifest.parquet"
    data.manifest.save(saved)
    again = splits_of(Manifest.load(saved, data.manifest.root), "faeb")
    assert all((a.test == b.test).all() for a, b in zip(splits, again, strict=True))


def test_a_benchmark_file_gives_the_same_splits(tmp_path: Path):
    file = write_faeb(tmp_path, AGES)
    direct, listed = config_of(file), config_of(tmp_path / "benchmark.yaml", root=str(tmp_path))
    hashes = [make_age_splits(read_data(one), one).hash for one in (direct, listed)]
    assert hashes[0] == hashes[1]


def test_disjoint_pairs_are_tested_once_each(tmp_path: Path):
    config = config_of(write_faeb(tmp_path, AGES), splits="disjoint")
    data = read_data(config)
    splits = make_age_splits(data, config)
    assert np.bincount(np.concatenate([split.test for split in splits])).tolist() == [1] * 60
    assert {split.protocol for split in splits} == {"rotate"}
    assert data.manifest["fold"].tolist() == np.repeat(np.arange(5), 12).tolist()


def test_three_folders_are_one_split_and_pairs_of_them_are_refused(tmp_path: Path):
    file = write_faeb(tmp_path, AGES, folders=3, people=False, name="ChaLearn2016")
    (split,) = make_age_splits(read_data(config_of(file)), config_of(file))
    assert [len(rows) for _, rows in split.parts()] == [6, 6, 6]
    with pytest.raises(DataError, match=r"pairs the folders 0 to 9.*\[0, 1, 2\]"):
        read_data(config_of(file, splits="disjoint"))


def test_a_person_in_two_parts_of_a_split_is_refused_and_unknown_people_are_told(tmp_path: Path):
    file = changed(write_faeb(tmp_path, AGES), 59, name="person0_0")
    config = config_of(file)
    with pytest.raises(DataError, match="subject person0_0 is in train and test of fold 0"):
        make_age_splits(read_data(config), config)
    (tmp_path / "other").mkdir()
    unknown = read_data(config_of(write_faeb(tmp_path / "other", AGES, people=False, name="UTKFace")))
    assert any("its folders may share people" in told for told in unknown.report["notices"])


def test_unknown_ages_and_unmarked_faces_are_dropped_and_odd_entries_refused(tmp_path: Path):
    file = changed(write_faeb(tmp_path, AGES), 0, age=-1)
    changed(file, 1, aligned_bbox=[])
    found, title = read_database(file)
    assert {reason: len(names) for reason, names in found.dropped.items()} == {
        "age not known (-1)": 1,
        "face not marked": 1,
    }
    assert (len(found.faces), title) == (58, "AgeDB")
    changed(file, 2, age="twelve")
    with pytest.raises(DataError, match=r"(?s)1 of 60 names or rows.*age 'twelve' must be years"):
        read_data(config_of(file))
    assert read_data(config_of(file, odd_names="drop")).report["images"] == 57


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("version https://git-lfs.github.com/spec/v1\n", "pointer of Git LFS"),
        ("[1, 2]", "must be a list of faces"),
        ("{", "is no JSON"),
    ],
)
def test_another_file_is_named(text: str, told: str, tmp_path: Path):
    (tmp_path / "d.json").write_text(text)
    with pytest.raises(DataError, match=told):
        read_database(tmp_path / "d.json")


def test_folders_that_the_splits_do_not_know_are_refused(tmp_path: Path):
    file = changed(write_faeb(tmp_path, AGES), 0, folder=82)
    with pytest.raises(DataError, match=r"has others:\n.*82"):
        read_data(config_of(file))


def test_options_that_exclude_each_other_are_refused(tmp_path: Path):
    file = write_faeb(tmp_path, AGES)
    told = [str(fault) for fault in config_of(file, protocol="grouped", table="t.csv").faults(needed=True)]
    assert any("brings its own" in one for one in told)
    assert any("no --data.table or .name" in one for one in told)
    AgeConfig(data=config_of(file), train=TrainConfig(select="best"))  # the benchmark validates
    with pytest.raises(UsageError, match="need a validation part"):
        AgeConfig(data=AgeDataConfig(), train=TrainConfig(select="best"))


def test_exported_lists_are_read_back(tmp_path: Path):
    file = write_faeb(tmp_path, AGES)
    verify_data(TASK, VerifyAgeConfig(config_of(file), quick=True, export=str(tmp_path / "lists")))
    verify_data(TASK, VerifyAgeConfig(config_of(file), quick=True, against=str(tmp_path / "lists")))


def test_the_crop_maps_the_extended_corners_onto_the_corners_of_the_square():
    across, down = np.meshgrid(np.arange(200.0), np.arange(200.0))
    image = np.stack([across, down, np.full_like(down, 100)], axis=2).astype(np.uint8)
    first, second, third = np.array([60.0, 50.0]), np.array([140.0, 70.0]), np.array([120.0, 150.0])
    corners = [*(first + 1), *(second + 1), *(third + 1), *(first + third - second + 1)]  # counted from 1
    face = cut_marked_face(image, corners, margin=0.05)
    across, down = second - first, third - second
    outer = [
        first - 0.05 * (across + down),
        second + 0.05 * (across - down),
        third + 0.05 * (across + down),
    ]
    assert face.shape[0] == face.shape[1] == round(1.1 * float(np.hypot(80, 20)) + 1)
    for place, corner in zip(((0, 0), (0, -1), (-1, -1)), outer, strict=True):
        assert np.abs(face[place][:2] - corner).max() <= 1.0, (place, face[place], corner)


def test_a_box_is_widened_to_a_square_and_black_outside():
    image = np.full((100, 100, 3), 200, np.uint8)
    face = cut_marked_face(image, (80, 40, 100, 60), margin=0.5)
    assert face.shape == (40, 40, 3)
    assert (face[:, :28] == 200).all()
    assert (face[:, 32:] == 0).all()
    assert cut_marked_face(image, (0, 30, 10, 50), margin=0.0).shape == (20, 20, 3)


@pytest.mark.parametrize("corners", [(1, 2, 3), (5, 5, 5, 9), (1, 1, 5, 5, 9, 9, 3, 3)])
def test_marks_that_enclose_nothing_are_refused(corners: tuple[float, ...]):
    with pytest.raises(DataError):
        cut_marked_face(np.zeros((10, 10, 3), np.uint8), corners)
