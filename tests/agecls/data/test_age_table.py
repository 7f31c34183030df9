"""Age tables: dialects, the gaps between groups, people, and every invalid cell."""

from __future__ import annotations

import json
import math
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from agecls.data.age_table import read_age_table
from agecls.data.groups import AgeGroups
from finetune.errors import DataError, UsageError

GOOD = ["path,age,subject", "a.jpg,1,p1", "b.jpg,30,p2", "c.jpg,61,p2"]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for name in ("a.jpg", "b.jpg", "c.jpg", "d.jpg"):
        (tmp_path / name).write_bytes(b"x")
    return tmp_path


def _table(folder: Path, lines: list[str], name: str = "table.csv") -> Path:
    file = folder / name
    file.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return file


def test_ages_become_groups_and_people_become_subjects_and_users(folder: Path):
    reading = read_age_table(_table(folder, GOOD))
    manifest = reading.manifest
    assert manifest.label.tolist() == [0, 4, 7]
    assert manifest["age"].tolist() == [1, 30, 61]
    assert manifest["subject"].tolist() == manifest["user"].tolist() == ["p1", "p2", "p2"]
    assert manifest["fold"].tolist() == [-1, -1, -1]
    assert manifest["source_id"].tolist() == ["table.csv:2", "table.csv:3", "table.csv:4"]
    assert manifest.file(0) == folder / "a.jpg"
    assert (reading.report.subjects, reading.report.subjects_known) == (2, True)
    assert json.loads(json.dumps(reading.report.to_dict()))["images"] == 3


def test_ages_with_decimal_commas_are_read_where_no_comma_separates(folder: Path):
    reading = read_age_table(_table(folder, ["path;age;subject", "a.jpg;1,5;p1", "b.jpg;30;p2"]))
    assert reading.manifest["age"].tolist() == [1.5, 30]
    with pytest.raises(DataError, match=r"'1,5' must be a number of years.*; a decimal comma is read only"):
        read_age_table(_table(folder, ["path,age,subject", 'a.jpg,"1,5",p1']))


def test_ages_in_the_gaps_are_left_out_and_counted(folder: Path):
    report = read_age_table(_table(folder, [*GOOD, "d.jpg,3.5,p3"])).report
    assert (report.rows, report.images, report.in_gaps, report.gap_ages) == (4, 3, 1, {3: 1})


def test_an_age_in_a_gap_need_not_have_its_picture(folder: Path):
    assert read_age_table(_table(folder, [*GOOD, "gone.jpg,3,p3"])).report.missing_images == 0


def test_own_groups_are_followed(folder: Path):
    manifest = read_age_table(_table(folder, GOOD), groups=AgeGroups.parse("0-17,18-59,60+")).manifest
    assert manifest.class_names == ("0-17", "18-59", "60+")
    assert manifest.label.tolist() == [0, 1, 2]


@pytest.mark.parametrize(("separator", "word"), [(";", "semicolon"), ("\t", "tab")])
def test_other_separators_a_byte_order_mark_and_crlf_are_told_apart(folder: Path, separator: str, word: str):
    plain = read_age_table(_table(folder, GOOD)).manifest
    text = "\r\n".join(line.replace(",", separator) for line in GOOD) + "\r\n\r\n"
    file = folder / "other.csv"
    file.write_bytes(b"\xef\xbb\xbf" + text.encode())
    reading = read_age_table(file)
    assert reading.manifest.fingerprint == plain.fingerprint
    assert word in reading.report.notices[0]


def test_parquet_reads_like_csv(folder: Path):
    table = pa.table({"path": ["a.jpg", "b.jpg"], "age": [1, 30], "subject": [1, 2]})
    pq.write_table(table, folder / "table.parquet")
    manifest = read_age_table(folder / "table.parquet").manifest
    assert manifest.label.tolist() == [0, 4]
    assert manifest["subject"].tolist() == ["1", "2"]
    pq.write_table(table.set_column(1, "age", pa.array([1, None], pa.int64())), folder / "table.parquet")
    with pytest.raises(DataError, match="row 2: age ''"):
        read_age_table(folder / "table.parquet")


