from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import pytest

from agecls.faces.alignment import Face
from apps.predict.predict import Answer
from apps.predict.views import (
    HEAT_MAP_ROWS,
    RANKED_ANSWERS,
    TABLE_ROWS,
    HeatMapRows,
    LookFolder,
    TerminalTable,
    safe_name,
    shortened,
)
from apps.runtime.session import OnnxClassifier
from finetune.errors import UsageError
from finetune.figures.evidence import enlarged
from finetune.figures.evidence_figure import FOOT, MARGIN
from tests.apps.tiny_onnx import write_tiny

NAMES = ("cat", "dog", "owl")


def answer(index: int = 0, path: str = "a.jpg", model: int = 0, **more: object) -> Answer:
    probs = np.array([0.1, 0.6, 0.3])
    return replace(
        Answer(
            index, path, "ok", model=model, class_names=NAMES, probs=probs, crop=np.zeros((8, 8, 3), np.uint8)
        ),
        **more,
    )


def test_the_table_shows_the_two_best_classes_and_no_empty_columns():
    table = TerminalTable(["one"])
    table.add(answer())
    table.add(Answer(1, "b.jpg", "bad", "the file is empty"))
    assert table.text().splitlines() == [
        "image  class  p      next  p      note",
        "-----  -----  -----  ----  -----  ----------------------",
        "a.jpg  dog    0.600  owl   0.300",
        "b.jpg                             bad: the file is empty",
    ]


def test_the_table_tells_models_times_faces_and_warnings_apart():
    table = TerminalTable(["one", "two"])
    small = Face((0, 0, 9, 9), 0.9, np.array([(1.0, 1), (4, 1), (2.5, 2), (1, 3), (4, 3)]))
    table.add(answer(model=1, time=2.0, face_number=0, face=small))
    line = table.text().splitlines()[-1]
    assert line.split()[:4] == ["a.jpg", "2.00", "s", "0"]
    assert "two" in line
    assert line.endswith("small face: the eyes are 3 px apart (under 20)")


def test_a_long_table_is_cut_with_a_hint():
    table = TerminalTable(["one"])
    for index in range(TABLE_ROWS + 1000):
        table.add(answer(index))
    lines = table.text().splitlines()
    assert len(lines) == TABLE_ROWS + 3
    assert lines[-1] == "... and 1,000 more rows; --out answers.csv keeps them all, with every class"


def test_a_table_without_answers_is_empty_and_a_name_sends_no_command_to_the_terminal():
    assert TerminalTable(["one"]).text() == ""
    table = TerminalTable(["one"])
    table.add(answer(path="a\x1b[2J.jpg"))
    assert "\x1b" not in table.text()
    assert len(shortened("x" * 500)) == 48


def test_the_heat_map_holds_every_model_and_is_cut_with_a_sentence(tmp_path: Path):
    rows = HeatMapRows(["one", "two"])
    for index in range(HEAT_MAP_ROWS + 5):
        for model in (0, 1):
            rows.add(answer(index, f"{index}.jpg", model))
    told = rows.write(tmp_path / "new" / "map.csv")
    assert told == f"heat map: 64 rows (the first 64; --out keeps all): {tmp_path / 'new' / 'map.csv'}"
    lines = (tmp_path / "new" / "map.csv").read_text().splitlines()
    assert len(lines) == 1 + 2 * HEAT_MAP_ROWS
    assert lines[2].startswith("0.jpg,two,,dog,0.1,0.6,0.3")


def test_the_heat_maps_rows_have_names_that_differ(tmp_path: Path):
    rows = HeatMapRows(["one"])
    for each in (answer(0, "a/x.jpg"), answer(1, "b/x.jpg"), answer(2, "c.mp4", time=1.0, face_number=2)):
        rows.add(each)
    rows.write(tmp_path / "map.csv")
    names = [line.split(",one")[0] for line in (tmp_path / "map.csv").read_text().splitlines()[1:]]
    assert names == ["a/x.jpg", "b/x.jpg", '"c.mp4, 1.00 s, face 2"']


@pytest.mark.parametrize(("name", "start"), [("map.html", b"<!doctype html>"), ("map.png", b"\x89PNG")])
def test_the_ending_chooses_how_the_heat_map_is_drawn(tmp_path: Path, name: str, start: bytes):
    rows = HeatMapRows(["one"])
    rows.add(answer())
    rows.write(tmp_path / name)
    assert (tmp_path / name).read_bytes().lower().startswith(start.lower())


