"""A config.yaml written before the loss's options had a place of their own is the same run as today's."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import yaml

from agecls.config import AgeConfig, AgeTrainConfig
from finetune.cli.options import load_config
from finetune.errors import DataError, UsageError
from finetune.experiments.records.run_settings import setting_differences
from finetune.experiments.study.arms import build_arms
from finetune.experiments.study.cells import CellPlan
from finetune.experiments.study.finished_runs import read_run
from finetune.experiments.study.runs import cell_config
from finetune.runs.config_file import LATER
from finetune.runs.folder import RunFolder, read_config, write_json
from finetune.training.config import HeadConfig, LossConfig, RunConfig, to_dict

# As `crl age train --loss.name crl --loss.alpha 1 --run.dir runs/crl` wrote it.
CRL = """\
model:
  backbone: resnet34
  weights: pretrained
  second: ''
  second_weights: pretrained
  image_size: null
  resize: warp
  resize_ratio: null
  drop_rate: 0.0
  drop_path_rate: 0.0
head:
  name: linear
  taps: []
  options:
    dropout: 0.0
loss:
  name: crl
  alpha: 1.0
  beta: null
  gamma: null
  a: null
  clamp: null
  label_smoothing: 0.0
  class_weights: none
  branches: {}
train:
  epochs: 30
  frozen_epochs: 0
  frozen_lr: null
  frozen_weight_decay: null
  frozen_schedule: constant
  frozen_views: -1
  batch_size: 32
  accumulate: 1
  optimizer: sgd
  lr: 0.01
  head_lr_multiplier: 10.0
  momentum: 0.9
  weight_decay: 0.0001
  schedule: cosine
  warmup_epochs: 0.0
  milestones: []
  gamma: 0.1
  augment: face
  mixup: 0.0
  cutmix: 0.0
  ema: 0.0
  clip_grad: 0.0
  patience: 0
  monitor: accuracy
  select: last
  seed: 0
run:
  dir: runs/crl
  resume: never
  allow_change: []
  checkpoint_minutes: 10.0
  cache: auto
  workers: -1
  precision: auto
  compile: false
  deterministic: true
device: auto
data:
  root: null
  folds_dir: null
  table: null
  policy: core8
  layout: auto
  groups: 0-2,4-6,8-12,15-20,25-32,38-43,48-53,60+
  path_column: path
  age_column: age
  group_column: null
  subject_column: subject
  user_column: null
  gender_column: null
  fold_column: null
  protocol: fixed
  n_folds: 5
  fold_seed: 0
  fold: 0
  missing: error
  skip_bad: false
  follow: false
  same_content: warn
  allow_subject_overlap: false
evaluate:
  test_crops: center
  batch_size: 64
"""
# The loss of other runs of that release; a study's cells told every option of their loss.
FOCAL = """\
  name: focal
  alpha: null
  beta: null
  gamma: null
  a: null
  clamp: null
  label_smoothing: 0.1
  class_weights: inverse
  branches:
    main: nllr
"""
CELL = """\
  name: crl
  alpha: 1.5
  beta: 1.0
  gamma: null
  a: null
  clamp: null
  label_smoothing: 0.0
  class_weights: none
  branches: {}