def test_quoted_cells_may_hold_the_separator(folder: Path):
    (folder / "x, y.jpg").write_bytes(b"x")
    manifest = read_age_table(_table(folder, [*GOOD, '"x, y.jpg",5,"Doe, J."'])).manifest
    assert (manifest["path"][3], manifest["subject"][3]) == ("x, y.jpg", "Doe, J.")


def test_groups_genders_users_and_folds_are_read_where_named(folder: Path):
    lines = ["file;grp;who;album;sex;part", "a.jpg;0-2;p1;u1;F;0", "b.jpg;60+;p2;u1;male;1"]
    manifest = read_age_table(
        _table(folder, lines),
        path_column="file",
        group_column="grp",
        subject_column="who",
        user_column="album",
        gender_column="sex",
        fold_column="part",
    ).manifest
    assert manifest.label.tolist() == [0, 7]
    assert manifest["user"].tolist() == ["u1", "u1"]
    assert manifest["gender"].tolist() == ["f", "m"]
    assert manifest["fold"].tolist() == [0, 1]
    assert np.isnan(manifest["age"]).all()


@pytest.mark.parametrize(
    ("row", "complaint"),
    [
        ("d.jpg,old,p3", "age 'old' must be a number of years from 0 to 120"),
        ("d.jpg,-1,p3", "age '-1'"),
        ("d.jpg,1975,p3", "age '1975'"),
        ("d.jpg,nan,p3", "age 'nan'"),
        ("d.jpg,inf,p3", "age 'inf'"),
        ("d.jpg,,p3", "age ''"),
        (",5,p3", "path '' is empty"),
        ("d.jpg,5,", "subject '' is empty"),
    ],
)
def test_a_cell_that_cannot_be_right_is_named_with_its_row(folder: Path, row: str, complaint: str):
    with pytest.raises(DataError, match=rf"table\.csv: 1 of 4 rows(.|\n)*row 5: {complaint}"):
        read_age_table(_table(folder, [*GOOD, row]))


def test_all_wrong_cells_are_listed_at_once(folder: Path):
    with pytest.raises(DataError, match=r"2 of 5 rows(.|\n)*row 5: (.|\n)*row 6: "):
        read_age_table(_table(folder, [*GOOD, "d.jpg,x,p", "e.jpg,y,p"]))


def test_an_unknown_group_lists_the_known_ones(folder: Path):
    with pytest.raises(DataError, match=r"row 2: grp '60-100' must be one of 0-2, .*60\+"):
        read_age_table(_table(folder, ["path,grp,subject", "a.jpg,60-100,p"]), group_column="grp")


@pytest.mark.parametrize(
    ("column", "cell"), [("gender_column", "x"), ("fold_column", "-1"), ("fold_column", "a")]
)
def test_a_gender_or_fold_that_cannot_be_right_is_named(folder: Path, column: str, cell: str):
    with pytest.raises(DataError, match="row 2: extra"):
        read_age_table(
            _table(folder, ["path,age,subject,extra", f"a.jpg,1,p,{cell}"]),
            **{column: "extra"},  # type: ignore[arg-type]
        )


def test_a_table_without_subjects_is_refused_unless_that_is_said(folder: Path):
    file = _table(folder, ["path,age", "a.jpg,1", "b.jpg,30"])
    with pytest.raises(
        DataError, match=r"missing columns: subject; found: path, age(.|\n)*subject_column none"
    ):
        read_age_table(file)
    reading = read_age_table(file, subject_column=None)
    assert reading.manifest["subject"].tolist() == ["a.jpg", "b.jpg"]
    assert reading.report.subjects_known is False
    assert (reading.report.subjects, reading.report.users) == (None, None)
    albums = read_age_table(file, subject_column=None, user_column="age").report
    assert (albums.subjects, albums.users) == (None, 2)
    assert "NO SUBJECTS" in reading.report.notices[0]


@pytest.mark.parametrize(
    ("row", "kind"),
    [("a.jpg,1,p1", "the same row twice"), ("./a.jpg,30,p1", "two labels"), ("a.jpg,1,p9", "two subjects")],
)
def test_a_file_listed_twice_is_refused_with_both_rows(folder: Path, row: str, kind: str):
    with pytest.raises(DataError, match=rf"a\.jpg: table\.csv:2 and table\.csv:5 \(.*{kind}"):
        read_age_table(_table(folder, [*GOOD, row]))