def test_without_an_answer_there_is_no_heat_map(tmp_path: Path):
    rows = HeatMapRows(["one", "two"])
    rows.add(Answer(0, "a.jpg", "bad", "broken"))
    rows.add(answer(1, model=0))
    assert rows.write(tmp_path / "map.png") == "heat map: none, for no image was answered by every model"
    assert not (tmp_path / "map.png").exists()


def test_a_picture_of_every_look_with_a_name_of_its_own(tmp_path: Path):
    model = OnnxClassifier(write_tiny(tmp_path / "m.onnx"), device="cpu")
    crop = np.random.default_rng(0).integers(0, 256, (model.size, model.size, 3), dtype=np.uint8)
    folder = LookFolder(tmp_path / "looks", [model], ["CE/CRL"])
    probs, names = np.eye(8)[0], model.class_names
    for path in ("x/a.jpg", "y/A.png", "../../etc/passwd", "<b>.jpg", "名.jpg"):
        folder.add(answer(path=path, probs=probs, class_names=names, crop=crop, time=1.5, face_number=0))
    folder.add(Answer(9, "bad.jpg", "bad", "broken"))
    files = sorted(file.name for file in (tmp_path / "looks").iterdir())
    assert files == [
        "A-1.50s-face0-CE_CRL-2.png",
        "_-1.50s-face0-CE_CRL.png",
        "a-1.50s-face0-CE_CRL.png",
        "b-1.50s-face0-CE_CRL.png",
        "passwd-1.50s-face0-CE_CRL.png",
    ]
    assert folder.count == 5
    drawn = cv2.imread(str(tmp_path / "looks" / files[0]), cv2.IMREAD_COLOR_RGB)
    seen = drawn[len(drawn) - FOOT - 256 : len(drawn) - FOOT, MARGIN : MARGIN + 256]
    np.testing.assert_array_equal(seen, enlarged(crop))
    assert folder.methods


def test_a_folder_that_holds_something_is_refused(tmp_path: Path):
    (tmp_path / "old.png").touch()
    with pytest.raises(UsageError, match="holds files already; give the name of a new folder"):
        LookFolder(tmp_path, [], [])
    with pytest.raises(UsageError, match="is a file"):
        LookFolder(tmp_path / "old.png", [], [])


@pytest.mark.parametrize(
    ("text", "name"), [("a b", "a_b"), ("..", "_"), ("CON.txt/..\\x", "CON.txt_.._x"), ("", "_"), ("é", "_")]
)
def test_names_are_safe(text: str, name: str):
    assert safe_name(text) == name


BIRDS = ("001.Black_footed_Albatross", "002.Laysan_Albatross", "003.Sooty_Albatross")


def test_a_few_answers_are_told_with_their_best_classes_below_each_other():
    table = TerminalTable(["one"], best=5)
    table.add(answer(class_names=BIRDS))
    table.add(Answer(1, "b.jpg", "bad", "the file is empty"))
    assert table.text().splitlines() == [
        "image  rank  class                   p      note",
        "-----  ----  ----------------------  -----  ----------------------",
        "a.jpg  1     Laysan Albatross        0.600",
        "       2     Sooty Albatross         0.300",
        "       3     Black footed Albatross  0.100",
        "b.jpg                                       bad: the file is empty",
    ]


def test_many_answers_take_a_line_each_and_say_where_the_rest_is():
    table = TerminalTable(["one"], best=5)
    for index in range(RANKED_ANSWERS + 1):
        table.add(answer(index, class_names=BIRDS))
    lines = table.text().splitlines()
    assert len(lines) == 2 + RANKED_ANSWERS + 1 + 1
    assert re.split("  +", lines[2])[1:] == ["Laysan Albatross", "0.600", "Sooty Albatross", "0.300"]
    assert lines[-1] == "--out answers.csv keeps the 5 best classes of each, and every class"


def test_a_picture_of_a_heat_map_takes_as_many_rows_as_fit(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """8 images, each sure of another of 200 classes: 8 x 9 cells, of which 40 fit."""
    monkeypatch.setattr("apps.heatmap.picture.MAX_CELLS", 40)
    names = tuple(f"{number:03d}.bird_{number}" for number in range(200))
    rows = HeatMapRows(["one"])
    for index in range(8):
        probs = np.full(200, 0.1 / 199)
        probs[index] = 0.9
        rows.add(answer(index, f"{index}.jpg", class_names=names, probs=probs))
    assert rows.write(tmp_path / "map.html") == f"heat map: 8 rows: {tmp_path / 'map.html'}"
    told = rows.write(tmp_path / "map.png")
    assert told == f"heat map: 4 rows (the first 4; --out keeps all): {tmp_path / 'map.png'}"
    assert (tmp_path / "map.png").is_file()
