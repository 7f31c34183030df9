from __future__ import annotations

import csv
import errno
import io
import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest

from agecls.faces.alignment import Face
from agecls.task import TASK
from apps.predict.predict import Answer
from apps.predict.writers import (
    FACE_COLUMNS,
    METADATA_KEY,
    ROWS_AT_ONCE,
    Layout,
    check_suffix,
    on_one_line,
    open_predictions,
    readable,
)
from finetune.errors import ResourceError, UsageError

NAMES = ("0-2", "=4-6")
LAYOUT = Layout([("CE, fold 0", "aa"), ("@CRL", "bb")], NAMES)
GOOD = Answer(0, "a.jpg", "ok", model=0, class_names=NAMES, probs=np.array([0.25, 0.75], np.float32))
BAD = Answer(1, "b.jpg", "bad", "the file is empty (0 bytes)")
MARKS = np.array([(10.0, 10), (40, 10), (25, 20), (15, 30), (35, 30)])
SEEN = replace(GOOD, face_number=1, face=Face((-3.26, 4.0, 50.0, 60.04), 0.91234, MARKS), time=1.23456)


def write(file: Path, layout: Layout, *answers: Answer) -> Path:
    with open_predictions(file, layout) as add:
        for answer in answers:
            add(answer)
    return file


def read_csv(file: Path) -> list[list[str]]:
    return list(csv.reader(io.StringIO(file.read_bytes().decode("utf-8"), newline="")))


def test_csv_has_a_row_per_answer_and_a_column_per_class(tmp_path: Path):
    rows = read_csv(write(tmp_path / "out.csv", LAYOUT, GOOD, BAD))
    assert rows == [
        ["path", "model", "status", "reason", "class", "probability", "p(0-2)", "p(=4-6)"],
        ["a.jpg", "CE, fold 0", "ok", "", "'=4-6", "0.75", "0.25", "0.75"],
        ["b.jpg", "", "bad", "the file is empty (0 bytes)", "", "", "", ""],
    ]


@pytest.mark.parametrize("name", ["=1+1.jpg", "+a", "-a", "@a", "\ta", "\ra"])
def test_a_cell_of_a_csv_is_never_a_formula(tmp_path: Path, name: str):
    rows = read_csv(write(tmp_path / "out.csv", LAYOUT, replace(GOOD, path=name, model=1)))
    assert rows[1][0] == f"'{name}"
    assert rows[1][1] == "'@CRL"


def test_csv_follows_rfc_4180(tmp_path: Path):
    name = 'a "b", c\nd.jpg'
    content = write(tmp_path / "out.csv", LAYOUT, replace(GOOD, path=name)).read_bytes()
    assert content.endswith(b"\r\n")
    assert b'"a ""b"", c\nd.jpg",' in content
    assert read_csv(tmp_path / "out.csv")[1][0] == name


def test_times_and_faces_have_columns_where_there_are_any(tmp_path: Path):
    layout = replace(LAYOUT, times=True, faces=True)
    header, face, bad = read_csv(write(tmp_path / "out.csv", layout, SEEN, BAD))
    assert header[:9] == ["path", "time", *FACE_COLUMNS]
    assert face[1:9] == ["1.235", "1", "-3.3", "4.0", "50.0", "60.0", "0.9123", ""]
    assert bad[1:9] == [""] * 8


def test_warnings_stand_in_one_cell_and_an_unknown_score_is_empty(tmp_path: Path):
    turned = MARKS.copy() / 10
    answer = replace(SEEN, face=Face((0, 0, 9, 9), float("nan"), turned))
    layout = replace(LAYOUT, faces=True)
    rows = [json.loads(line) for line in write(tmp_path / "o.jsonl", layout, answer).read_text().splitlines()]
    assert rows[0]["face_score"] is None
    assert rows[0]["warnings"] == "small face: the eyes are 3 px apart (under 20)"


