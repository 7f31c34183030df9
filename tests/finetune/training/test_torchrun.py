"""Two processes under torchrun learn and answer as one does, and stop and resume together."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from finetune.training.optimization.distributed import World
from finetune.training.predict import predict
from tests.finetune.quick import metrics, train
from tests.finetune.two_processes import KEPT, LONG, NORMED, PLAIN, odd_task

pytestmark = [pytest.mark.exhaustive, pytest.mark.usefixtures("one_thread")]
ROOT = Path(__file__).resolve().parents[3]


@pytest.fixture(scope="module")
def folder(pictures: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder in which two processes did everything."""
    folder = tmp_path_factory.mktemp("together")
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2"]
    command += ["-m", "tests.finetune.two_processes", str(pictures), str(folder)]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return folder


@pytest.fixture(scope="module")
def results(folder: Path) -> list[dict[str, Any]]:
    """What each of the two saw."""
    return [json.loads((folder / f"result{rank}.json").read_text()) for rank in range(2)]


def test_two_processes_learn_what_one_learns(folder: Path, pictures: Path, tmp_path: Path):
    alone = train(odd_task(pictures), tmp_path, PLAIN).model.state_dict()
    together = torch.load(folder / "plain.pt", weights_only=True)
    assert max(float((alone[name] - together[name]).abs().max()) for name in alone) < 1e-6
    for one, two in zip(metrics(tmp_path), metrics(folder / "plain"), strict=True):
        assert one == pytest.approx(two, abs=1e-6)


def test_two_processes_share_the_features_of_a_frozen_backbone(
    results: list[dict[str, Any]], folder: Path, pictures: Path, tmp_path: Path
):
    task = odd_task(pictures)
    task = replace(task, train=task.train[:41])
    uncached = replace(KEPT, train=replace(KEPT.train, frozen_views=0))
    alone = train(task, tmp_path, uncached).model.state_dict()
    together = torch.load(folder / "kept.pt", weights_only=True)
    assert max(float((alone[name] - together[name]).abs().max()) for name in alone) < 1e-5
    assert len({state for result in results for state in result["kept"]["states"]}) == 1
    for one, two in zip(metrics(tmp_path), metrics(folder / "kept"), strict=True):
        assert one == pytest.approx(two, abs=1e-5)


def test_each_row_is_counted_once_also_where_a_process_has_none(
    results: list[dict[str, Any]], folder: Path, pictures: Path
):
    task = odd_task(pictures)
    alone = predict(train(task, folder / "plain", PLAIN).learner, task, task.val, PLAIN)
    for result in results:
        assert result["plain"]["index"] == task.val.tolist()
        assert result["plain"]["one"] == task.val[:1].tolist()
        np.testing.assert_allclose(result["plain"]["probs"], alone["probs"], atol=1e-6)


def test_totals_are_added_up_over_the_processes(results: list[dict[str, Any]]):
    assert [result["means"] for result in results] == [{"train_loss": 0.5, "train_accuracy": 0.5}] * 2


def test_both_processes_answer_with_the_model_that_is_saved(
    results: list[dict[str, Any]], folder: Path, pictures: Path
):
    first, second = (result["normed"] for result in results)
    assert len({*first["states"], *second["states"]}) == 1
    assert len({*first["best"], *second["best"]}) == 1
    task = odd_task(pictures)
    alone = predict(train(task, folder / "normed", NORMED).learner, task, task.val, NORMED)["probs"]
    np.testing.assert_allclose(first["probs"], alone, atol=1e-6)
    np.testing.assert_allclose(first["seen"][-1], alone, atol=1e-6)


def test_a_signal_to_one_process_stops_both_and_they_resume_exactly(
    results: list[dict[str, Any]], folder: Path
):
    for result in results:
        stopped = result["stopped"]
        assert "step 10 of epoch 1 is saved" in stopped["places"][0]
        assert "torchrun --nproc_per_node 2" in stopped["places"][0]
        assert stopped["resumed"] == stopped["whole"]
    assert metrics(folder / "cut") == metrics(folder / "whole")


def test_resuming_with_another_number_of_processes_says_that_exactness_is_lost(
    folder: Path, pictures: Path, capsys: pytest.CaptureFixture[str]
):
    train(odd_task(pictures), folder / "whole", LONG, world=World())
    assert "1 processes instead of 2: the resumed run is statistically equivalent, no longer bit-exact" in (
        capsys.readouterr().out
    )
