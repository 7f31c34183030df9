from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from agecls.audit.answers import read_answers
from agecls.audit.config import AuditConfig
from agecls.audit.decode import decode_ages, group_midpoints, years_of
from agecls.config import AgeDataConfig
from finetune.errors import DataError, UsageError
from finetune.experiments.exported.number_line import NumberLine
from tests.agecls.age_predictions import age_predictions
from tests.agecls.audit.made_answers import spread_answers, write_csv

GROUPS = ("0-2", "4-6", "60+")


def predicted(folder: Path, names: tuple[str, ...], ages: list[float], **columns: np.ndarray) -> Path:
    count = len(ages)
    probs = np.full((count, len(names)), 1 / len(names))
    path = np.array([f"p{row}" for row in range(count)])
    own = {
        "subject": np.array([f"s{row // 2}" for row in range(count)]),
        "user": path,
        "gender": np.full(count, "f"),
        "age": np.array(ages),
        "fold": np.zeros(count, dtype=int),
    }
    found = age_predictions(names, path=path, target=np.zeros(count, dtype=int), probs=probs, **own)
    found = replace(found, columns={**found.columns, **columns})
    file = folder / "predictions.parquet"
    found.write(file)
    return file


def test_years_are_read_from_class_names_with_both_decoders(tmp_path: Path):
    file = predicted(tmp_path, ("16", "17", "18", "30"), [17.0, 40.0, np.nan])
    found = read_answers(file, AuditConfig())
    assert found.predicted.tolist() == [20.25, 20.25]
    assert found.decoded["median"].tolist() == [17.0, 17.0]
    assert found.people
    assert found.notices == ("1 of 3 images have no recorded age and are left out",)
    assert read_answers(file, AuditConfig(decode="median")).predicted.tolist() == [17.0, 17.0]


def test_slices_of_a_run_are_read_back(tmp_path: Path):
    file = predicted(tmp_path, ("16", "17"), [17.0, 40.0], slice_camera=np.array(["x", "y"]))
    assert read_answers(file, AuditConfig()).attributes["camera"].tolist() == ["x", "y"]


def test_age_groups_give_an_age_only_where_their_midpoint_is_asked_for(tmp_path: Path):
    file = predicted(tmp_path, GROUPS, [1.0, 5.0])
    with pytest.raises(UsageError, match="the classes are age groups"):
        read_answers(file, AuditConfig())
    found = read_answers(file, AuditConfig(decode="midpoint", open_age=72))
    assert found.predicted == pytest.approx([(1 + 5 + 72) / 3] * 2)
    assert "60+ counts as 72" in found.notices[0]
    with pytest.raises(UsageError, match="is for age groups"):
        decode_ages(np.ones((1, 2)), ("16", "17"), "midpoint", 70)


def test_what_a_year_is_and_what_not():
    assert years_of(("0-0", "1-1", "2+")) is not None
    assert years_of(("0", "1", "1")) is None
    assert years_of(("0+", "1")) is None
    assert group_midpoints(GROUPS, 70).tolist() == [1.0, 5.0, 70.0]
    line = NumberLine("age", "years", np.array([10.0, 20.0, 30.0]))
    ages = line.median(np.array([[0.5, 0.5, 0.0], [0.2, 0.2, 0.6]]))
    assert ages.tolist() == [10.0, 30.0]


def test_a_run_without_ages_is_refused(tmp_path: Path):
    with pytest.raises(DataError, match="records no true age"):
        read_answers(predicted(tmp_path, ("16", "17"), [np.nan]), AuditConfig())
    with pytest.raises(DataError, match=r"holds no predictions\.parquet"):
        read_answers(tmp_path.parent, AuditConfig())


def test_a_table_of_another_system(tmp_path: Path):
    made = spread_answers(20)
    file = write_csv(tmp_path / "theirs.csv", made, camera=["x", "na"] * 10)
    config = AuditConfig(data=AgeDataConfig(slice_columns=("camera",)))
    found = read_answers(file, config)
    np.testing.assert_allclose(found.predicted, made.predicted)
    assert found.unit.tolist() == made.unit.tolist()
    assert (found.people, found.units, found.name) == (True, "people", "theirs")
    assert set(found.attributes["camera"].tolist()) == {"x", ""}
    alone = read_answers(file, AuditConfig(data=AgeDataConfig(subject_column="none")))
    assert (alone.people, alone.units) == (False, "images")


def test_a_table_of_probabilities_of_years(tmp_path: Path):
    file = tmp_path / "t.csv"
    file.write_text("path,age,prob_16,prob_20\na,17,0.5,0.5\nb,18,0.25,0.75\n", encoding="utf-8")
    assert read_answers(file, AuditConfig()).predicted.tolist() == [18.0, 19.0]
    file.write_text("path,age,prob_16,prob_20\na,17,0.5,0.6\n", encoding="utf-8")
    with pytest.raises(DataError, match="must sum to 1"):
        read_answers(file, AuditConfig())


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("path,age\na,17\n", "missing columns: predicted_age"),
        ("path,age,predicted_age\na,17,x\n", "row 2: predicted_age 'x'"),
        ("path,age,predicted_age\na,140,20\n", "row 2: age '140'"),
    ],
)
def test_tables_that_hold_no_ages_are_refused(tmp_path: Path, text: str, told: str):
    file = tmp_path / "t.csv"
    file.write_text(text, encoding="utf-8")
    with pytest.raises(DataError, match=told):
        read_answers(file, AuditConfig())


def test_an_image_without_a_subject_is_one_of_its_own(tmp_path: Path):
    file = tmp_path / "t.csv"
    file.write_text(
        "path,age,predicted_age,subject\na,17,20,p\nb,17,20,\nc,17,20,\nd,17,20,p\n", encoding="utf-8"
    )
    assert read_answers(file, AuditConfig()).unit.tolist() == ["p", "b", "c", "p"]
    with pytest.raises(DataError, match="person"):
        read_answers(file, AuditConfig(data=AgeDataConfig(subject_column="person")))


def test_probabilities_of_years_may_stand_in_any_order(tmp_path: Path):
    file = tmp_path / "t.csv"
    file.write_text("path,age,prob_20,prob_16\na,17,0.25,0.75\n", encoding="utf-8")
    assert read_answers(file, AuditConfig()).predicted.tolist() == [17.0]