def test_jsonl_has_the_probabilities_by_class_even_where_models_differ(tmp_path: Path):
    layout = replace(LAYOUT, class_names=None)
    other = Answer(2, "c.jpg", "ok", model=1, class_names=("cat",), probs=np.array([1.0]))
    file = write(tmp_path / "out.jsonl", layout, GOOD, BAD, other)
    rows = [json.loads(line) for line in file.read_text(encoding="utf-8").splitlines()]
    assert rows[0] == {
        "path": "a.jpg",
        "model": "CE, fold 0",
        "status": "ok",
        "reason": None,
        "class": "=4-6",
        "probability": 0.75,
        "probs": {"0-2": 0.25, "=4-6": 0.75},
    }
    assert "probs" not in rows[1]
    assert rows[2]["probs"] == {"cat": 1.0}


def test_parquet_has_types_empty_cells_and_the_models(tmp_path: Path):
    layout = replace(LAYOUT, times=True, faces=True)
    table = pq.read_table(write(tmp_path / "out.parquet", layout, SEEN, BAD))
    assert json.loads(table.schema.metadata[METADATA_KEY.encode()]) == [
        {"title": "CE, fold 0", "sha256": "aa"},
        {"title": "@CRL", "sha256": "bb"},
    ]
    assert table.column_names == list(layout.columns)
    assert str(table.schema.field("face").type) == "int32"
    assert table["p(=4-6)"].to_pylist() == [0.75, None]
    assert table["path"].to_pylist() == ["a.jpg", "b.jpg"]
    assert table["time"].to_pylist() == [1.235, None]
    assert table["class"].to_pylist() == ["=4-6", None]


def test_parquet_holds_more_rows_than_wait_at_once_and_none_at_all(tmp_path: Path):
    many = write(tmp_path / "many.parquet", LAYOUT, *[GOOD] * (2 * ROWS_AT_ONCE + 1))
    assert pq.read_metadata(many).num_rows == 2 * ROWS_AT_ONCE + 1
    assert pq.read_table(write(tmp_path / "none.parquet", LAYOUT)).num_rows == 0


@pytest.mark.parametrize("suffix", [".csv", ".jsonl", ".parquet"])
def test_a_name_that_is_no_text_and_a_name_of_many_languages_are_written(tmp_path: Path, suffix: str):
    odd = [replace(GOOD, path="caf\udce9.jpg"), replace(GOOD, path="Zoë 李.jpg")]
    layout = Layout([("a\ud800", "aa")], ("x\ud800", "y"))
    file = write(
        tmp_path / f"out{suffix}", layout, *(replace(each, class_names=layout.class_names) for each in odd)
    )
    if suffix == ".parquet":
        assert pq.read_table(file)["path"].to_pylist() == ["caf\\udce9.jpg", "Zoë 李.jpg"]
    else:
        assert "Zoë 李.jpg" in file.read_text(encoding="utf-8")


@pytest.mark.parametrize("suffix", [".csv", ".jsonl", ".parquet"])
def test_an_error_leaves_the_former_file_and_nothing_else(tmp_path: Path, suffix: str):
    file = tmp_path / f"out{suffix}"
    file.write_text("former")
    with pytest.raises(IndexError):
        write(file, LAYOUT, GOOD, replace(GOOD, model=7))
    assert file.read_text() == "former"
    assert list(tmp_path.iterdir()) == [file]


def test_missing_folders_are_made_and_a_file_in_the_way_is_told(tmp_path: Path):
    assert write(tmp_path / "new" / "er" / "out.csv", LAYOUT).exists()
    (tmp_path / "file").touch()
    with pytest.raises(UsageError, match="its folder cannot be made"):
        write(tmp_path / "file" / "out.csv", LAYOUT)


@pytest.mark.parametrize("suffix", [".csv", ".jsonl", ".parquet"])
def test_a_full_disk_is_told(tmp_path: Path, suffix: str, monkeypatch: pytest.MonkeyPatch):
    def full(handle: int) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr("finetune.runs.files.os.fsync", full)
    with pytest.raises(ResourceError, match="disk full"):
        write(tmp_path / f"out{suffix}", LAYOUT, GOOD)
    assert list(tmp_path.iterdir()) == []


def test_only_endings_that_are_offered_pass(tmp_path: Path):
    assert check_suffix("--out", None, (".csv",)) is None
    assert check_suffix("--out", "a.CSV", (".csv",)) == Path("a.CSV")
    with pytest.raises(UsageError, match=r"--out a\.xlsx: the name must end in \.csv, \.jsonl"):
        check_suffix("--out", "a.xlsx", (".csv", ".jsonl"))
    (tmp_path / "folder.csv").mkdir()
    with pytest.raises(UsageError, match="this is a folder"):
        check_suffix("--out", str(tmp_path / "folder.csv"), (".csv",))


