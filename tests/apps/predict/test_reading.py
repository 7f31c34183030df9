"""`crl predict --groups`: a model of years read as groups, its years beside them."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from apps.predict.predict import Answer
from apps.predict.reading import NOTHING_LEFT, Reading
from tests.apps.predict.test_run import crl, home, rows  # noqa: F401  (home is a fixture)
from tests.apps.runtime.test_calibration import ENTRY
from tests.apps.tiny_onnx import tiny_facts, write_tiny

TOLD = ("age", "age expected", "set_low", "set_high", "set_size")
YEARS = ("10", "11", "12", "13", "14", "15+")


def test_groups_are_sums_of_their_years_divided_by_what_they_hold(home: Path, capsys):  # noqa: F811
    write_tiny(home / "y.onnx", tiny_facts(title="years", class_names=YEARS, calibration=ENTRY))
    assert crl("y.onnx", "photos", "--out", "years.csv") == 0
    assert "read as" not in capsys.readouterr().out
    assert crl("y.onnx", "photos", "--groups", "10-11,13-14,15+", "--out", "groups.csv") == 0
    told = "read as 10-11, 13-14, 15+: probabilities are summed up; classes between them are left out"
    assert told in capsys.readouterr().out
    assert crl("y.onnx", "photos", "--groups", "10-11,13-14,15+") == 0
    own = rows(home / "groups.csv")[0]
    [line] = [line for line in capsys.readouterr().out.splitlines() if line.startswith("photos/1.png")]
    assert line.split()[-5:] == [own[name] for name in TOLD]
    for own, read in zip(rows(home / "years.csv"), rows(home / "groups.csv"), strict=True):
        probs = np.array([float(own[f"p({name})"]) for name in YEARS])
        sums = np.array([probs[:2].sum(), probs[3:5].sum(), probs[5]])
        found = [float(read[f"p({name})"]) for name in ("10-11", "13-14", "15+")]
        np.testing.assert_allclose(found, sums / sums.sum(), rtol=1e-6)
        assert read["class"] == ("10-11", "13-14", "15+")[int(sums.argmax())]
        for column in TOLD:
            assert read[column] == own[column] != ""


@pytest.mark.parametrize(
    ("model", "words", "told"),
    [
        ("a.onnx", ["--groups", "0-12,13+"], "only classes of single years can be read as groups"),
        ("y.onnx", ["--groups", "0-5,10+"], "no year of the model lies in 0-5: it knows 10 to 15+"),
        ("y.onnx", ["--groups", "10+", "--explain", "looks"], "leave out --groups"),
        ("bird.onnx", ["--groups", "0-12,13+"], "are not read as other classes"),
    ],
)
def test_what_cannot_be_read_as_groups_is_refused(home: Path, capsys, model, words, told):  # noqa: F811
    write_tiny(home / "y.onnx", tiny_facts(class_names=YEARS))
    write_tiny(home / "bird.onnx", tiny_facts(task="category", crop=None, ordered=False))
    assert crl(model, "photos", *words) == 2
    assert told in capsys.readouterr().err


def test_an_answer_outside_all_groups_is_no_answer():
    reading = Reading(("10",), np.array([[1.0], [0.0]]))
    own = Answer(0, "a.jpg", "ok", model=0, class_names=("10", "11"), probs=np.array([0.0, 1.0]))
    read = reading.read(own)
    assert (read.status, read.reason, read.model, read.probs) == ("bad", NOTHING_LEFT, None, None)
