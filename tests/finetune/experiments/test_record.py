"""What a run tells of its training comes from what really ran."""

from __future__ import annotations

import json

import torch

from finetune.experiments.record import has_own_report, training_facts
from finetune.training.data import TrainingData
from finetune.training.learner import build_learner
from finetune.training.optimization.distributed import World
from tests.finetune.quick import quick


def test_the_record_tells_the_settings_and_what_really_ran(task: TrainingData):
    config = quick(train_seed=7, train_lr=0.25)
    facts = training_facts(config, build_learner(task, config, World()))
    assert (facts["seed"], facts["train"]["lr"], facts["epochs"]) == (7, 0.25, 2)
    assert facts["device"] | {"name": ""} == {"asked": "cpu", "used": "cpu", "name": ""}
    assert (facts["head"], facts["loss"]["name"], facts["image_size"]) == ("linear", "cel", 32)
    assert facts["preprocess"] == task.spec.to_dict()
    assert facts["versions"]["torch"] == torch.__version__.partition("+")[0]


def test_a_report_of_an_earlier_training_is_not_the_runs_own(tmp_path):
    record = {"n": 4, "minutes": 1.5, "scores": {"top1": 50.0}}
    (tmp_path / "run.json").write_text(json.dumps(record))
    assert not has_own_report(tmp_path)
    (tmp_path / "report.md").write_text("# Report\n")
    (tmp_path / "report.json").write_text(json.dumps({**record, "title": "kept"}))
    assert has_own_report(tmp_path)
    for earlier in ({"n": 3}, {"minutes": 1.0}, {"scores": {"top1": 25.0}}):
        (tmp_path / "report.json").write_text(json.dumps({**record, **earlier}))
        assert not has_own_report(tmp_path)