def test_text_for_files_and_for_terminals():
    assert readable("a\udce9\x1b") == "a\\udce9\x1b"
    assert on_one_line("a\udce9\x1b[31m\n李") == "a\\udce9\\x1b[31m\\n李"


def test_the_best_classes_have_columns_of_their_own(tmp_path: Path):
    layout = replace(LAYOUT, best=3)
    first, good, bad = read_csv(write(tmp_path / "out.csv", layout, GOOD, BAD))
    assert first[4:10] == ["class", "probability", "class 2", "probability 2", "class 3", "probability 3"]
    assert good[4:] == ["'=4-6", "0.75", "0-2", "0.25", "", "", "0.25", "0.75"]
    assert bad[4:] == [""] * 8
    line = json.loads(write(tmp_path / "out.jsonl", layout, GOOD).read_text())
    assert (line["class 2"], line["probability 2"], line["class 3"]) == ("0-2", 0.25, None)
    table = pq.read_table(write(tmp_path / "out.parquet", layout, GOOD, BAD))
    assert table["probability 2"].to_pylist() == [0.25, None]
    assert table["class 3"].to_pylist() == [None, None]


def test_years_of_age_have_their_median_and_their_mean(tmp_path: Path):
    names = ("20", "21", "22+")
    years = TASK.number_line(names)
    assert years is not None
    layout = Layout([("CE, fold 0", "aa")], names, further=years.columns())
    seen = replace(GOOD, class_names=names, probs=np.array([0.25, 0.375, 0.375], np.float32))
    first, good, bad = read_csv(write(tmp_path / "out.csv", layout, seen, BAD))
    place = first.index("age")
    assert first[place : place + 2] == ["age", "age expected"]
    assert good[place : place + 2] == ["21.0", "21.12"]
    assert bad[place : place + 2] == ["", ""]
    line = json.loads(write(tmp_path / "out.jsonl", layout, seen).read_text())
    assert (line["age"], line["age expected"]) == (21.0, 21.12)
    assert pq.read_table(write(tmp_path / "out.parquet", layout, seen))["age"].to_pylist() == [21.0]


def test_a_set_of_ordered_classes_has_its_ends_and_its_size(tmp_path: Path):
    layout = replace(LAYOUT, sets=["range", ""])
    with_set = replace(GOOD, inside=np.array([True, True]))
    first, good, other, bad = read_csv(
        write(tmp_path / "out.csv", layout, with_set, replace(GOOD, model=1), BAD)
    )
    place = first.index("set_low")
    assert first[place - 1 : place + 4] == ["probability", "set_low", "set_high", "set_size", "p(0-2)"]
    assert good[place : place + 3] == ["0-2", "'=4-6", "2"]
    assert other[place : place + 3] == bad[place : place + 3] == [""] * 3
    line = json.loads(write(tmp_path / "out.jsonl", layout, with_set).read_text())
    assert (line["set_low"], line["set_high"], line["set_size"]) == ("0-2", "=4-6", 2)
    table = pq.read_table(write(tmp_path / "out.parquet", layout, with_set, BAD))
    assert table["set_size"].to_pylist() == [2, None]
    assert table["set_high"].to_pylist() == ["=4-6", None]


def test_a_set_of_other_classes_has_their_names_the_most_probable_first(tmp_path: Path):
    layout = replace(LAYOUT, sets=["names", ""])
    with_set = replace(GOOD, inside=np.array([True, True]))
    first, good = read_csv(write(tmp_path / "out.csv", layout, with_set))
    place = first.index("set")
    assert first[place : place + 3] == ["set", "set_size", "p(0-2)"]
    assert good[place : place + 2] == ["'=4-6; 0-2", "2"]
    line = json.loads(write(tmp_path / "out.jsonl", layout, with_set).read_text())
    assert line["set"] == ["=4-6", "0-2"]
    assert pq.read_table(write(tmp_path / "out.parquet", layout, with_set))["set"].to_pylist() == [
        "=4-6; 0-2"
    ]
