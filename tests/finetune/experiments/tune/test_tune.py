"""A search of both tasks: no test image is read, arms share their settings, and its files run as they are."""

from __future__ import annotations

import csv
import sys
from collections.abc import Iterator
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

import pytest

from agecls.config import AgeTuneConfig
from finegrained.config import FineTuneConfig
from finetune.cli.options import load_config
from finetune.errors import DivergedError, InterruptedRunError, UsageError
from finetune.experiments.run import open_run, plain
from finetune.experiments.tune import search as searching
from finetune.experiments.tune.config import SearchConfig
from finetune.experiments.tune.search import Search
from finetune.experiments.tune.tune import tune
from finetune.runs.folder import read_json, read_table
from tests.finetune.experiments.tiny_tasks import MAINLY_FINE, TinyTask, again, make_tiny

MAINLY = pytest.mark.parametrize("tiny", MAINLY_FINE, indirect=True)
opened: list[str] = []
watching: list[Path] = []


def _hear(event: str, arguments: tuple[Any, ...]) -> None:
    if watching and event == "open" and isinstance(arguments[0], str):
        opened.append(arguments[0])


sys.addaudithook(_hear)


@pytest.fixture
def watched() -> Iterator[list[str]]:
    """The files that anything opens while the test runs."""
    opened.clear()
    watching.append(Path())
    yield opened
    watching.clear()


def tuning(tiny: TinyTask, folder: Path, arms: tuple[str, ...] = (), **search: Any) -> Any:
    """Return a search of two learning rates, one epoch each, in a folder."""
    kind = {"age": AgeTuneConfig, "fine": FineTuneConfig}[tiny.task.name]
    parts = {item.name: getattr(tiny.run(folder), item.name) for item in fields(tiny.task.config_type)}
    asked = {"lr": (0.02,), "head_lr_multiplier": (10.0,)} | search
    return kind(**parts, arms=arms, search=SearchConfig(**asked))


def table(folder: Path) -> list[dict[str, str]]:
    """Return the rows of trials.csv without what the clock says."""
    with (folder / "trials.csv").open(newline="", encoding="utf-8") as stream:
        return [
            {key: cell for key, cell in row.items() if key != "minutes"} for row in csv.DictReader(stream)
        ]


def found(tiny: TinyTask, config: Any) -> dict[str, Any]:
    """Run a search and return its summary."""
    return tune(tiny.task, config, tiny.study_type)


def held_out(tiny: TinyTask, config: Any) -> set[Path]:
    """Return the files of the test part that the search leaves out."""
    data = tiny.task.read(config.data)
    split = tiny.task.splits(data, config.data).of_fold(tiny.task.chosen_fold(config), len(data.manifest))
    return {data.manifest.file(row) for row in split.test}


@pytest.mark.parametrize("name", ["age", "fine"])
def test_no_test_image_is_opened_and_no_test_label_counts(
    name: str, tmp_path: Path, watched: list[str]
) -> None:
    """Test images hold no image at all, and nothing opens one; their labels are others the second time."""
    tiny = make_tiny(name, tmp_path)
    config = tuning(tiny, tmp_path / "search")
    tested = held_out(tiny, config)
    assert len(tested) >= 4
    for file in tested:
        file.write_bytes(b"no image")
    opened.clear()
    first = found(tiny, config)
    names = {Path(name).resolve() for name in watched}
    assert not names & {file.resolve() for file in tested}
    assert len([name for name in names if name.suffix == ".jpg"]) >= 8  # the others were opened, and heard of
    predicted = [file for file in (tmp_path / "search").rglob("predictions.parquet")]
    assert len(predicted) == 2
    for file in predicted:
        assert not {Path(path).name for path in read_table(file)["path"]} & {each.name for each in tested}
    assert first["finished"]


