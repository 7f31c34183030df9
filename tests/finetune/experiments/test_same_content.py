"""Images of the same bytes: dropped, held together, told; in both tasks, in every part, and on the record."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from agecls.config import AgeDataConfig
from agecls.cross_validation import cross_validate
from agecls.data.read import make_age_splits, read_data
from agecls.report.card_facts import data_facts
from agecls.report.report_sections import left_out
from agecls.task import TASK
from finegrained.config import FineDataConfig
from finegrained.data.load import make_fine_split, read_fine_data
from finetune.cli.console import quiet, reset
from finetune.errors import DataError, UsageError
from finetune.experiments.records.splits import Split
from finetune.experiments.result import Result
from finetune.experiments.same_content import DROPPED, GROUPED, TOGETHER, joined
from finetune.images.manifest import Manifest
from finetune.runs.folder import read_json
from tests.agecls.tiny_ages import drawn_faces, resumed, tiny
from tests.finegrained.tiny_birds import birds

AGES = (1, 5, 10, 17, 28, 40, 50, 70)


@pytest.fixture(autouse=True)
def _quiet() -> Iterator[None]:
    quiet()
    yield
    reset()


@pytest.fixture
def table(tmp_path: Path) -> Path:
    """Eighty images of eighty people; 0, 9 and 18 are the same bytes with two ages, and so are 1 and 2."""
    lines = ["path,age,subject"]
    for place in range(80):
        copied = {9: 0, 18: 0, 2: 1}.get(place, place)
        (tmp_path / f"{place}.jpg").write_bytes(b"x" * (1 + copied))
        lines.append(f"{place}.jpg,{AGES[place % 8]},p{place}")
    (tmp_path / "t.csv").write_text("\n".join(lines) + "\n")
    return tmp_path / "t.csv"


def assert_whole(manifest: Manifest, split: Split) -> None:
    """Every set of equal images is in one part."""
    sides = [set(manifest[TOGETHER][rows].tolist()) for _, rows in split.parts()]
    assert sum(map(len, sides)) == len(set.union(*sides))


def test_drop_keeps_the_first_counts_the_others_and_tells_other_labels(table: Path):
    data = read_data(AgeDataConfig(table=str(table), same_content="drop"))
    assert data.report[DROPPED] == 80 - len(data.manifest) == 3
    assert data.report["images"] == data.report["subjects"] == sum(data.report["per_group"]) == 77
    paths = set(data.manifest["path"].tolist())
    assert {"0.jpg", "1.jpg"} <= paths
    assert not {"9.jpg", "18.jpg", "2.jpg"} & paths
    told = " ".join(data.report["notices"])
    assert "2 sets of images are the same bytes: 2 of them under different classes" in told
    assert "the first image's label is kept: 0.jpg: 0-2, 1 years = 9.jpg: 4-6, 5 years" in told


@pytest.mark.parametrize("protocol", ["fixed", "rotate", "grouped"])
def test_group_puts_each_set_into_one_part_of_every_fold(table: Path, protocol: str):
    config = AgeDataConfig(table=str(table), same_content="group", protocol=protocol)  # type: ignore[arg-type]
    data = read_data(config)
    fold = dict(zip(data.manifest["path"].tolist(), data.manifest["fold"].tolist(), strict=True))
    assert (data.report[GROUPED], len(data.manifest)) == (2, 80)
    assert fold["0.jpg"] == fold["9.jpg"] == fold["18.jpg"]
    assert fold["1.jpg"] == fold["2.jpg"]
    for split in make_age_splits(data, config):
        assert_whole(data.manifest, split)


def test_without_the_rule_the_sets_are_separated(table: Path):
    data = read_data(AgeDataConfig(table=str(table), same_content="keep"))
    fold = dict(zip(data.manifest["path"].tolist(), data.manifest["fold"].tolist(), strict=True))
    assert len({fold["0.jpg"], fold["9.jpg"], fold["18.jpg"]}) > 1
    assert TOGETHER not in data.manifest


def test_official_folds_that_separate_a_set_are_refused(table: Path):
    lines = table.read_text().splitlines()
    lines = [f"{line},{'fold' if not place else place % 2}" for place, line in enumerate(lines)]
    table.write_text("\n".join(lines) + "\n")
    config = AgeDataConfig(table=str(table), fold_column="fold", same_content="group")
    with pytest.raises(DataError, match=r"separate 2 sets of equal images.*\n.*p0 \(train, test\)"):
        make_age_splits(read_data(config), config)


def test_albums_that_share_an_image_are_one(table: Path):
    assert joined(np.array(["a", "a", "b", "c"]), [[1, 2]]).tolist() == ["a", "a", "a", "c"]
    assert joined(np.array(["a", "b", "c", "d"]), [[2, 3], [1, 3], [0, 1]]).tolist() == ["a"] * 4


@pytest.fixture
def twins(tmp_path: Path) -> Path:
    """Class folders without parts, in which the first image of each class but one is the first class's."""
    files = sorted(birds(tmp_path / "birds").rglob("images/*/*.jpg"))
    for file in files:
        target = tmp_path / "all" / file.parent.name / file.name
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(file, target)
    first = [sorted(folder.iterdir())[0] for folder in sorted((tmp_path / "all").iterdir())]
    for other in first[1:]:
        shutil.copy(first[0], other)
    return tmp_path / "all"


