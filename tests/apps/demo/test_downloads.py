from __future__ import annotations

import os
import time
from pathlib import Path

import cv2
import numpy as np
import pytest

from apps.demo.answer import Answer, Guess, Row
from apps.demo.downloads import arrival, write_downloads
from apps.demo.uploads import UploadFolder

NAMES = tuple(f"class {number}" for number in range(30))


@pytest.fixture
def folder(tmp_path):
    with UploadFolder(tmp_path) as made:
        yield made


def answer(rows: int, titles: int = 1) -> Answer:
    guess = Guess(0, np.full(len(NAMES), 1 / len(NAMES)), np.zeros((8, 8, 3), np.uint8))
    shown = tuple(f"model {number}" for number in range(titles))
    guesses = dict.fromkeys(shown, guess)
    return Answer(NAMES, shown, tuple(Row(f"{n}.png", None, None, None, guesses) for n in range(rows)))


def upload(folder: UploadFolder, name: str, age: float) -> Path:
    file = folder.path / name
    file.write_bytes(b"x")
    os.utime(file, (time.time() - age, time.time() - age))
    return file


def test_both_files_are_written(folder):
    made = write_downloads(answer(2), folder, [])
    assert made.table.read_text(encoding="utf-8").count("\n") == 3
    assert made.drawing is not None
    assert cv2.imread(str(made.drawing)) is not None
    assert made.notice == ""


def test_too_much_for_a_picture_gives_the_table_and_a_sentence(folder):
    made = write_downloads(answer(401), folder, [])
    assert made.table.read_text(encoding="utf-8").count("\n") == 402
    assert made.drawing is None
    assert "no PNG this time: 401 rows" in made.notice
    assert "CSV file has every number" in made.notice


def test_the_files_bear_the_date_of_the_oldest_upload(folder, tmp_path, monkeypatch):
    uploads = [upload(folder, name, 0) for name in ("a.png", "b.png")]
    example = tmp_path / "example.png"
    example.write_bytes(b"x")
    came = arrival(folder, [*uploads, example, folder.path / "gone.png"])
    assert came == min(max(file.stat().st_mtime, file.stat().st_ctime) for file in uploads)
    monkeypatch.setattr("apps.demo.downloads.arrival", lambda *given: came - 500)
    made = write_downloads(answer(2), folder, uploads)
    assert made.drawing is not None
    assert [file.stat().st_mtime for file in (made.table, made.drawing)] == pytest.approx([came - 500] * 2)


def test_examples_alone_have_no_arrival(folder, tmp_path):
    assert arrival(folder, [tmp_path / "example.png"]) is None
    assert arrival(folder, []) is None
