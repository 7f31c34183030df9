"""What a run tells of its training comes from what really ran."""

from __future__ import annotations

import json

import torch

from finetune.experiments.records.record import RunRecord, has_own_report, training_facts
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


def test_a_report_that_calls_an_exact_nllr_by_the_published_name_is_not_the_runs_own(tmp_path):
    record = {"n": 4, "loss": {"name": "nllr", "clamp": None}}
    (tmp_path / "run.json").write_text(json.dumps(record))
    (tmp_path / "report.md").touch()
    for called, own in (("nllr", False), ("nllr, exact", True)):
        (tmp_path / "report.json").write_text(json.dumps({"n": 4, "loss_text": called}))
        assert has_own_report(tmp_path) is own


def test_epochs_count_from_one_and_old_records_keep_their_meaning(tmp_path):
    old = {"kind": "fine_run", "class_names": ["a", "b"], "best_epoch": 0, "epochs_run": 2}
    file = tmp_path / "run.json"
    file.write_text(json.dumps(old))
    record = RunRecord.read(file)
    assert (record.best_epoch, record.epochs_run) == (1, 2)
    record.write(file)
    assert json.loads(file.read_text())["schema"] == 2
    assert RunRecord.read(file) == record
    file.write_text(json.dumps({**old, "best_epoch": None}))
    blind = RunRecord.read(file)
    assert (blind.best_epoch, blind.to_dict()["best_epoch"]) == (None, None)


def test_what_only_one_task_records_is_read_by_name():
    extra = {
        "crop": {"kind": "box", "margin": 0.1},
        "fold": 2,
        "subjects": 7,
        "shared_people": 1,
        "data_set": "cub",
    }
    content = {"kind": "age_fold", "class_names": ["a", "b"], "scores": {"baseline": {"top1": 3.0}}, **extra}
    record = RunRecord.from_dict({**content, "device": {"used": "cpu"}, "counts": {"images": 4}})
    assert (record.crop, record.fold, record.subjects) == (extra["crop"], 2, 7)
    assert (record.shared_subjects, record.data_set, record.device_used) == (1, "cub", "cpu")
    assert (record.baseline, record.counted) == ({"top1": 3.0}, {"images": 4})
    assert record.to_dict() == {**content, "device": {"used": "cpu"}, "counts": {"images": 4}, "schema": 2}
    nothing = RunRecord.from_dict({"class_names": ["a", "b"], "crop": None})
    assert (nothing.crop, nothing.fold, nothing.subjects) == ({}, -1, None)
    assert (nothing.shared_subjects, nothing.data_set, nothing.device_used) == (None, "", "")
    assert (nothing.baseline, nothing.counted) == (None, {})
