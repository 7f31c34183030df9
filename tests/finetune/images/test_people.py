"""What no model learns to name: columns and class names of ethnicity or race, in every reader of a table."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from agecls.data.age_table import read_age_table
from agecls.data.groups import AgeGroups
from finegrained.data.image_table import read_image_table
from finetune.errors import UsageError
from finetune.images.manifest import Manifest
from finetune.images.people import are_ethnicities, names_ethnicity
from generalcls.config import GeneralDataConfig
from generalcls.data.class_folders import read_own_folders
from tests.apps.live_demo import picture


@pytest.mark.parametrize(
    "names",
    [
        ["White", "Black", "Asian", "Indian", "Others"],
        ["caucasian", "asian"],
        ["East Asian", "Southeast_Asian", "white"],
        ["Latino_Hispanic", "black"],
        ["African American", "Caucasian"],
        ["ethnicity: a", "ethnicity: b"],
        ["race_0", "race_1", "race_2"],
    ],
)
def test_ethnicities_are_recognised(names: list[str]):
    assert are_ethnicities(names)


@pytest.mark.parametrize(
    "names",
    [
        ["African", "Asian"],  # elephants
        ["Italian", "Indian", "Asian", "Mexican"],  # dishes
        ["white", "black", "silver"],  # cars
        ["race car", "racer"],
        ["Black footed Albatross", "White Pelican", "Indian Peafowl"],
        ["Caucasian", "Anatolian"],  # shepherd dogs
        ["0-2", "4-6"],
    ],
)
def test_animals_dishes_and_colours_are_left_alone(names: list[str]):
    assert not are_ethnicities(names)


def test_columns_are_recognised_by_whole_words():
    assert all(names_ethnicity(name) for name in ("face_race", "RaceLabel", "ETHNICITY"))
    assert not any(names_ethnicity(name) for name in ("grace", "racetrack", "class_name"))


def test_a_manifest_of_ethnicities_is_refused():
    with pytest.raises(UsageError, match="refused as a target"):
        Manifest(Path(), ("White", "Asian"), {"path": np.array(["a"]), "label": np.array([0])})


def test_tables_of_every_task_are_refused(tmp_path: Path):
    for name in ("White", "Asian"):
        for part in ("train", "test"):
            (tmp_path / "own" / part / name).mkdir(parents=True)
            (tmp_path / "own" / part / name / "a.png").write_bytes(picture(len(name)))
    (tmp_path / "a.png").write_bytes(picture(1))
    table = tmp_path / "t.csv"
    table.write_text("path,age,subject,race,class_name\na.png,20,s,White,White\n", encoding="utf-8")
    groups = AgeGroups.parse("0-2,4+")
    with pytest.raises(UsageError, match=r"the column 'race' is refused as a target.*--data\.slice_columns"):
        read_age_table(table, groups=groups, group_column="race")
    assert read_age_table(table, groups=groups, slice_columns=["race"]).manifest["slice_race"][0] == "White"
    table.write_text("path,class_name\na.png,White\nown/test/Asian/a.png,Asian\n", encoding="utf-8")
    with pytest.raises(UsageError, match=r"White.*read as ethnicities"):
        read_image_table(table)
    with pytest.raises(UsageError, match="read as ethnicities"):
        read_own_folders(GeneralDataConfig(name="folders", root=str(tmp_path / "own")), cache="none")
