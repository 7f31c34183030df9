from __future__ import annotations

import csv
import json
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
