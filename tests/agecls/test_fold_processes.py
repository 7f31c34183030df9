from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from dataclasses import replace

import pytest

from agecls.cross_validation import cross_validate, fold_folder, start_fold, stopping
from agecls.task import TASK
from finetune.errors import CrlError, ResourceError
from tests.agecls.tiny_ages import resumed, same_predictions, tiny, words
from tests.finetune.toy_loggers import install


@pytest.mark.exhaustive  # nine seconds
def test_one_fold_per_device_gives_the_predictions_of_one_process(faces, pair, tmp_path):
    config = replace(tiny(faces, tmp_path / "run"), folds=(1, 4), devices=("cpu", "cpu"))
    assert cross_validate(TASK, config)["finished"] == [1, 4]
    for fold in (1, 4):
        assert same_predictions(fold_folder(tmp_path / "run", fold), fold_folder(pair[0], fold))
        assert "fold" in (tmp_path / "run" / f"fold{fold}.log").read_text()
    assert not (tmp_path / "run" / "report.json").exists()


@pytest.mark.parametrize(("track", "word"), [((), "[]"), (("crashing", "toy"), "[crashing,toy]")])
def test_a_folds_process_has_the_loggers_of_this_call(faces, tmp_path, monkeypatch, track, word):
    """config.yaml keeps those of the first call, for a free key never replaces it."""
    install(monkeypatch)
    asked: list[list[str]] = []
    monkeypatch.setattr(subprocess, "Popen", lambda words, **_: asked.append(words))
    config = tiny(faces, tmp_path)
    start_fold(replace(config, run=replace(config.run, track=track)), tmp_path, 0, "cpu", 1)
    assert f"--run.track={word}" in asked[0]


def test_failed_folds_are_named_with_their_logs(faces, tmp_path, monkeypatch):
    started = []

    def fails(config, folder, fold, device, threads):
        started.append((fold, device))
        return subprocess.Popen([sys.executable, "-c", f"raise SystemExit({3 if fold == 1 else 0})"])

    monkeypatch.setattr("agecls.cross_validation.start_fold", fails)
    monkeypatch.setattr("agecls.cross_validation.choose_precision", lambda device, precision: None)
    config = replace(tiny(faces, tmp_path / "run"), devices=("cpu", "cuda:1"))
    with pytest.raises(
        CrlError, match=r"(?s)folds \[1\] failed; see .*fold1.log.*--run.resume auto"
    ) as error:
        cross_validate(TASK, config)
    assert error.value.exit_code == 3
    assert sorted(fold for fold, _ in started) == [0, 1, 2, 3, 4]
    assert {device for _, device in started} == {"cpu", "cuda:1"}


def test_a_device_that_is_not_there_is_refused_before_any_fold(faces, tmp_path, monkeypatch):
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    config = replace(tiny(faces, tmp_path / "run"), devices=("cpu", "cuda:1"))
    with pytest.raises(ResourceError, match="cuda:1"):
        cross_validate(TASK, config)
    assert not (tmp_path / "run" / "fold0").exists()


def test_processes_still_running_are_asked_to_leave():
    process = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)"])
    with pytest.raises(RuntimeError), stopping({0: ("cpu", process)}):
        raise RuntimeError
    assert process.returncode == -signal.SIGTERM


def test_a_fold_started_elsewhere_goes_on_where_the_folder_lies_now(faces, tmp_path, monkeypatch):
    seen, parents, gpus = [], [], []

    def started(command, *, env, **_):
        seen.append(command)
        parents.append(env["CRL_PARENT"])
        gpus.append((env["CUDA_VISIBLE_DEVICES"], env.get("CRL_OWN_GPU")))

    monkeypatch.setattr("agecls.cross_validation.subprocess.Popen", started)
    config = resumed(tiny(faces, tmp_path))
    config = replace(config, run=replace(config.run, allow_change=("train.lr", "loss")))
    start_fold(config, tmp_path, 2, "cuda:1", 4)
    assert {f"--run.dir={tmp_path}", "--folds=2", "--device=cuda:1", "--report=false"} <= set(seen[0])
    assert "--run.allow_change=train.lr,loss" in seen[0]
    assert gpus == [("1", "cuda:1")]
    assert parents == [str(os.getpid())]  # whose end ends the fold too


@pytest.mark.alone
@pytest.mark.exhaustive
def test_sigterm_reaches_every_fold_and_the_run_can_go_on(faces, tmp_path):
    folder = tmp_path / "run"
    config = tiny(faces, folder)
    config = replace(config, train=replace(config.train, epochs=1000))
    command = [sys.executable, "-m", "agecls", "cv", *words(config), "--devices=cpu,cpu"]
    with (tmp_path / "log").open("w") as log:
        process = subprocess.Popen(command, stdout=log, stderr=log, env={**os.environ})
    checkpoints = [folder / f"fold{fold}" / "checkpoints" / "last.ckpt" for fold in (0, 1)]
    deadline = time.monotonic() + 240
    while not all(file.exists() for file in checkpoints) and time.monotonic() < deadline:
        assert process.poll() is None, (tmp_path / "log").read_text()
        time.sleep(0.02)
    assert all(file.exists() for file in checkpoints), (tmp_path / "log").read_text()
    process.send_signal(signal.SIGTERM)
    assert process.wait(timeout=60) == 130, (tmp_path / "log").read_text()
    assert "--run.resume auto" in (tmp_path / "log").read_text()
    for fold in (0, 1):
        assert "is saved" in (folder / f"fold{fold}.log").read_text()
