from __future__ import annotations

import json
from dataclasses import replace

import pytest

from finetune.errors import UsageError
from generalcls.commands import main
from generalcls.config import (
    GeneralDataConfig,
    GeneralRunConfig,
    GeneralStudyConfig,
    GeneralTrainConfig,
    NetworkConfig,
)
from generalcls.loss_study import study_losses
from generalcls.parallel import cells, engine

ARGUMENTS = [
    "study",
    "--data.train_fraction=0.1",
    "--data.test_fraction=0.2",
    "--network.name=logistic",
    "--train.epochs=2",
    "--train.batch_size=32",
    "--device=cpu",
]


def config(folder, **changes) -> GeneralStudyConfig:
    asked = GeneralStudyConfig(
        data=GeneralDataConfig(train_fraction=0.1, test_fraction=0.2),
        network=NetworkConfig("logistic"),
        train=GeneralTrainConfig(epochs=2, batch_size=32),
        run=GeneralRunConfig(dir=str(folder), **changes.pop("run", {})),
        device="cpu",
        losses=("cel", "crl"),
        seeds=2,
    )
    return replace(asked, **changes)


def numbers(folder) -> dict:
    """Return the scores of a report: all but times and places."""
    report = json.loads((folder / "report.json").read_text())
    return {
        "measures": {row["name"]: row["measures"] for row in report["arms"]},
        "factors": {row["name"]: (row["lr_factor"], row["gradient_factor"]) for row in report["arms"]},
        "controls": report["controls"],
        "conclusion": report["conclusion"],
    }


def test_a_study_has_its_controls_and_says_in_words_what_it_supports(tmp_path, capsys):
    report = study_losses(config(tmp_path / "study"))
    assert [row["name"] for row in report["arms"]] == [
        "cel",
        "crl",
        "focal",
        "cel-smoothing0.1",
        "cel-lr-mean-crl",
    ]
    assert report["what"]["n_test"] == 90
    rows = {row["name"]: row for row in report["arms"]}
    assert rows["cel-lr-mean-crl"]["lr_factor"] == pytest.approx(rows["crl"]["gradient_factor"])
    assert rows["cel"]["lr_factor"] == 1
    page = (tmp_path / "study" / "report.md").read_text()
    for part in ("## Conclusion", "Holm", "Wilcoxon", "macro-F1", "fingerprint", "Command:"):
        assert part in page
    assert "report:" in capsys.readouterr().out


def test_a_killed_study_resumed_gives_the_same_table(tmp_path, monkeypatch):
    study_losses(config(tmp_path / "unbroken"))
    again = {"run": {"together": 3, "resume": "auto"}}
    real_save = cells.CellTrainer._keep

    class KilledError(Exception):
        pass

    def keep_once(self, plans, training):
        if monkeypatch_state["kept"]:
            raise KilledError
        monkeypatch_state["kept"] = True
        real_save(self, plans, training)

    monkeypatch_state = {"kept": False}
    monkeypatch.setattr(cells.CellTrainer, "_keep", keep_once)
    with pytest.raises(KilledError):
        study_losses(config(tmp_path / "broken", **again))
    finished = list((tmp_path / "broken").glob("cells/*/*/cell.json"))
    assert len(finished) == 3
    monkeypatch.setattr(cells.CellTrainer, "_keep", real_save)
    before = {file: file.stat().st_mtime_ns for file in finished}
    study_losses(config(tmp_path / "broken", **again))
    assert numbers(tmp_path / "broken") == numbers(tmp_path / "unbroken")
    assert {file: file.stat().st_mtime_ns for file in finished} == before


def test_finished_cells_are_never_trained_again(tmp_path, monkeypatch):
    study_losses(config(tmp_path / "study"))
    monkeypatch.setattr(engine.Training, "run", None)
    again = study_losses(config(tmp_path / "study", run={"resume": "auto"}))
    assert again["arms"][0]["n"] == 2


def test_a_study_may_grow_but_not_change(tmp_path):
    study_losses(config(tmp_path / "study"))
    grown = study_losses(
        config(tmp_path / "study", run={"resume": "auto"}, seeds=3, losses=("cel", "crl", "nllr"))
    )
    assert {row["name"]: row["n"] for row in grown["arms"]}["nllr"] == 3
    changed = config(
        tmp_path / "study", run={"resume": "auto"}, train=GeneralTrainConfig(epochs=3, batch_size=32)
    )
    with pytest.raises(UsageError, match=r"train\.epochs: 2 -> 3"):
        study_losses(changed)
    with pytest.raises(UsageError, match="not empty"):
        study_losses(config(tmp_path / "study"))


def test_cross_entropy_may_be_left_out_and_join_later(tmp_path, capsys):
    alone = {"losses": ("nllr", "crl"), "controls": False, "seeds": 3}
    report = study_losses(config(tmp_path / "study", baseline=False, **alone))
    assert [row["name"] for row in report["arms"]] == ["nllr", "crl"]
    assert report["conclusion"] == ["Cross-entropy was left out, so nothing is compared with it."]
    page = (tmp_path / "study" / "report.md").read_text()
    assert "Differences from cross-entropy" not in page
    assert not (tmp_path / "study" / "cells" / "cel").exists()
    grown = study_losses(config(tmp_path / "study", run={"resume": "auto"}, **alone))
    assert [row["name"] for row in grown["arms"]] == ["cel", "nllr", "crl"]
    assert "6 of 9 finished already" in capsys.readouterr().out
    assert "No difference from CE" in " ".join(grown["conclusion"]) or "than CE" in " ".join(
        grown["conclusion"]
    )


def test_no_folder_no_study():
    with pytest.raises(UsageError, match=r"--run\.dir"):
        study_losses(config(""))


def test_the_command_prints_one_json_object(tmp_path, capsys):
    words = [*ARGUMENTS, "--losses=cel,nllr", "--controls=false", "--seeds=1", f"--run.dir={tmp_path / 's'}"]
    assert main([*words, "--json"]) == 0
    report = json.loads(capsys.readouterr().out)
    assert [row["name"] for row in report["arms"]] == ["cel", "nllr"]
    assert (tmp_path / "s" / "table.csv").is_file()
    assert main([*words, "--json"]) == 2  # the folder holds a study: resume it
    assert main([*words, "--losses=cel,nlr", "--run.resume=auto"]) == 2
    assert "nllr" in capsys.readouterr().err
