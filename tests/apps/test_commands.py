from __future__ import annotations

import csv
import json
import re
from pathlib import Path

import pytest

from apps.cli import main
from finetune.cli.console import reset


@pytest.fixture(autouse=True)
def fresh_console():
    yield
    reset()


def test_curves_prints_one_object_and_writes_what_it_names(capsys, tmp_path):
    assert main(["curves", "--out", str(tmp_path), "--points", "9", "--alpha", "2", "--json"]) == 0
    out, err = capsys.readouterr()
    made = json.loads(out)
    assert len(out.splitlines()) == 1
    assert str(tmp_path) in err
    assert Path(made["png"]).read_bytes().startswith(b"\x89PNG")
    rows = list(csv.reader(Path(made["csv"]).read_text().splitlines()))
    assert len(rows) >= 10


@pytest.mark.parametrize(
    ("argv", "told"),
    [(["--points", "many"], "points must be int"), (["--alpah", "1"], "did you mean options.alpha?")],
)
def test_curves_refuses_what_it_cannot_draw(capsys, argv, told):
    assert main(["curves", *argv]) == 2
    assert told in capsys.readouterr().err


def test_evaluate_onnx_says_which_options_are_for_age_models(capsys):
    assert main(["evaluate-onnx", "--help"]) == 0
    told = " ".join(capsys.readouterr().out.split())
    assert "of the kind that the models were trained on" in told
    assert "Faces with age groups" not in told
    assert "--data.root ROOT the data set's folder, or the image root of a table." in told
    for name in ("policy", "groups", "subject_column"):
        assert re.search(rf"--data\.{name} \S+ age models only: ", told), name
    for name in ("table", "missing", "skip_bad"):
        assert not re.search(rf"--data\.{name} \S+ age models only: ", told), name
