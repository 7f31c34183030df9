"""Runs that are killed, at any moment and any number of times, finish with the same weights and metrics."""

from __future__ import annotations

import json
import multiprocessing
import random
import signal
import time
from pathlib import Path
from typing import Any

import pytest

from finetune.training.checkpoint import CheckpointFolder
from tests.finetune.tiny_run import build_task, run_to_hash


@pytest.fixture(scope="module")
def spawner() -> Any:
    """A server that has torch imported already, so that a fresh process costs a fraction of a second."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["tests.finetune.tiny_run"])
    return context


def start(spawner: Any, root: Path, folder: Path, epochs: int, workers: int) -> Any:
    process = spawner.Process(target=run_to_hash, args=(root, folder, epochs, workers))
    process.start()
    return process


def metrics_without_times(folder: Path) -> list[dict[str, Any]]:
    rows = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    return [{name: value for name, value in row.items() if name != "seconds"} for row in rows]


def written(file: Path) -> int:
    """Return when a file was last replaced, in nanoseconds; 0 while there is none."""
    try:
        return file.stat().st_mtime_ns
    except FileNotFoundError:
        return 0


def wait_for_change(process: Any, file: Path, before: int) -> None:
    """Wait until the process has replaced `file`, however slow the machine is today."""
    deadline = time.monotonic() + 120
    while written(file) == before and process.exitcode is None and time.monotonic() < deadline:
        process.join(0.002)


@pytest.mark.exhaustive
@pytest.mark.parametrize(("kills", "workers"), [(3, 0), (6, 1), (20, 2)])
def test_kills_change_neither_weights_nor_metrics(kills: int, workers: int, spawner: Any, tmp_path: Path):
    root, epochs = tmp_path / "pictures", 5 * kills  # a run that outlives its kills
    build_task(root)
    unbroken = start(spawner, root, tmp_path / "unbroken", epochs, workers=0)
    unbroken.join()
    assert unbroken.exitcode == 0

    broken, dice = tmp_path / "broken", random.Random(0)
    checkpoints = CheckpointFolder(broken / "checkpoints")
    positions = set()
    for kill in range(kills):
        before = written(checkpoints.last)
        process = start(spawner, root, broken, epochs, workers)
        if kill % 4:  # every fourth is killed wherever it stands, perhaps before its first step
            wait_for_change(process, checkpoints.last, before)
        process.join(dice.uniform(0, 0.25))
        assert process.exitcode is None, f"the run ended before kill {kill}: make it longer"
        if kill % 3 == 1:  # asked to stop; it may not wait for its loading processes
            process.terminate()
            process.join(60)
            assert process.exitcode in (130, -signal.SIGTERM)  # the latter before it listens
        process.kill()
        process.join()
        if saved := checkpoints.load_latest():
            positions.add((saved[0]["epoch"], saved[0]["step"]))
    last = start(spawner, root, broken, epochs, workers)
    last.join()

    assert last.exitcode == 0
    assert len(positions) > kills // 2
    assert any(step > 0 for _, step in positions)
    assert (broken / "hash").read_text() == (tmp_path / "unbroken" / "hash").read_text()
    assert metrics_without_times(broken) == metrics_without_times(tmp_path / "unbroken")
    assert not list((broken / "checkpoints").glob("*.tmp"))
