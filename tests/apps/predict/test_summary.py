from __future__ import annotations

import numpy as np
import pytest

from apps.predict.predict import Answer
from apps.predict.summary import Tally


def answer(index: int, status: str = "ok", **more: object) -> Answer:
    probs = np.array([1.0]) if status == "ok" else None
    return Answer(index, f"{index}.jpg", status, probs=probs, class_names=("a",), **more)


def test_pictures_faces_and_rows_are_counted_once_each(capsys):
    tally = Tally()
    for face in (0, 1):
        for model in (0, 1):
            tally.add(answer(0, face_number=face, model=model))
    tally.add(answer(1, "bad", reason="broken"))
    tally.add(answer(2, "no face", notices=("2.jpg: holds several frames",)))
    tally.add(answer(3, model=0, time=0.0))
    tally.add(answer(3, model=0, time=1.0))
    tally.add(answer(3, "bad", reason="the video ends early"))
    tally.stop_clock()
    told = tally.summary()
    assert {name: told[name] for name in ("pictures", "rows", "faces", "no_face", "bad")} == {
        "pictures": 4,
        "rows": 9,
        "faces": 2,
        "no_face": 1,
        "bad": 2,
    }
    assert tally.begun == 4
    tally.tell(["photos: 2 videos in it are not looked at"])
    lines = capsys.readouterr().out.splitlines()
    assert lines[:3] == [
        "2 notices:",
        "  photos: 2 videos in it are not looked at",
        "  2.jpg: holds several frames",
    ]
    assert lines[3].endswith("9 rows, 2 faces, 1 without a face, 2 bad")


def test_the_complaint_lists_ten_and_counts_the_rest():
    tally = Tally()
    assert tally.complaint(5) is None
    for index in range(12):
        tally.add(answer(index, "bad", reason="a\x1b[2Jb"))
    told = str(tally.complaint(1200))
    assert told.startswith("12 of 1,200 could not be used:\n  0.jpg: a\\x1b[2Jb\n")
    assert "  ... and 2 more\n" in told


def test_the_clock_never_divides_by_nothing():
    tally = Tally()
    tally.stop_clock()
    assert tally.summary()["images_per_second"] == pytest.approx(0)