def test_the_category_task_drops_and_groups_too(twins: Path):
    kept = read_fine_data(FineDataConfig(root=str(twins)))
    classes = kept.manifest.num_classes
    dropped = read_fine_data(FineDataConfig(root=str(twins), same_content="drop"))
    assert dropped.report[DROPPED] == classes - 1 == len(kept.manifest) - dropped.report["images"]
    for seed in range(4):
        config = FineDataConfig(root=str(twins), same_content="group", split_seed=seed, val_share=0.4)
        data = read_fine_data(config)
        assert data.report[GROUPED] == 1
        (split,) = make_fine_split(data, config)
        assert_whole(data.manifest, split)


@pytest.fixture
def repeated(tmp_path: Path) -> Path:
    """The drawn faces without parts of their own, as a table; one is there twice with two ages."""
    files = sorted(drawn_faces(tmp_path / "drawn").glob("aligned/*/*.jpg"))
    lines = ["path,age,subject"]
    for place, file in enumerate([*files, files[0]]):
        shutil.copy(file, tmp_path / f"{place}.jpg")
        lines.append(f"{place}.jpg,{AGES[place % 8]},p{place % len(files) if place < len(files) else 'x'}")
    (tmp_path / "t.csv").write_text("\n".join(lines) + "\n")
    return tmp_path / "t.csv"


def test_a_run_records_reports_and_resumes_the_rule(repeated: Path, tmp_path: Path):
    options = {"root": None, "table": str(repeated), "n_folds": 2}
    config = tiny(repeated, tmp_path / "run", same_content="drop", **options)
    cross_validate(TASK, replace(config, folds=(0,)))
    assert read_json(tmp_path / "run" / "fold0" / "run.json")["counts"][DROPPED] == 1
    other = resumed(config, data=replace(config.data, same_content="group"))
    with pytest.raises(UsageError, match="same_content"):
        cross_validate(TASK, other)
    assert cross_validate(TASK, resumed(config, folds=(0,)))["finished"] == [0]
    fold = Result.load(tmp_path / "run" / "fold0", TASK.form)
    assert left_out(fold.record.counted) == " 1 images with the bytes of an earlier one."
    assert data_facts(fold, 0)["left_out"] == {"images with the bytes of an earlier one": 1}
    counts = {**fold.record.counted, GROUPED: 2, "data_name": "FG-NET", "terms": "research"}
    facts = data_facts(replace(fold, record=replace(fold.record, counts=counts)), 0)
    assert (facts["kind"], facts["name"]) == ("published", "FG-NET")
    assert "as far as we know: research." in facts["about"]
    assert facts["protocol_words"].endswith(
        "; 2 sets of images with the same bytes were each kept in one part"
    )
