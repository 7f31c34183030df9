from __future__ import annotations

import json
from pathlib import Path

import pytest

from apps.cli import main
from apps.commands import QuickstartConfig
from apps.quickstart import MARKER, claim, loss_config
from finetune.config import to_dict
from finetune.console import reset
from finetune.errors import UsageError


def test_both_losses_are_cross_validated_and_compared(capsys, tmp_path):
    folder = tmp_path / "demo"
    try:
        code = main(["quickstart", "--dir", str(folder), "--users", "10", "--epochs", "1", "--json"])
    finally:
        reset()
    out, err = capsys.readouterr()
    made = json.loads(out)
    assert code == 0
    assert len(out.splitlines()) == 1
    assert set(made["runs"]) == {"cel", "crl"}
    assert made["runs"]["cel"]["n"] == made["comparison"]["n"] == len(list(folder.rglob("aligned/*/*.jpg")))
    assert made["comparison"]["controlled"] is True
    for place in (
        folder / "cel" / "report.md",
        folder / "crl" / "report.md",
        Path(made["comparison"]["page"]),
    ):
        assert place.is_file()
        assert str(place) in err
    assert "drawings" in err


def test_only_the_loss_differs_between_the_two_runs(tmp_path):
    cel, crl = (to_dict(loss_config(QuickstartConfig(), tmp_path, tmp_path, loss)) for loss in ("cel", "crl"))
    differing = [name for name in cel if cel[name] != crl[name]]
    assert differing == ["loss", "run"]
    assert {name for name in cel["run"] if cel["run"][name] != crl["run"][name]} == {"dir"}


def test_the_folder_is_made_anew_each_time(tmp_path):
    folder = claim(tmp_path / "demo")
    (folder / "crl").mkdir()
    (folder / "crl" / "old").touch()
    assert [file.name for file in claim(folder).iterdir()] == [MARKER]


def test_what_a_person_put_beside_the_results_is_never_removed(tmp_path):
    folder = claim(tmp_path / "demo")
    (folder / "runs").mkdir()
    (folder / "crl").mkdir()
    with pytest.raises(UsageError, match=r"not a quickstart's \(runs\)"):
        claim(folder)
    assert (folder / "crl").is_dir()


def test_a_folder_of_somebody_else_is_left_alone(tmp_path):
    (tmp_path / "thesis.tex").write_text("mine")
    with pytest.raises(UsageError, match="give --dir another folder"):
        claim(tmp_path)
    assert [file.name for file in tmp_path.iterdir()] == ["thesis.tex"]


def test_a_file_in_the_folders_place_is_refused(tmp_path):
    (tmp_path / "demo").write_text("mine")
    with pytest.raises(UsageError, match="is a file"):
        claim(tmp_path / "demo")