def test_missing_pictures_are_refused_counted_or_dropped(folder: Path):
    file = _table(folder, [*GOOD, "gone.jpg,5,p3"])
    with pytest.raises(DataError, match=r"1 of 4 listed images(.|\n)*gone\.jpg"):
        read_age_table(file)
    counted, dropped = read_age_table(file, missing="count"), read_age_table(file, missing="drop")
    assert (len(counted.manifest), counted.report.missing_images) == (4, 1)
    assert (len(dropped.manifest), dropped.report.missing_images, dropped.report.images) == (3, 1, 3)


def test_paths_out_of_the_root_need_to_be_allowed(folder: Path):
    inner = folder / "inner"
    inner.mkdir()
    for path in ("../a.jpg", str(folder / "a.jpg")):
        file = _table(inner, ["path,age,subject", f"{path},1,p1"])
        with pytest.raises(DataError, match=r"table\.csv:2: (.|\n)*"):
            read_age_table(file)
        manifest = read_age_table(file, follow=True).manifest
        assert manifest.file(0).samefile(folder / "a.jpg")


def test_a_link_out_of_the_root_needs_to_be_allowed(folder: Path):
    inner = folder / "inner"
    inner.mkdir()
    (inner / "a.jpg").symlink_to(folder / "a.jpg")
    file = _table(inner, GOOD[:2])
    with pytest.raises(DataError, match="outside the data root"):
        read_age_table(file)
    assert read_age_table(file, follow=True).report.images == 1


def test_another_root_can_be_given(folder: Path):
    tables = folder / "tables"
    tables.mkdir()
    assert read_age_table(_table(tables, GOOD), root=folder).manifest.file(0) == folder / "a.jpg"


@pytest.mark.parametrize(
    ("lines", "complaint"),
    [
        (["path,age,subject"], "no row follows"),
        (["path,age,age,subject", "a.jpg,1,1,p"], "named twice: age"),
        (["file,age,subject", "a.jpg,1,p"], "line 1: missing columns: path; found: file, age, subject"),
        (["path,age,subject", "a.jpg,1,p,9"], "line 2: 4 cells under 3 columns"),
        (
            ["path|age|subject", "a.jpg|1|p"],
            r"missing columns: path, age, subject; found: path\|age\|subject",
        ),
        (["path,age,subject", '"a.jpg,1,p'], "not readable as CSV"),
        (["path,age,subject", "a.jpg,3,p"], "none of 1 rows is usable"),
    ],
)
def test_a_malformed_table_is_refused(folder: Path, lines: list[str], complaint: str):
    with pytest.raises(DataError, match=complaint):
        read_age_table(_table(folder, lines))


def test_files_that_are_no_tables_are_refused(folder: Path):
    with pytest.raises(DataError, match="is not there"):
        read_age_table(folder / "nothing.csv")
    (folder / "bad.csv").write_bytes(b"path,age,subject\n\xff")
    with pytest.raises(DataError, match="not UTF-8"):
        read_age_table(folder / "bad.csv")
    (folder / "bad.parquet").write_bytes(b"PAR1")
    with pytest.raises(DataError, match="not readable as parquet"):
        read_age_table(folder / "bad.parquet")
    with pytest.raises(UsageError, match=r"must be \.csv"):
        read_age_table(folder / "a.jpg")
    with pytest.raises(UsageError, match="age_column or a group_column"):
        read_age_table(_table(folder, GOOD), age_column=None)


@pytest.mark.real_data
def test_fg_net_gives_its_731_images_in_groups(real_data: Path):
    reading = read_age_table(real_data / "fgnet" / "fgnet.csv")
    report = reading.report
    assert (report.rows, report.images, report.in_gaps) == (1002, 731, 271)
    assert report.per_group == [109, 123, 166, 185, 89, 35, 16, 8]
    assert (report.subjects, report.missing_images) == (82, 0)
    assert not any(math.isnan(age) for age in reading.manifest["age"])


def test_windows_separators_and_every_blank_in_a_name_are_read(folder: Path):
    (folder / "faces").mkdir()
    for name in ("1.02\u202fPM.jpg", "v\u00a013.jpg", "\U0001f468\u200d\U0001f469.jpg"):
        (folder / "faces" / name).write_bytes(b"x")
    rows = [
        "faces\\1.02\u202fPM.jpg,1,p",
        "faces\\v\u00a013.jpg,5,q",
        "faces\\\U0001f468\u200d\U0001f469.jpg,9,r",
    ]
    report = read_age_table(_table(folder, [*GOOD, *rows])).report
    assert (report.images, report.missing_images) == (6, 0)