@MAINLY
def test_the_files_of_a_search_run_as_they_are(
    tiny: TinyTask, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    summary = found(tiny, tuning(tiny, tmp_path / "search", ("cel", "crl:alpha=1")))
    names = [Path(file).name for file in summary["configs"]]
    assert names == ["tuned-cel.yaml", "tuned-crl-alpha1-beta1.yaml", "study.yaml"]
    rows = table(tmp_path / "search")
    assert {(row["arm"], row["lr"]) for row in rows} == {
        (arm, lr) for arm in ("cel", "crl-alpha1-beta1") for lr in ("0.05", "0.02")
    }
    for arm, chosen in summary["chosen"].items():
        best = max(float(row["score"]) for row in rows if row["arm"] == arm)
        assert chosen["score"] == pytest.approx(best)
        own = load_config(tiny.task.config_type, tmp_path / "search" / f"tuned-{arm}.yaml")
        assert (own.train.lr, own.train.epochs) == (chosen["lr"], chosen["epochs"])
        assert own.loss.name == arm[:3]
        assert own.data == tiny.run(tmp_path).data
        assert Path(own.run.dir).parent == tmp_path / "search"
    study = load_config(tiny.study_type, tmp_path / "search" / "study.yaml")
    assert study.losses == ("cel", "crl:alpha=1")
    assert {arm: own["lr"] for arm, own in study.rates.items()} == {
        arm: chosen["lr"] for arm, chosen in summary["chosen"].items()
    }
    text = (tmp_path / "search" / "report.md").read_text(encoding="utf-8")
    unit = {"age": "subjects", "fine": "images"}[tiny.task.name]
    assert f" {unit} |" in text
    assert text.count("**") == 4  # the chosen trial of each arm


@MAINLY
def test_an_interrupted_search_keeps_what_it_has_and_goes_on(
    tiny: TinyTask, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = tuning(tiny, tmp_path / "whole", lr=(0.02, 0.1))
    found(tiny, whole)
    train, trained = searching.run_split, []

    def stopping(experiment: Any, split: Any, folder: Path, *others: Any, **options: Any) -> None:
        trained.append(folder)
        if len(trained) == 2:
            raise InterruptedRunError("stopped")
        train(experiment, split, folder, *others, **options)

    monkeypatch.setattr(searching, "run_split", stopping)
    config = tuning(tiny, tmp_path / "killed", lr=(0.02, 0.1))
    with pytest.raises(InterruptedRunError, match="interrupted"):
        found(tiny, config)
    assert len(table(tmp_path / "killed")) == 1
    assert not read_json(tmp_path / "killed" / "report.json")["finished"]
    assert "# The search was not finished" in (tmp_path / "killed" / "tuned.yaml").read_text(encoding="utf-8")
    found(tiny, again(config))
    assert len(trained) == 4  # one, the interrupted one, and the two that were left
    assert table(tmp_path / "killed") == table(tmp_path / "whole")
    found(tiny, again(config))
    assert len(trained) == 4


@MAINLY
def test_a_trial_that_diverges_has_no_score_and_is_not_trained_again(
    tiny: TinyTask, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    train, trained = searching.run_split, []

    def diverging(experiment: Any, split: Any, folder: Path, *others: Any, **options: Any) -> None:
        trained.append(folder)
        if experiment.config.train.lr == 0.02:
            own = plain(experiment.task, experiment.task.part_config(experiment.config, split), folder)
            with open_run(experiment.config, own, folder, others[0]):
                raise DivergedError("the loss is nan")
        train(experiment, split, folder, *others, **options)

    monkeypatch.setattr(searching, "run_split", diverging)
    config = tuning(tiny, tmp_path / "search")
    assert found(tiny, config)["chosen"]["cel"]["lr"] == 0.05
    assert [row["score"] for row in table(tmp_path / "search")][1] == ""
    found(tiny, again(config))
    assert len(trained) == 2


@MAINLY
def test_minutes_end_a_search_and_what_one_arm_has_alone_does_not_count(
    tiny: TinyTask, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The budget ends after three of four trainings: the second setting was tried with one arm only."""
    asked: list[Any] = []

    def over(self: Search, run: Any) -> bool:
        asked.append(run)
        self.stopped = "search.minutes 1: over" if len(asked) == 4 else ""
        return bool(self.stopped)

    monkeypatch.setattr(Search, "_is_over_budget", over)
    summary = found(tiny, tuning(tiny, tmp_path / "search", ("cel", "crl")))
    assert len(summary["trials"]) == 3
    assert not summary["finished"]
    assert {arm: chosen["lr"] for arm, chosen in summary["chosen"].items()} == {"cel": 0.05, "crl": 0.05}


@pytest.mark.parametrize(
    ("search", "message"),
    [
        ({"parts": 9}, "needs so many validation parts"),
        ({"method": "halving"}, "several numbers of epochs"),
    ],
)
@MAINLY
def test_searches_that_cannot_be_are_refused(
    tiny: TinyTask, tmp_path: Path, search: dict[str, Any], message: str
) -> None:
    with pytest.raises(UsageError, match=message):
        found(tiny, tuning(tiny, tmp_path / "search", **search))
    assert not (tmp_path / "search" / "config.yaml").exists()


@MAINLY
def test_bad_images_are_not_looked_for(tiny: TinyTask, tmp_path: Path) -> None:
    config = tuning(tiny, tmp_path / "search")
    with pytest.raises(UsageError, match="skip_bad opens every image"):
        found(tiny, replace(config, data=replace(config.data, skip_bad=True)))
