from __future__ import annotations

import time
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from finetune.errors import DataError
from finetune.images.tables import (
    Table,
    missing_columns,
    paths_under,
    read_table,
    refuse_misspelt,
    unread_columns,
)
from finetune.runs.csv_file import csv_text


def test_paths_within_the_root_stay_as_they_are(tmp_path: Path):
    assert paths_under(tmp_path, ["a/b.png", "./c.png"], follow=False) == (tmp_path, ["a/b.png", "c.png"])


def test_a_path_that_leaves_the_root_is_refused_with_its_row(tmp_path: Path):
    paths = ["a.png", "../b.png", "/c.png"]
    with pytest.raises(DataError, match=r"2 paths leave the data root .*\n  \.\./b\.png\n  /c\.png$"):
        paths_under(tmp_path, paths, follow=False)
    with pytest.raises(DataError, match=r"t\.csv:3: \.\./b\.png\n  t\.csv:4: /c\.png$"):
        paths_under(tmp_path, paths, follow=False, rows=["t.csv:2", "t.csv:3", "t.csv:4"])


def test_followed_paths_move_the_root_up_to_hold_every_file(tmp_path: Path):
    root = tmp_path / "data"
    assert paths_under(root, ["a.png", "../other/b.png"], follow=True) == (
        tmp_path,
        ["data/a.png", "other/b.png"],
    )


def _read(folder: Path, content: str | bytes) -> Table:
    file = folder / "t.csv"
    file.write_bytes(content.encode() if isinstance(content, str) else content)
    return read_table(file)


def test_backslashes_are_slashes_and_a_drive_leaves_the_root(tmp_path: Path):
    assert paths_under(tmp_path, ["a\\b.png"], follow=False)[1] == ["a/b.png"]
    for path in ("C:\\pictures\\b.png", "\\\\server\\b.png", "..\\b.png"):
        with pytest.raises(DataError, match="1 paths leave the data root"):
            paths_under(tmp_path, [path], follow=False)


def test_a_path_with_control_characters_is_refused_and_every_blank_is_none(tmp_path: Path):
    blanks = ["1.02.03\u202fPM.jpg", "v\u00a013.jpg", "a\u3000b.jpg", "\U0001f468\u200d\U0001f469.jpg"]
    assert paths_under(tmp_path, blanks, follow=False)[1] == blanks
    with pytest.raises(DataError, match=r"1 paths hold control characters.*\n  row 2: a\\x07\.jpg$"):
        paths_under(tmp_path, ["a\x07.jpg"], follow=False, rows=["row 2"])


@pytest.mark.parametrize("line", ["sep=;", '"sep=;"', "SEP=;\r", "sep=;;;"])
def test_the_line_of_excel_names_the_separator_and_counts_as_a_line(tmp_path: Path, line: str):
    table = _read(tmp_path, f"{line}\npath;n\na,b.jpg;1\n")
    assert (table.header, table.rows) == (("path", "n"), ((3, ("a,b.jpg", "1")),))
    with pytest.raises(DataError, match="line 4: 3 cells under 2 columns"):
        _read(tmp_path, f"{line}\npath;n\na.jpg;1\nb.jpg;2;3\n")


def test_empty_columns_without_a_name_are_left_out_with_a_note(tmp_path: Path):
    table = _read(tmp_path, "path,n,,\na.jpg,1,,\n")
    assert (table.header, table.rows) == (("path", "n"), ((2, ("a.jpg", "1")),))
    assert table.notices == ("t.csv: columns without a name and no cell are left out: 3, 4",)


def test_an_index_without_a_name_is_left_out_and_two_such_columns_are_refused(tmp_path: Path):
    table = _read(tmp_path, ",path\n0,a.jpg\n")
    assert (table.header, table.rows) == (("path",), ((2, ("a.jpg",)),))
    with pytest.raises(DataError, match="line 1: columns 2, 3 have no name"):
        _read(tmp_path, "path,,\na.jpg,1,2\n")


def test_empty_cells_behind_the_last_column_are_none(tmp_path: Path):
    assert _read(tmp_path, "path,n\na.jpg,1,,\n").rows == ((2, ("a.jpg", "1")),)


@pytest.mark.parametrize("encoding", ["utf-16", "utf-16-le", "utf-16-be"])
def test_utf_16_is_read_by_its_mark_and_named_without_one(tmp_path: Path, encoding: str):
    text = "path,n\nb\u00e9.jpg,1\n"
    mark = {"utf-16-le": b"\xff\xfe", "utf-16-be": b"\xfe\xff"}.get(encoding, b"")
    table = _read(tmp_path, mark + text.encode(encoding))
    assert table.rows == ((2, ("b\u00e9.jpg", "1")),)
    assert table.notices == ("t.csv is UTF-16 text",)
    if mark:
        with pytest.raises(DataError, match="UTF-16"):
            _read(tmp_path, text.replace("\u00e9", "e").encode(encoding))