def test_one_subject_in_two_spellings_is_one_and_told(folder: Path):
    lines = ["path,age,subject,album", "a.jpg,1,7,3", "b.jpg,30,7.0,3.0", "c.jpg,61,007,03", "d.jpg,1,8,4"]
    reading = read_age_table(_table(folder, lines), user_column="album")
    assert reading.manifest["subject"].tolist() == ["7", "7", "7", "8"]
    assert reading.manifest["user"].tolist() == ["3", "3", "3", "4"]
    assert (reading.report.subjects, reading.report.users) == (2, 2)
    assert reading.report.notices == [
        "1 subjects are written in several ways and count as one each: 7 = 7.0 = 007",
        "1 users are written in several ways and count as one each: 3 = 3.0 = 03",
    ]


@pytest.mark.parametrize("cell", ["nan", "None", "NA", "<NA>", "null"])
def test_an_absent_subject_album_or_path_is_no_subject(folder: Path, cell: str):
    with pytest.raises(DataError, match=f"row 5: subject '{cell}' is empty"):
        read_age_table(_table(folder, [*GOOD, f"d.jpg,5,{cell}"]))
    with pytest.raises(DataError, match=f"row 5: path '{cell}' is empty"):
        read_age_table(_table(folder, [*GOOD, f"{cell},5,p"]))
    lines = ["path,age,subject,sex", f"a.jpg,1,p,{cell}"]
    assert read_age_table(_table(folder, lines), gender_column="sex").manifest["gender"].tolist() == [""]


def test_a_group_column_wins_over_a_column_called_age(folder: Path):
    lines = ["path,age,subject", "a.jpg,0-2,p", "b.jpg,more than 59,q", "c.jpg,25 \u2013 32,r"]
    manifest = read_age_table(
        _table(folder, lines), group_column="age", groups=AgeGroups.parse("0-2,25-32,59+")
    ).manifest
    assert manifest.label.tolist() == [0, 2, 1]
    lines = ["path,age,grp,subject", "a.jpg,baby,0-2,p", "b.jpg,old,60+,q"]
    manifest = read_age_table(_table(folder, lines), group_column="grp").manifest
    assert manifest.label.tolist() == [0, 7]
    assert np.isnan(manifest["age"]).all()
    with pytest.raises(DataError, match="row 3: age 'old'"):
        read_age_table(_table(folder, [lines[0], "a.jpg,1,0-2,p", lines[2]]), group_column="grp")


def test_fold_numbers_may_be_dates_and_no_stamps_of_time(folder: Path):
    lines = ["path,age,subject,fold", "a.jpg,1,p,20230101", "b.jpg,30,q,20230102.0", "c.jpg,61,r,20230101"]
    report = read_age_table(_table(folder, lines), fold_column="fold").report
    assert report.per_fold == [2, 1]
    with pytest.raises(DataError, match=r"fold '20170109142400000' is no fold's number"):
        read_age_table(_table(folder, [*lines[:3], "c.jpg,61,r,20170109142400000"]), fold_column="fold")


def test_columns_and_images_that_are_not_read_are_told(folder: Path):
    lines = ["path,age,subject,fold,note", "a.jpg,1,p1,0,x", "b.jpg,30,p2,1,y", "c.jpg,61,P2,1,z"]
    notices = read_age_table(_table(folder, lines)).report.notices
    assert notices == [
        "table.csv: columns that are not read: fold, note (--data.user_column, --data.gender_column, "
        "--data.fold_column name columns to read)",
        "subjects are told apart by capitals, zeros or the like alone, and count as different: p2 / P2",
        "1 images beside the listed ones are in no list and are not used: d.jpg",
    ]


@pytest.mark.parametrize("age", ["2_8", "1_0"])
def test_an_age_that_only_python_reads_is_refused(folder: Path, age: str):
    with pytest.raises(DataError, match=f"age '{age}' must be a number of years"):
        read_age_table(_table(folder, [*GOOD, f"d.jpg,{age},p4"]))
