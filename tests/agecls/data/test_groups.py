"""Age groups: order, gaps, raw strings and the published label rules."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agecls.data.groups import ADIENCE_GROUPS, POLICIES, AgeGroups, label_policy, normalise_age_string
from finetune.errors import DataError, UsageError

DISPLAY = ("0-2", "4-6", "8-12", "15-20", "25-32", "38-43", "48-53", "60+")


def test_adience_groups_run_from_young_to_old_and_not_alphabetically():
    assert ADIENCE_GROUPS.names == DISPLAY
    assert list(ADIENCE_GROUPS.names) != sorted(ADIENCE_GROUPS.names)
    raw_in_order = sorted(POLICIES["gillevi"].groups, key=POLICIES["gillevi"].groups.__getitem__)
    assert raw_in_order != sorted(raw_in_order)
    assert raw_in_order.index("(4, 6)") < raw_in_order.index("(15, 20)")


@pytest.mark.parametrize(
    ("age", "group"),
    [
        (0, "0-2"),
        (2, "0-2"),
        (2.9, "0-2"),
        (4, "4-6"),
        (12, "8-12"),
        (32.99, "25-32"),
        (60, "60+"),
        (101, "60+"),
    ],
)
def test_an_age_inside_a_group_gets_its_index(age: float, group: str):
    assert ADIENCE_GROUPS.index_of(age) == DISPLAY.index(group)


@pytest.mark.parametrize("age", [3, 7, 13, 14, 21, 24, 33, 37, 44, 47, 54, 59])
def test_an_age_in_a_gap_has_no_group(age: int):
    assert ADIENCE_GROUPS.index_of(age) is None


@pytest.mark.parametrize("age", [-1, math.nan, math.inf])
def test_an_impossible_age_is_refused(age: float):
    with pytest.raises(ValueError, match="finite number of years"):
        ADIENCE_GROUPS.index_of(age)


@given(st.floats(0, 120), st.floats(0, 120))
def test_an_older_person_never_gets_a_younger_group(one: float, other: float):
    young, old = sorted((one, other))
    first, second = ADIENCE_GROUPS.index_of(young), ADIENCE_GROUPS.index_of(old)
    assert first is None or second is None or first <= second


def test_groups_survive_being_written_and_read():
    assert AgeGroups.parse(str(ADIENCE_GROUPS)) == ADIENCE_GROUPS
    assert AgeGroups.parse("0 - 9, 10-19 ,20+").bounds == ((0, 9), (10, 19), (20, None))


def test_zeros_before_a_number_change_no_group():
    groups = AgeGroups.parse("00-02, 03-09,010+")
    assert groups.names == ("0-2", "3-9", "10+")
    names = ("00-02", "0-2", "03 \u2013 009", "010+", "over 010", "30-90")
    assert [groups.index_of_name(name) for name in names] == [0, 0, 1, 2, 2, None]


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        ("0-2,2-6", "without overlap"),
        ("4-6,0-2", "young to old"),
        ("0-2,60+,70-80", "only the last may be open"),
        ("6-4,8-9", "'6-4'"),
        ("0-2", "at least two"),
        ("0-2,old", "'old' is no group"),
        ("0-2,,4-6", "'' is no group"),
        ("-3-2,4-6", "no group"),
    ],
)
def test_groups_that_cannot_be_are_refused(text: str, complaint: str):
    with pytest.raises(UsageError, match=complaint.replace("+", r"\+")):
        AgeGroups.parse(text)


@pytest.mark.parametrize(
    ("raw", "clean"),
    [
        ("(25, 32)", "(25, 32)"),
        ("(25,32)", "(25, 32)"),
        (" ( 8 , 13 ) ", "(8, 13)"),
        ("35", "35"),
        ("None", "None"),
    ],
)
def test_spacing_in_an_age_string_does_not_matter(raw: str, clean: str):
    assert normalise_age_string(raw) == clean


@pytest.mark.parametrize(
    "raw", ["", "none", "25-32", "(25, 32", "(25, 32, 40)", "-3", "3.5", "²", "(25; 32)"]
)
def test_an_age_string_that_is_no_age_is_refused(raw: str):
    with pytest.raises(DataError, match="must read like"):
        normalise_age_string(raw)


def test_only_gillevi_keeps_the_typo_and_the_duplicates():
    for policy in POLICIES.values():
        odd = policy.name == "gillevi"
        assert policy.keeps_duplicates is odd
        assert policy.repaired("(25, 23)") == ("(25, 23)" if odd else "(25, 32)")
    assert "(25, 23)" not in POLICIES["gillevi"].groups


def test_policies_differ_where_the_literature_differs():
    table = {name: policy.groups for name, policy in POLICIES.items()}
    assert "35" not in table["core8"]
    assert table["mivolo"]["35"] == DISPLAY.index("25-32")
    assert table["paper_table"]["13"] == DISPLAY.index("8-12")
    assert table["paper_table"]["(38, 42)"] == DISPLAY.index("38-43")
    assert table["l2rclip"]["(27, 32)"] == DISPLAY.index("25-32")
    assert "(27, 32)" not in table["paper_table"]
    assert all("None" not in groups for groups in table.values())


def test_every_policy_maps_the_official_strings_to_their_own_group():
    for policy in POLICIES.values():
        for raw, index in policy.groups.items():
            lower = int(raw.strip("()").split(",")[0])
            if raw in POLICIES["gillevi"].groups:
                assert ADIENCE_GROUPS.index_of(lower) == index


def test_an_unknown_policy_lists_the_known_ones():
    with pytest.raises(UsageError, match="paper_table"):
        label_policy("core9")


def test_a_policy_table_cannot_be_changed():
    with pytest.raises(TypeError):
        POLICIES["core8"].groups["35"] = 4  # type: ignore[index]