def test_a_column_named_twice_in_parquet_is_named_and_bytes_are_text(tmp_path: Path):
    file = tmp_path / "t.parquet"
    names = ["path", "subject", "subject"]
    pq.write_table(pa.table([["a"], [1], [1]], names=names), file)
    with pytest.raises(DataError, match=r"t\.parquet, line 1: columns named twice: subject$"):
        read_table(file)
    pq.write_table(pa.table({"path": [b"a.jpg", None]}), file)
    assert read_table(file).rows == ((1, ("a.jpg",)), (2, ("",)))


def test_signs_of_no_width_at_the_ends_of_names_and_cells_are_no_part_of_them(tmp_path: Path):
    marked = "\ufeff\u200bpath\u00a0,subject\ufeff,\u3000age\n\u202aa.jpg,\u200b,7\u200b\n"
    table = _read(tmp_path, b"\xef\xbb\xbf" + marked.encode())
    assert (table.header, table.rows) == (("path", "subject", "age"), ((2, ("a.jpg", "", "7")),))
    file = tmp_path / "t.parquet"
    pq.write_table(pa.table({"path\u200b": ["a.jpg\u200b"], "joined": ["\u200b"]}), file)
    assert read_table(file).rows == ((1, ("a.jpg", "")),)
    assert read_table(file).header == ("path", "joined")


def test_the_apostrophe_of_our_own_tables_is_no_part_of_a_name(tmp_path: Path):
    (tmp_path / "t.csv").write_text(csv_text(["path", "class"], [["=1.png", "@cat"], ["b.png", "'tis"]]))
    assert "'=1.png,'@cat" in (tmp_path / "t.csv").read_text()
    found = read_table(tmp_path / "t.csv")
    assert [cells for _, cells in found.rows] == [("=1.png", "@cat"), ("b.png", "'tis")]


@pytest.mark.parametrize(
    "when",
    [
        pa.array([1, 2], pa.timestamp("s", tz="Mars/Base")),
        pa.array([10**12, 10**12 + 1], pa.timestamp("s")),
        pa.array([10**8, -(10**8)], pa.date32()),
        pa.array([5, 6], pa.timestamp("s", tz="Mars/Base")).dictionary_encode(),
    ],
    ids=["zone", "year 33658", "date", "categories"],
)
def test_a_time_that_python_cannot_hold_stops_no_table(tmp_path: Path, when: pa.Array):
    pq.write_table(pa.table({"path": ["a", "b"], "when": when}), tmp_path / "t.parquet")
    rows = [cells for _, cells in read_table(tmp_path / "t.parquet").rows]
    assert [cells[0] for cells in rows] == ["a", "b"]
    assert len({cells[1] for cells in rows}) == 2


def test_lists_and_records_are_no_cells_and_bytes_that_are_no_text_stay_apart(tmp_path: Path):
    columns = {"path": ["a", "b"], "class_name": [["owl"], ["tit"]], "id": [b"\xffA", b"\xfeA"]}
    pq.write_table(pa.table(columns), tmp_path / "t.parquet")
    table = read_table(tmp_path / "t.parquet")
    assert (table.header, table.nested) == (("path", "id"), ("class_name",))
    assert "lists or records are no cells: class_name" in missing_columns(table, ["class_name"])
    assert len({cells[1] for _, cells in table.rows}) == 2


@pytest.mark.parametrize("text", ["# mine\npath,age\na,1\n", "path,age\n# part two\na,1\n"])
def test_a_comment_is_named_where_it_stands_in_a_table(tmp_path: Path, text: str):
    (tmp_path / "t.csv").write_text(text, encoding="utf-8")
    with pytest.raises(DataError, match="line 2: a line that begins with # is no comment"):
        read_table(tmp_path / "t.csv")


@pytest.mark.parametrize("encoding", ["utf-32", "utf-32-be"])
def test_utf_32_is_named(tmp_path: Path, encoding: str):
    mark = "" if encoding == "utf-32" else "\ufeff"
    (tmp_path / "t.csv").write_text(f"{mark}path,age\na,1\n", encoding=encoding)
    with pytest.raises(DataError, match="is UTF-32 text; save it as UTF-8"):
        read_table(tmp_path / "t.csv")


def test_columns_that_play_no_part_are_told_and_those_almost_named_right_are_refused(tmp_path: Path):
    (tmp_path / "t.csv").write_text("path,Split,note\na,test,x\n", encoding="utf-8")
    table = read_table(tmp_path / "t.csv")
    assert unread_columns(table, ["path"]) == ["t.csv: columns that are not read: Split, note"]
    assert unread_columns(table, table.header) == []
    with pytest.raises(DataError, match=r"line 1: names of columns are exact.*\n  Split: split"):
        refuse_misspelt(table, ["path", "split"])
    refuse_misspelt(table, ["path", "fold"])


def test_a_hundred_thousand_columns_are_read_at_once(tmp_path: Path):
    names = ",".join(f"c{place}" for place in range(100_000))
    (tmp_path / "t.csv").write_text(f"{names}\n{names}\n")
    start = time.process_time()
    assert len(read_table(tmp_path / "t.csv").header) == 100_000
    assert time.process_time() - start < 5  # each name compared with each takes minutes
