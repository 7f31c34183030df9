"""What preparing an age run has of its own: folds, ordered scores, and memory that does not grow."""

from __future__ import annotations

import csv
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from agecls.task import TASK
from finetune.errors import UsageError
from finetune.experiments import data_checks, task_data
from finetune.experiments.run import prepare_experiment
from finetune.images import checks
from tests.agecls.tiny_ages import listed_rows, picture, tiny

# Reads a table, opens its images and goes through one fold's batches; prints its own memory at the peak.
WATCHED = """
import re, sys
from pathlib import Path
import numpy as np
from finetune.experiments.run import prepare_experiment
from agecls.task import TASK
from finetune.images.augmentation.policies import build_augment
from finetune.images.batches import EvalBatches, TrainBatches
from tests.agecls.tiny_ages import tiny
from dataclasses import replace

def own_memory():
    return int(re.search(r"RssAnon:\\s+(\\d+)", Path("/proc/self/status").read_text())[1]) / 1024

table, cache = Path(sys.argv[1]), sys.argv[2]
config = tiny(table.parent, Path("unused"), table=str(table), root=None, fold_column="fold")
config = replace(config, model=replace(config.model, image_size=112), run=replace(config.run, cache=cache))
experiment = prepare_experiment(TASK, config)
peak, label = own_memory(), experiment.data.manifest.label
for split in experiment.splits.splits[:2]:
    augment = build_augment("flip", experiment.spec)
    train = TrainBatches(experiment.source, label, split.train, augment=augment, batch_size=32, seed=0)
    test = EvalBatches(experiment.source, label, split.test, experiment.spec, batch_size=32)
    for batches in (train.epoch(0), test):
        for batch in batches:
            peak = max(peak, own_memory())
print(peak)
"""


def test_splits_are_found_by_the_fold_they_test(faces, tmp_path):
    experiment = prepare_experiment(TASK, tiny(faces, tmp_path))
    manifest = experiment.data.manifest
    assert set(manifest["fold"][experiment.split(3).test].tolist()) == {3}
    everything = experiment.split(-1)
    assert everything.train.tolist() == list(range(len(manifest)))
    assert (len(everything.val), len(everything.test)) == (0, 0)
    with pytest.raises(UsageError, match=r"there are folds \[0, 1, 2, 3, 4\]"):
        experiment.split(-2)


def test_equal_files_are_read_once_for_all_folds(faces, tmp_path, monkeypatch):
    read, find = [], checks.equal_files
    for module in (data_checks, task_data):
        monkeypatch.setattr(module, "equal_files", lambda table: read.append(len(table)) or find(table))
    experiment = prepare_experiment(TASK, tiny(faces, tmp_path))
    assert len(experiment.warnings) == 5
    assert read == [len(experiment.data.manifest)]


def test_data_are_checked_once_and_each_fold_keeps_its_own_warnings(faces, tmp_path, monkeypatch, capsys):
    own = tmp_path / "faces"
    shutil.copytree(faces, own)
    manifest = TASK.read(tiny(own, tmp_path).data).manifest
    a, b = (manifest.file(int(np.flatnonzero(manifest["fold"] == fold)[0])) for fold in (0, 3))
    b.write_bytes(a.read_bytes())
    calls, check = [], type(TASK).check
    monkeypatch.setattr(type(TASK), "check", lambda *given: calls.append(1) or check(*given))
    found = prepare_experiment(TASK, tiny(own, tmp_path)).warnings
    assert len(calls) == 1
    assert capsys.readouterr().out.count("in training and test are the same bytes") == 1
    told = [fold for fold in range(5) if any("in training and test" in text for text in found[fold])]
    assert told == [0, 3]
    for fold in (0, 1):
        assert prepare_experiment(TASK, tiny(own, tmp_path), [fold]).warnings == {fold: found[fold]}


def test_validation_scores_by_hand():
    probs = np.eye(4)[[0, 1, 3, 3]]
    scores = TASK.validation_scores(probs, np.array([0, 0, 0, 3]))
    assert scores["accuracy"] == 0.5
    assert scores["one_off"] == 0.75
    assert scores["balanced_accuracy"] == pytest.approx((1 / 3 + 1) / 2)


@pytest.mark.exhaustive
@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="reads Linux's account of memory")
def test_memory_does_not_grow_with_the_number_of_pictures(faces, tmp_path):
    sources = [(faces / picture(row)).read_bytes() for row in listed_rows(faces)[:30]]
    peaks = {}
    for count in (300, 3000):
        folder = tmp_path / str(count)
        (folder / "pictures").mkdir(parents=True)
        with (folder / "t.csv").open("w", newline="") as stream:
            writer = csv.writer(stream)
            writer.writerow(["path", "age", "subject", "fold"])
            for number in range(count):
                picture_bytes = sources[number % 30] + number.to_bytes(4)  # no two files are the same
                (folder / "pictures" / f"{number}.jpg").write_bytes(picture_bytes)
                writer.writerow(
                    [f"pictures/{number}.jpg", 5 + 25 * (number % 2), f"p{number // 5}", number // 5 % 5]
                )
        command = [sys.executable, "-c", WATCHED, str(folder / "t.csv"), str(folder / "cache")]
        found = subprocess.run(command, capture_output=True, text=True, check=False)
        assert found.returncode == 0, found.stderr
        peaks[count] = float(found.stdout.split()[-1])
    pixels = (3000 - 300) * 126 * 126 * 3 / 2**20
    assert pixels > 120
    assert peaks[3000] - peaks[300] < 0.2 * pixels, f"{peaks} MB for {pixels:.0f} MB more pixels"
