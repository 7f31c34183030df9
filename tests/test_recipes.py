"""What CONTRIBUTING promises of adding things: each is added at run time, and no other file is touched."""

from __future__ import annotations

import io
import json
import re
import tokenize
from pathlib import Path
from typing import Unpack

import numpy as np
import pytest
import torch
from torch import Tensor

from agecls.config import AgeConfig, AgeStudyConfig
from apps.cli import main
from apps.curves import draw_curves
from apps.demo.loss_explorer import explorer_html
from core_losses import LOSSES, LossModule, cross_entropy_loss
from core_losses.reduction import SharedOptions
from finetune.cli.console import reset
from finetune.cli.options import parse_options
from finetune.errors import UsageError
from finetune.experiments.study.arms import build_arms
from finetune.training.config import FitConfig, LossConfig
from finetune.training.learner import loss_settings
from generalcls.config import GeneralRunOneConfig

ROOT = Path(__file__).resolve().parents[1]
ROW = re.compile(r"^\| `(\w+)` \| [^|]+ \| ([^|]*)\|$", re.MULTILINE)
ROOMS = ("finetune", "agecls", "finegrained", "generalcls", "apps", "benchmarks")


class ToyLine:
    """-gain log p_c as a function of the log-odds."""

    def __init__(self, gain: float) -> None:
        self.gain = gain

    def value(self, m: Tensor) -> Tensor:
        return -self.gain * torch.nn.functional.logsigmoid(m)

    def push(self, m: Tensor) -> Tensor:
        return self.gain * torch.sigmoid(-m)


class ToyLoss(LossModule):
    """Cross-entropy, `gain` times: all that a loss must say of itself."""

    title = "Toy"
    line = ToyLine

    def __init__(
        self, weight: Tensor | None = None, *, gain: float = 1.0, **options: Unpack[SharedOptions]
    ) -> None:
        super().__init__(weight, **options)
        if gain <= 0:
            raise ValueError(f"gain must be a number > 0, got {gain}")
        self.gain = gain

    def forward(self, logits: Tensor, target: Tensor) -> Tensor:
        return self.gain * cross_entropy_loss(logits, target, **self.options())


@pytest.fixture
def toy(monkeypatch):
    """Put the toy loss into the table of losses, which is all that a new loss needs."""
    monkeypatch.setitem(LOSSES, "toy", ToyLoss)
    yield
    reset()


@pytest.mark.parametrize("config_type", [AgeConfig, AgeStudyConfig, FitConfig, GeneralRunOneConfig])
def test_help_names_a_new_loss(toy, capsys, config_type):
    with pytest.raises(SystemExit):
        parse_options(config_type, ["--help"], prog="crl", about="")
    assert re.search(r"There\s+are\s+cel,\s.*tce,\s+toy", capsys.readouterr().out, re.DOTALL)


def test_a_new_loss_is_chosen_by_word_and_by_options(toy):
    for words in (["--loss", "toy:gain=2"], ["--loss.name=toy", "--loss.options.gain=2"]):
        config = parse_options(FitConfig, words, prog="crl", about="")[0]
        assert config.loss == LossConfig("toy", {"gain": 2})
    assert loss_settings(config.loss)["gain"] == 2.0
    with pytest.raises(UsageError, match=r"toy takes gain, not gian \(did you mean gain\?\)"):
        FitConfig(loss=LossConfig("toy:gian=2"))
    with pytest.raises(UsageError, match="gain must be a number > 0, got -1"):
        FitConfig(loss=LossConfig(branches={"main": "toy:gain=-1"}))
    with pytest.raises(UsageError, match=r"did you mean 'toy'.*Known losses: cel, .*toy"):
        FitConfig(loss=LossConfig("tyo"))


def test_a_new_loss_trains_a_general_run(toy, capsys, tmp_path):
    words = ["--data.train_fraction=0.2", "--network.name=mlp", "--train.epochs=1", "--device=cpu"]
    folder = f"--run.dir={tmp_path / 'run'}"
    assert main(["general", "train", *words, "--loss", "toy:gain=2", folder, "--json"]) == 0
    record = json.loads(capsys.readouterr().out)
    assert (record["loss"]["name"], record["loss"]["gain"]) == ("toy", 2.0)
    assert "Toy (gain 2)" in (tmp_path / "run" / "report.md").read_text(encoding="utf-8")


def test_a_new_loss_is_an_arm_of_a_study_with_its_title(toy):
    arms = build_arms(["toy", "toy:gain=2"], controls=False)[1:]
    assert [(arm.name, arm.title) for arm in arms] == [
        ("toy", "Toy (gain 1)"),
        ("toy-gain2", "Toy (gain 2)"),
    ]
    assert "toy" in AgeStudyConfig().losses


def test_a_new_loss_is_drawn(toy, tmp_path):
    assert draw_curves(tmp_path, points=3)["labels"]["toy"] == "Toy (gain 1)"
    assert draw_curves(tmp_path, points=3, losses=("toy:gain=3",))["labels"] == {"toy": "Toy (gain 3)"}
    html = explorer_html()
    assert html.count('class="line other"') == 2
    assert ">Toy</th>" in html
    assert f"{-np.log(0.1):.3f}</td>" in html


def test_without_a_new_loss_nothing_of_it_is_seen():
    assert "Toy" not in explorer_html()
    assert "toy" not in AgeStudyConfig().losses


def mentions(source: str) -> set[str]:
    """Return the short names of losses in a piece of code, comments left out, docstrings not."""
    tokens = tokenize.generate_tokens(io.StringIO(source).readline)
    kinds = (tokenize.NAME, tokenize.STRING)
    told = " ".join(token.string for token in tokens if token.type in kinds)
    return set(re.findall(r"\b(?:tce|cce|dualce)\b", told))


def test_no_product_file_outside_the_formulas_lists_the_losses():
    files = [path for room in ROOMS for path in sorted((ROOT / room).rglob("*.py"))]
    assert len(files) > 200
    found = {path.relative_to(ROOT).as_posix(): mentions(path.read_text(encoding="utf-8")) for path in files}
    assert {path: names for path, names in found.items() if names} == {}


def test_a_list_of_losses_would_be_seen():
    assert mentions('NAMES = ("cel", "cce")') == {"cce"}
    assert mentions('"""cel, tce or dualce."""\ntce = 1') == {"tce", "dualce"}
    assert mentions("x = 1  # tce") == set()


def loss_rows() -> dict[str, str]:
    """Return what the table of losses in the README or the docs says of each one's own options."""
    texts = [file.read_text(encoding="utf-8") for file in (ROOT / "README.md", *(ROOT / "docs").glob("*.md"))]
    return {name: told.strip() for text in texts for name, told in ROW.findall(text) if name in LOSSES}


def test_the_documented_options_of_losses_are_theirs():
    rows = loss_rows()
    assert len(rows) >= 7
    for name, told in rows.items():
        options = LOSSES[name].own_options()
        parts = [part.split() for part in told.split(", ") if part]
        assert [part[0] for part in parts] == list(options), name
        assert all(float(part[1]) == options[part[0]] for part in parts if len(part) > 1), name
