from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from apps.heatmap.names import names_for_people, short_names
from finegrained.data.class_names import CARS, CUB, class_table

ROOT = Path(__file__).resolve().parents[3]


@pytest.mark.parametrize("table", [CUB, CARS])
@pytest.mark.parametrize("limit", [20, 28, 60])
def test_the_official_classes_stay_different_however_short(table: str, limit: int):
    names = names_for_people(class_table(table))
    short = short_names(names, limit)
    assert len(set(short)) == len(short) == len(class_table(table))
    assert max(map(len, short)) <= limit
    assert [told for told, name in zip(short, names, strict=True) if len(name) <= limit] == [
        name for name in names if len(name) <= limit
    ]


def test_names_lose_number_and_underscores():
    assert names_for_people(class_table(CUB))[:2] == ("Black footed Albatross", "Laysan Albatross")
    assert names_for_people(class_table(CARS)) == class_table(CARS)


@pytest.mark.parametrize("names", [("001.Gull", "002.Gull"), ("a_b", "a b"), ("001.", "cat"), ("_", "cat")])
def test_names_that_would_read_alike_or_be_empty_stay_as_they_are(names: tuple[str, ...]):
    assert names_for_people(names) == names


def test_what_makes_long_names_differ_is_kept():
    names = ["Chevrolet Silverado 1500 Regular Cab 2012", "Chevrolet Silverado 2500HD Regular Cab 2012"]
    assert short_names(names, 28) == ("…erado 1500 Regular Cab 2012", "…ado 2500HD Regular Cab 2012")


def test_it_needs_no_torch():
    code = "import sys, apps.heatmap.names; sys.exit(bool({'torch', 'matplotlib'} & set(sys.modules)))"
    assert subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=False).returncode == 0
