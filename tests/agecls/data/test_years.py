"""Classes of years: their names, the ages they stand for, and years read as groups."""

from __future__ import annotations

import numpy as np
import pytest

from agecls.data.groups import ADIENCE_GROUPS, AgeGroups
from agecls.data.years import groups_from_years, years_of
from finetune.errors import UsageError


def test_years_are_classes_of_one_year_the_last_one_open():
    groups = AgeGroups.parse("years:0-101")
    assert len(groups) == 102
    assert (*groups.names[:2], *groups.names[-2:]) == ("0", "1", "100", "101+")
    assert [groups.index_of(age) for age in (0, 0.9, 57.2, 101, 116)] == [0, 0, 57, 101, 101]
    assert AgeGroups.parse(str(groups)) == groups


def test_years_may_be_five_to_a_class():
    groups = AgeGroups.parse("years:10-20:5")
    assert groups.names == ("10-14", "15-19", "20+")
    assert groups.index_of(9) is None


@pytest.mark.parametrize(
    ("text", "what"),
    [
        ("years", "does not name years"),
        ("years:0..100", "does not name years"),
        ("years:100-0", "must be below the last"),
        ("years:0-100:0", "width of at least 1"),
        ("years:0-100:7", "must divide the 100 years"),
    ],
)
def test_years_that_cannot_be_made_are_refused(text, what):
    with pytest.raises(UsageError, match=what):
        AgeGroups.parse(text)


def test_a_year_in_a_gap_of_the_groups_belongs_to_none():
    names = AgeGroups.parse("years:0-100").names
    matrix = groups_from_years(names, ADIENCE_GROUPS)
    assert matrix.shape == (101, 8)
    assert matrix.sum(axis=0).tolist() == [3, 3, 5, 6, 8, 6, 6, 41]
    assert np.flatnonzero(matrix.sum(axis=1) == 0)[:3].tolist() == [3, 7, 13]


@pytest.mark.parametrize(
    ("names", "groups", "what"),
    [
        (("0-2", "4-6"), "0-2,4+", "only classes of single years"),
        (("20", "21", "22+"), "0-2,20+", "no year of the model lies in 0-2"),
        (("0", "1", "2+"), "0-1,2-5", "must be open"),
        (("0", "1", "2+"), "0-1,2-5,6+", "no year of the model lies in 6\\+"),
    ],
)
def test_groups_that_the_years_cannot_tell_are_refused(names, groups, what):
    with pytest.raises(UsageError, match=what):
        groups_from_years(names, AgeGroups.parse(groups))


def test_the_open_year_may_not_be_cut_by_a_group():
    assert years_of(("0", "1", "2+")) is not None
    with pytest.raises(UsageError, match="last class holds all ages from 2 on"):
        groups_from_years(("0", "1", "2+"), AgeGroups.parse("0,1-2"))
