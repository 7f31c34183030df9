"""Card, exported facts, demo and `evaluate-onnx` show a task's measures, one more where there is one more."""

from __future__ import annotations

from pathlib import Path

import pytest

from agecls.task import TASK as AGE
from apps.config import EvaluateOnnxConfig
from apps.demo.models import scores
from apps.evaluate.evaluate_onnx import evaluate_onnx
from apps.export.card import write_card
from apps.runtime.metadata import ModelFacts
from finegrained.task import TASK as FINE
from finetune.errors import ModelFileError
from finetune.experiments.task import Task, measures_for
from tests.agecls import results_by_hand
from tests.apps.evaluate.test_evaluate_onnx import bird_facts, others, shown, write_birds
from tests.apps.tiny_onnx import tiny_facts, write_tiny
from tests.apps.tiny_run import write_pictures
from tests.finegrained import made_results
from tests.finetune.experiments.toy_measure import give_toy

BOTH = pytest.mark.parametrize("task", [AGE, FINE], ids=["age", "fine"])


@BOTH
def test_a_further_score_is_in_card_and_demo(task: Task, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    make = results_by_hand.make_result if task is AGE else made_results.make_result
    result = make(tmp_path / "run")
    give_toy(monkeypatch, task)
    found = task.card(result.folder, 0 if task is AGE else None, tested=True)
    value = found["metrics"]["toy"]
    assert value == found["metrics"]["balanced_accuracy"] is not None
    facts = tiny_facts if task is AGE else bird_facts
    page = write_card(
        facts(metrics=found["metrics"], card=found["card"], class_names=result.class_names), "m.onnx", "ab", 1
    )
    assert f"| toy score of the card | {value:.1f} % |" in page
    assert f"toy score {value:.1f} %" in scores(found["metrics"])


@BOTH
def test_a_further_score_is_a_column_of_other_data(
    task: Task, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    give_toy(monkeypatch, task)
    if task is AGE:
        write_pictures(tmp_path / "others", 2)
        (tmp_path / "others" / "faces.csv").write_text("path,age,subject\n00.png,1,a\n01.png,30,b\n")
        config, facts = others(tmp_path / "others" / "faces.csv"), tiny_facts()
    else:
        write_birds(tmp_path / "birds")
        config, facts = shown(tmp_path / "birds"), bird_facts()
    assert isinstance(config, EvaluateOnnxConfig)
    found = evaluate_onnx([write_tiny(tmp_path / "a.onnx", facts)], config)
    header, _, row = capsys.readouterr().out.partition("model  images")[2].splitlines()[:3]
    assert header.endswith("toy %")
    assert row.endswith(f"{found['balanced_accuracy']:.2f}")


@BOTH
def test_every_score_that_travels_is_checked_to_be_a_number(task: Task):
    for measure in measures_for(task, "facts"):
        parts = [f"_{part}" for part in ("mean", "sd", "pooled") if measure.over == "folds"]
        for name in (f"{measure.facts_name}{part}" for part in ("", *parts)):
            with pytest.raises(ModelFileError, match=f"give {name} as 'good', not a number"):
                ModelFacts.from_json(tiny_facts(metrics={name: "good"}).to_json())
    for place in ("card", "demo"):
        assert {one.key for one in measures_for(task, place)} <= {
            one.key for one in measures_for(task, "facts")
        }
