from __future__ import annotations

import csv
import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from agecls.task import TASK
from finetune.errors import DataError, UsageError
from finetune.experiments.result import Result
from finetune.experiments.run import check_run_place, prepare_experiment, run_split
from finetune.images.cache.source import BadImagesError
from finetune.models.bundle import load_bundle
from finetune.runs.folder import read_config
from finetune.training.optimization.distributed import World
from tests.agecls.tiny_ages import listed_rows, picture, tiny

# Reads a table, opens its images and goes through one fold's batches; prints its own memory at the peak.
WATCHED = """
import re, sys
from pathlib import Path
import numpy as np
from finetune.experiments.run import prepare_experiment
from agecls.task import TASK
from finetune.images.augment import build_augment
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


def test_an_experiment_without_a_place_is_refused(faces, tmp_path):
    with pytest.raises(UsageError, match=r"give --run\.dir FOLDER"):
        check_run_place(replace(tiny(faces, tmp_path), run=replace(tiny(faces, tmp_path).run, dir="")))


def test_every_option_of_the_head_is_kept(faces, tmp_path, pair):
    assert prepare_experiment(TASK, tiny(faces, tmp_path)).config.head.options == {"dropout": 0.0}
    for folder in (pair[1], pair[1] / "fold2"):
        assert read_config(folder / "config.yaml")["head"]["options"] == {"dropout": 0.0}
    facts = load_bundle(pair[1] / "fold2" / "model.safetensors")[1]
    assert facts["head"] == {"name": "linear", "taps": [], "options": {"dropout": 0.0}}


def test_splits_are_found_by_the_fold_they_test(faces, tmp_path):
    experiment = prepare_experiment(TASK, tiny(faces, tmp_path))
    manifest = experiment.data.manifest
    assert set(manifest["fold"][experiment.split(3).test].tolist()) == {3}
    everything = experiment.split(-1)
    assert everything.train.tolist() == list(range(len(manifest)))
    assert (len(everything.val), len(everything.test)) == (0, 0)
    with pytest.raises(UsageError, match=r"there are folds \[0, 1, 2, 3, 4\]"):
        experiment.split(-2)


def test_pixels_do_not_depend_on_the_cache(faces, tmp_path):
    config = tiny(faces, tmp_path)
    cached = prepare_experiment(TASK, config).source
    direct = prepare_experiment(TASK, replace(config, run=replace(config.run, cache="none"))).source
    assert len(cached) == len(direct) == len(listed_rows(faces))
    assert all(np.array_equal(cached[row], direct[row]) for row in range(len(cached)))


def test_validation_scores_by_hand():
    probs = np.eye(4)[[0, 1, 3, 3]]
    scores = TASK.validation_scores(probs, np.array([0, 0, 0, 3]))
    assert scores["accuracy"] == 0.5
    assert scores["one_off"] == 0.75
    assert scores["balanced_accuracy"] == pytest.approx((1 / 3 + 1) / 2)


def broken_table(faces: Path, folder: Path) -> Path:
    """Write a table of the faces in which one image is a web page; return it."""
    (folder / "page.jpg").write_text("<html></html>")
    with (folder / "t.csv").open("w", newline="") as stream:
        writer = csv.writer(stream)
        writer.writerow(["path", "age", "subject"])
        writer.writerow(["page.jpg", 5, "nobody"])
        for row in listed_rows(faces):
            (folder / Path(picture(row)).name).write_bytes((faces / picture(row)).read_bytes())
            writer.writerow([Path(picture(row)).name, 5 if int(row["face_id"]) % 2 else 30, row["face_id"]])
    return folder / "t.csv"


@pytest.mark.parametrize("cache", ["none", "cache"])
def test_an_unreadable_picture_stops_the_run_or_is_left_out_and_recorded(faces, tmp_path, cache):
    table = broken_table(faces, tmp_path)
    config = tiny(faces, tmp_path / "run", table=str(table), root=None)
    place = "none" if cache == "none" else str(tmp_path / "cache")
    config = replace(config, run=replace(config.run, cache=place))
    with pytest.raises(BadImagesError, match=r"(?s)1 of \d+ .*page.jpg.*--data.skip_bad true"):
        prepare_experiment(TASK, config)
    assert issubclass(BadImagesError, DataError)
    skipping = replace(config, data=replace(config.data, skip_bad=True))
    experiment = prepare_experiment(TASK, skipping)
    run_split(experiment, experiment.split(0), tmp_path / "run", World())
    record = Result.load(tmp_path / "run", TASK.form).run
    assert [Path(file).name for file in record["counts"]["bad_images"]] == ["page.jpg"]
    assert record["n"] + record["n_train"] == len(listed_rows(faces))


def test_a_record_tells_what_is_needed_to_judge_a_run(pair):
    record = json.loads((pair[1] / "fold2" / "run.json").read_text())
    assert {"command", "versions", "minutes", "preprocess", "counts", "precision", "processes"} <= set(record)
    loss = record["loss"]
    assert (loss["name"], loss["alpha"], loss["beta"]) == ("crl", 1.5, 1.0), "defaults are told too"
    assert record["device"]["asked"] == record["device"]["used"] == "cpu"
    assert record["pretraining"]["kind"] == "none"
    assert (record["protocol"], record["policy"], record["test_crops"]) == ("fixed", "core8", "center")


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