"""
NLLR = CELL.replace("crl", "nllr").replace("1.5", "null").replace("1.0", "null")
PLAIN = CELL.replace("crl", "cel").replace("1.5", "null").replace("1.0", "null")
LOSS = CRL[CRL.index("  name: crl") : CRL.index("train:")]


def stored(folder: Path, loss: str = LOSS) -> Path:
    """Return a run folder of that release, with this loss."""
    folder.mkdir(parents=True)
    (folder / "config.yaml").write_text(CRL.replace(LOSS, loss), encoding="utf-8")
    return folder


OF_THEN = AgeTrainConfig(optimizer="sgd", lr=0.01, head_lr_multiplier=10.0)  # what was not given, then


def today(loss: LossConfig) -> dict[str, Any]:
    """Return the configuration of the same run as it is written today."""
    head = HeadConfig(options={"dropout": 0.0})
    return to_dict(AgeConfig(head=head, loss=loss.resolved(), train=OF_THEN, run=RunConfig(dir="runs/crl")))


LOSSES = [
    (LOSS, LossConfig("crl:alpha=1")),
    (CELL, LossConfig("crl")),
    (PLAIN, LossConfig()),
    (NLLR, LossConfig("nllr:clamp=0")),
    (NLLR.replace("clamp: null", "clamp: 1.0e-07"), LossConfig("nllr:clamp=1e-7")),
    (
        FOCAL,
        LossConfig("focal:label_smoothing=0.1", class_weights="inverse", branches={"main": "nllr:clamp=0"}),
    ),
]


@pytest.mark.parametrize(("text", "loss"), LOSSES)
def test_it_is_read_as_the_configuration_of_today(tmp_path, text, loss):
    wanted = today(loss)
    assert wanted["run"].pop("track") == []  # an option of later, which changes no result
    wanted["run"]["compile"] = False  # as the file says; the default was another one
    for key, value in LATER.items():  # options of later, at what was done then
        section, _, name = key.partition(".")
        assert wanted[section].pop(name) == value
    assert read_config(stored(tmp_path / "run", text) / "config.yaml") == wanted


@pytest.mark.parametrize(("text", "loss"), LOSSES)
def test_a_run_goes_on_without_a_change(tmp_path, text, loss):
    with RunFolder.open(stored(tmp_path / "run", text), today(loss), resume="auto") as run:
        assert (run.resumed, run.changes) == (True, ())
    kept = (tmp_path / "run" / "config.yaml").read_text(encoding="utf-8")
    assert kept == CRL.replace(LOSS, text), "the first run's text stays"


@pytest.mark.parametrize(
    ("loss", "told"),
    [
        (LossConfig("crl"), "loss.options.alpha: 1.0 -> 1.5"),
        (LossConfig("crl:alpha=1:beta=2"), "loss.options.beta: 1.0 -> 2.0"),
        (LossConfig("cel"), r"loss.name: crl -> cel\n"),
    ],
)
def test_another_loss_is_refused_as_ever(tmp_path, loss, told):
    with pytest.raises(UsageError, match=told):
        RunFolder.open(stored(tmp_path / "run"), today(loss), resume="auto")


def test_the_command_line_reads_it_and_says_the_new_form(tmp_path, capsys):
    config = load_config(AgeConfig, stored(tmp_path / "run") / "config.yaml")
    assert config.loss == LossConfig("crl:alpha=1")
    assert "old keys loss.alpha, loss.beta" in capsys.readouterr().out
    new = tmp_path / "new.yaml"
    new.write_text(yaml.safe_dump(today(config.loss)), encoding="utf-8")
    assert load_config(AgeConfig, new).loss.resolved() == config.loss.resolved()
    assert capsys.readouterr().out == ""


def result(config: dict[str, Any], **loss: Any) -> Any:
    """Return a result as a comparison sees it, with run.json's loss."""
    return SimpleNamespace(folder=Path("run"), run={"loss": loss}, config=config)


def test_two_results_of_both_releases_are_compared_key_by_key(tmp_path):
    told = {"name": "crl", "alpha": 1.0, "beta": 1.0, "label_smoothing": 0.0, "class_weights": "none"}
    old = result(read_config(stored(tmp_path / "old") / "config.yaml"), **told)
    new = result(today(LossConfig("crl:alpha=1")), **told)
    assert setting_differences([old], [new]) == ([], [])
    other = result(today(LossConfig("crl:alpha=2")), **(told | {"alpha": 2.0}))
    assert setting_differences([old], [other])[0] == [{"field": "loss.alpha", "a": 1.0, "b": 2.0}]


def test_a_cell_of_an_old_study_is_read_again(tmp_path):
    plan = CellPlan(build_arms(["crl"], controls=False)[1], 0, 1.0, stored(tmp_path / "cell", CELL))
    write_json(plan.folder / "run.json", {"manifest": "m"})
    (plan.folder / "report.md").write_text("done")
    head = HeadConfig(options={"dropout": 0.0})
    study = AgeConfig(run=RunConfig(dir="runs/study"), head=head, train=OF_THEN)
    files, identity = ("run.json", "report.md"), {"manifest": "m"}
    assert read_run(plan, files, to_dict(cell_config(study, plan)), identity) is not None
    other = replace(plan, arm=build_arms(["crl:beta=2"], controls=False)[1])
    with pytest.raises(DataError, match=r"loss.options.beta: 1.0 -> 2.0"):
        read_run(other, files, to_dict(cell_config(study, other)), identity)
