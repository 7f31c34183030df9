"""What CONTRIBUTING promises of adding things: each is added at run time, and no other file is touched.

A head, a task and a logger of another package are added in tests/examples/test_own_package.py.
"""

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
from agecls.task import TASK as AGE
from apps.cli import main
from apps.curves import draw_curves
from apps.demo.loss_explorer import explorer_html
from core_losses import LOSSES, LossModule, cross_entropy_loss
from core_losses.reduction import SharedOptions
from finegrained.config import FineDataConfig
from finegrained.data import layouts
from finegrained.data.reading import FineReading, ListedImage, Lists, ReadingRules, finish
from finegrained.task import TASK as FINE
from finetune.cli.console import reset
from finetune.cli.options import parse_options
from finetune.errors import DataError, UsageError
from finetune.experiments.compare.compare import compare_results
from finetune.experiments.compare.page import differences
from finetune.experiments.measures import Measure
from finetune.experiments.study.arms import build_arms
from finetune.training.config import FitConfig, LossConfig
from finetune.training.learner import loss_settings
from generalcls.config import GeneralRunOneConfig
from tests.agecls.results_by_hand import make_result

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
    assert re.search(r"There\s+are\s+cel,\s.*mean_variance,\s+toy", capsys.readouterr().out, re.DOTALL)


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


RECIPE = re.compile(r"^\| (an? [^|]+) \| (\d+) \| (.+) \|$", re.MULTILINE)
PLACE = re.compile(r"`([\w./]+(?:/|\.py|\.md|\.toml))`")
# A word of the code that only what belongs to one thing of its kind uses, and the rooms that are looked at.
EXAMPLES = {
    "a reader of a data set": ("cars-K", ROOMS),
    "a head of the toolkit": ("isqrt_cov", ROOMS),
    "an age score": ("macro_f1", ("agecls", "apps")),
    "an export option": ("calibration_images", ROOMS),
}


def recipes() -> dict[str, tuple[int, list[str]]]:
    """Return each row of CONTRIBUTING's table of recipes: how many files it says, and which it names."""
    text = (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8")
    return {what: (int(count), places(told)) for what, count, told in RECIPE.findall(text)}


def places(told: str) -> list[str]:
    """Return the files and folders that a row names; one in parentheses is another choice, not one more."""
    return [] if told.startswith("none") else PLACE.findall(re.sub(r"\([^)]*\)", "", told))


def users(word: str, rooms: tuple[str, ...]) -> set[str]:
    """Return the product's files, and pyproject.toml, that name a word."""
    named = re.compile(rf"\b{re.escape(word)}\b")
    files = [path for room in rooms for path in sorted((ROOT / room).rglob("*.py"))] + [
        ROOT / "pyproject.toml"
    ]
    return {
        path.relative_to(ROOT).as_posix() for path in files if named.search(path.read_text(encoding="utf-8"))
    }


def unlisted(found: set[str], listed: list[str]) -> set[str]:
    """Return the files that are neither named nor in a folder that is."""
    return {
        file
        for file in found
        if not any(file == one or (one[-1] == "/" and file.startswith(one)) for one in listed)
    }


def test_every_recipe_counts_the_files_it_names():
    found = recipes()
    kinds = ["loss", "reader", "head", "score", "option", "logger", "task"]
    assert all(any(kind in what for what in found) for kind in kinds)
    assert {what: count for what, (count, named) in found.items() if count != len(named)} == {}
    assert {place for _, named in found.values() for place in named if not (ROOT / place).exists()} == set()


@pytest.mark.parametrize("what", EXAMPLES)
def test_a_recipe_names_every_file_that_an_example_of_it_is_in(what):
    word, rooms = EXAMPLES[what]
    found = users(word, rooms)
    assert len(found) > 1
    assert unlisted(found, recipes()[what][1]) == set()


def test_a_file_that_no_recipe_names_would_be_seen():
    assert unlisted({"a/b.py", "c/d.py", "c.py"}, ["a/b.py", "c/"]) == {"c.py"}
    assert places("`a/b.py` (or `c.py`), a test in `tests/a/`, `CHANGELOG.md`") == [
        "a/b.py",
        "tests/a/",
        "CHANGELOG.md",
    ]
    assert places("none: `--x FILE.csv`, `a.py`") == []


def test_a_new_reader_is_found_by_its_folder(monkeypatch, tmp_path):
    def read(root: Path, rules: ReadingRules) -> FineReading:
        rows = [ListedImage(f"{n}.png", n % 2, "train" if n < 6 else "test", str(n)) for n in range(8)]
        return finish(Lists("toy", root, ("a", "b"), rows), rules)

    kind = layouts._Kind("toy.txt (a toy)", lambda folder: (folder / "toy.txt").is_file(), read)
    monkeypatch.setitem(layouts.KINDS, "toy", kind)
    for name in ("toy.txt", *(f"{n}.png" for n in range(8))):
        (tmp_path / name).touch()
    config = FineDataConfig(root=str(tmp_path), val_share=0.0)
    data = FINE.read(config)
    assert (data.policy, data.manifest.class_names, len(data.manifest)) == ("toy", ("a", "b"), 8)
    (split,) = FINE.splits(data, config)
    assert (split.train.tolist(), split.test.tolist()) == ([*range(6)], [6, 7])
    with pytest.raises(DataError, match=r"toy: toy\.txt"):
        FINE.read(FineDataConfig(root=str(ROOT / ".ci")))


def test_a_new_age_score_is_compared_by_its_measure_alone(monkeypatch, tmp_path):
    near = Measure(
        "within_two",
        "accuracy within two groups",
        frozenset({"compare", "conclusion"}),
        hits=lambda found: np.abs(found.preds - found.target) <= 2,
    )
    monkeypatch.setattr(type(AGE), "measures", (*AGE.measures, near))
    a, b = make_result(tmp_path / "a"), make_result(tmp_path / "b", answers=1)
    comparison = compare_results(AGE, a, b, resamples=20)
    assert comparison["within_two"]["a"] == pytest.approx(100 * near.hits(a.predictions).mean())
    assert "accuracy within two groups" in differences(comparison, AGE)
    assert "accuracy within two groups" in comparison["conclusion"]
