"""The report of either task says what was run, shows what was drawn, and lets no name be markup."""

from __future__ import annotations

import json
import re
from dataclasses import replace
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np
import pytest

from finetune.errors import DataError
from finetune.experiments.report import report_result, write_report
from finetune.figures.markdown import Picture
from tests.finetune.drawing import pixels_of
from tests.finetune.experiments.made_tasks import MadeTask

SIZE: dict[str, dict[str, Any]] = {"age": {}, "fine": {"classes": 30}}
Reported = tuple[Path, dict[str, Any]]


@pytest.fixture(scope="module")
def reported(made: MadeTask, tmp_path_factory: pytest.TempPathFactory) -> Reported:
    """A reported result folder and what `report_result` returned."""
    folder = tmp_path_factory.mktemp("results") / "run"
    result = made.make(folder, **SIZE[made.task.name])
    (folder / "pictures").mkdir(exist_ok=True)
    (folder / "pictures" / ".crl-1-00.tmp").write_text("half a figure")
    return folder, report_result(made.task, result, resamples=50)


def section(folder: Path, name: str) -> str:
    """Return the section of report.md with this heading."""
    page = (folder / "report.md").read_text(encoding="utf-8")
    return page.split(f"\n## {name}\n", 1)[1].split("\n## ", 1)[0]


def test_json_holds_what_was_returned(reported: Reported):
    folder, record = reported
    assert json.loads((folder / "report.json").read_text(encoding="utf-8")) == record
    assert (record["manifest"], record["split"]) == ("ab" * 32, "cd" * 32)


def test_figures_that_a_kill_left_half_drawn_are_removed(reported: Reported):
    assert not list(reported[0].rglob(".crl-*.tmp"))


def test_every_figure_of_the_page_exists(made: MadeTask, reported: Reported):
    folder, record = reported
    shown = re.findall(r"!\[[^]]*\]\(([^)]*)\)", (folder / "report.md").read_text(encoding="utf-8"))
    assert shown == record["pictures"]
    own = {"age": ["confusion", "groups", "heat_map"], "fine": ["classes", "confused_pairs", "heat_map"]}
    names = [*own[made.task.name], "learning_curves", "reliability", "risk_coverage"]
    assert [Path(name).stem for name in shown] == names
    for name in shown:
        pixels_of(folder / name)
    if made.task.name == "fine":
        assert "no model.safetensors" in section(folder, "Not drawn").replace("\\", "")


def test_run_and_data_are_told(made: MadeTask, reported: Reported):
    folder, _ = reported
    ran, data = section(folder, "What was run"), section(folder, "Data")
    command = {"age": "age cv", "fine": "fine train"}[made.task.name]
    for words in (
        f"`crl {command} --run.dir runs/a\\|b`",
        "crl (alpha 1.5, beta 1.0)",
        "cpu (two cores), asked for auto",
        "12.3",
    ):
        assert words in ran
    for words in ("ab" * 32, "cd" * 32):
        assert words in data


def test_a_result_that_tested_nothing_is_refused(made: MadeTask, tmp_path: Path):
    result = made.make(tmp_path / "run")
    nothing = replace(result, predictions=result.predictions.select(np.arange(0)))
    with pytest.raises(DataError, match="tested no image"):
        report_result(made.task, nothing)


def test_what_was_not_measured_reads_not_measured(made: MadeTask, reported: Reported, tmp_path: Path):
    gone = ("device", "versions", "counts", "policy", "head_options", "selected")
    kept = {key: value for key, value in reported[1].items() if key not in gone}
    bare = {"baseline": None, "ece": None, "minutes": None, "n_train": None}
    page = write_report(made.task, tmp_path, kept | bare).read_text(encoding="utf-8")
    assert "| minutes | n/a |" in page
    assert json.loads((tmp_path / "report.json").read_text(encoding="utf-8"))["ece"] is None
    assert "None" not in page
    assert "nan" not in page


def test_odd_names_cannot_become_markup(made: MadeTask, reported: Reported, tmp_path: Path):
    odd = {"backbone": "<b>net|*x*</b>", "loss_text": "crl_[a](b)", "title": "crl_[c](d)"}
    picture = Picture(PurePosixPath("a b/p(1).png"), "odd | [title]", "caption")
    record = reported[1] | odd | {"not_drawn": ["a|b\n# heading"]}
    page = write_report(made.task, tmp_path, record, [picture]).read_text(encoding="utf-8")
    assert r"&lt;b&gt;net\|\*x\*&lt;/b&gt;" in page
    assert r"crl\_\[a\](b)" in page
    assert r"crl\_\[c\](d)" in page
    assert r"![odd \| \[title\]](a%20b/p%281%29.png)" in page
    assert "<b>" not in page
    assert "\n# heading" not in page
