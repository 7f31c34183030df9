from __future__ import annotations

import json
import os
import signal
from pathlib import Path

import numpy as np
import pytest
import torch

from finetune.errors import ModelFileError, UsageError
from finetune.runs.lock import FolderLock
from generalcls import single_run as train
from generalcls.commands import main
from generalcls.config import GeneralDataConfig, GeneralRunOneConfig
from generalcls.data.datasets import GeneralData, read_general_data
from generalcls.networks.registry import Network
from generalcls.parallel.device_data import ResidentImages, Scaling
from generalcls.parallel.engine import Training
from generalcls.parallel.progress import Diary
from generalcls.single_run import load_network, one_arm

WORDS = [
    "train",
    "--data.train_fraction=0.2",
    "--network.name=mlp",
    "--train.epochs=2",
    "--device=cpu",
    "--loss=crl:alpha=1",
]


def answers_of(network: Network, data: GeneralData, scaling: Scaling) -> np.ndarray:
    """Return the classes that a kept network gives the test images, int64 (N,)."""
    images = ResidentImages(data.test, torch.device("cpu"), scaling)
    with torch.no_grad():
        return network(images.scaled(images.take(torch.arange(len(images))))).argmax(1).numpy()


def test_a_run_keeps_a_model_that_gives_its_answers(tmp_path, capsys):
    folder = tmp_path / "run"
    assert main([*WORDS, f"--run.dir={folder}", "--json"]) == 0
    record = json.loads(capsys.readouterr().out)
    assert record["loss"]["alpha"] == 1
    assert record["n"] == 450
    network, scaling, facts = load_network(folder / "model.safetensors")
    data = read_general_data(GeneralDataConfig(train_fraction=0.2))
    preds = answers_of(network, data, scaling)
    assert (preds == np.load(folder / "predictions.npz")["preds"]).all()
    assert 100 * (preds == data.test.target).mean() == pytest.approx(record["scores"]["accuracy"])
    assert facts["class_names"] == [str(digit) for digit in range(10)]
    rows = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    assert [row["epoch"] for row in rows] == [1, 2]
    assert (folder / "pictures" / "error_curve.png").is_file()
    page = (folder / "report.md").read_text()
    for part in (
        "CRL (alpha 1, beta 1)",
        "## Most confused",
        "The majority-class baseline",
        "Command:",
        "fingerprint",
    ):
        assert part in page
    again = (folder / "run.json").stat().st_mtime_ns
    assert main([*WORDS, f"--run.dir={folder}", "--run.resume=auto"]) == 0
    assert (folder / "run.json").stat().st_mtime_ns == again


def test_another_kind_of_model_is_refused(tmp_path):
    with pytest.raises(ModelFileError):
        load_network(tmp_path / "nothing.safetensors")


def test_a_word_is_one_arm():
    assert one_arm("cel").name == "cel"
    assert one_arm("lsoftmax:margin=2").head_options["margin"] == 2
    with pytest.raises(UsageError, match="nllr"):
        one_arm("nlr")


def test_a_finished_run_of_another_loss_is_refused_and_left_alone(tmp_path, capsys):
    folder = tmp_path / "run"
    assert main([*WORDS, f"--run.dir={folder}"]) == 0
    config = (folder / "config.yaml").read_bytes()
    other = [word for word in WORDS if not word.startswith("--loss")]
    again = [*other, "--loss=focal", f"--run.dir={folder}", "--run.resume=auto", "--run.allow_change=loss"]
    assert main(again) == 3
    assert "finished run of crl-alpha1-beta1" in capsys.readouterr().err
    assert (folder / "config.yaml").read_bytes() == config


def test_a_run_that_another_process_writes_is_left_alone(tmp_path, capsys):
    folder = tmp_path / "run"
    folder.mkdir()
    lock = FolderLock(folder)
    assert main([*WORDS, f"--run.dir={folder}"]) == 2
    lock.release()
    assert "being written by" in capsys.readouterr().err


def test_the_kept_network_of_a_margin_head_gives_its_answers(tmp_path):
    folder = tmp_path / "run"
    words = [word for word in WORDS if not word.startswith("--loss")]
    assert main([*words, "--loss=asoftmax", f"--run.dir={folder}"]) == 0
    network, scaling, _ = load_network(folder / "model.safetensors")
    data = read_general_data(GeneralDataConfig(train_fraction=0.2))
    preds = answers_of(network, data, scaling)
    assert (preds == np.load(folder / "predictions.npz")["preds"]).all()


def test_one_loss_and_a_seed_from_nought():
    with pytest.raises(UsageError, match="takes one loss"):
        one_arm("crl,nllr")
    with pytest.raises(UsageError, match="seed must not be negative"):
        GeneralRunOneConfig(seed=-1)


LONGER = [*WORDS, "--train.epochs=4", "--train.evaluate_every=2", "--run.precision=bfloat16"]


def rows_of(folder: Path) -> list[dict]:
    return [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]


def assert_same_run(folder: Path, other: Path) -> None:
    """Hold that two runs have the same curve, answers and weights, bit for bit."""
    assert (folder / "metrics.jsonl").read_bytes() == (other / "metrics.jsonl").read_bytes()
    own, theirs = (np.load(place / "predictions.npz") for place in (folder, other))
    assert all((own[name] == theirs[name]).all() for name in own.files)
    states = [load_network(place / "model.safetensors")[0].state_dict() for place in (folder, other)]
    assert all(torch.equal(value, states[1][name]) for name, value in states[0].items())
    for key in ("gradient_factor", "gradient_ratio", "history", "scores"):
        assert (
            len({str(json.loads((place / "cell.json").read_text())[key]) for place in (folder, other)}) == 1
        )
    assert not (folder / "in_training").exists()


@pytest.fixture(scope="module")
def unbroken(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("runs") / "unbroken"
    assert main([*LONGER, f"--run.dir={folder}"]) == 0
    return folder


def test_a_run_stopped_by_signals_goes_on_to_the_same_curve_and_weights(tmp_path, monkeypatch, unbroken):
    """SIGTERM inside an epoch, in the last step of one, and while the row of one is written."""
    after_step, after_epoch, folder = Diary.after_step, Diary.after_epoch, tmp_path / "run"
    stops = [(0, 1), (0, "last"), (1, "row"), (2, 2)]

    def stop_at(self: Diary, place: object) -> None:
        if stops and stops[0] == (self.training.epoch, place):
            stops.pop(0)
            os.kill(os.getpid(), signal.SIGTERM)

    def step(self: Diary, images: int) -> None:
        after_step(self, images)
        last = self.training.step == self.training.batches.steps_per_epoch
        stop_at(self, "last" if last else self.training.step)

    def epoch(self: Diary) -> None:
        stop_at(self, "row")
        after_epoch(self)
        assert [row["epoch"] for row in rows_of(folder)] == list(range(1, self.training.epoch + 1))

    monkeypatch.setattr(Diary, "after_step", step)
    monkeypatch.setattr(Diary, "after_epoch", epoch)
    codes = [main([*LONGER, f"--run.dir={folder}", "--run.resume=auto"]) for _ in range(5)]
    assert codes == [130, 130, 130, 130, 0]
    assert_same_run(folder, unbroken)
    assert ["test_error" in row for row in rows_of(folder)] == [False, True, False, True]


def test_rows_that_the_checkpoint_does_not_know_are_written_once(tmp_path, monkeypatch, unbroken):
    class KilledError(Exception):
        pass

    def run(self: Training, after_step, after_epoch) -> None:
        def step(images: int) -> None:
            after_step(images)
            if (self.epoch, self.step) == (1, 2):
                self.save()
            if self.epoch == 3:
                raise KilledError

        real_run(self, step, after_epoch)

    real_run, folder = Training.run, tmp_path / "run"
    monkeypatch.setattr(Training, "run", run)
    with pytest.raises(KilledError):
        main([*LONGER, f"--run.dir={folder}"])
    assert len(rows_of(folder)) == 3
    with (folder / "metrics.jsonl").open("a") as file:
        file.write('{"epoch": 3, "trai')  # a row that the kill cut short
    monkeypatch.setattr(Training, "run", real_run)
    assert main([*LONGER, f"--run.dir={folder}", "--run.resume=auto"]) == 0
    assert_same_run(folder, unbroken)


def test_a_kill_before_the_model_is_kept_costs_no_training(tmp_path, monkeypatch, unbroken):
    def killed(*_: object) -> None:
        raise KeyboardInterrupt

    folder, keep_run = tmp_path / "run", train.keep_run
    monkeypatch.setattr(train, "keep_run", killed)
    assert main([*LONGER, f"--run.dir={folder}", "--run.checkpoint_minutes=1e-9"]) == 130
    monkeypatch.setattr(train, "keep_run", keep_run)
    steps: list[int] = []
    after_step = Diary.after_step
    monkeypatch.setattr(Diary, "after_step", lambda self, n: (steps.append(n), after_step(self, n))[1])
    assert main([*LONGER, f"--run.dir={folder}", "--run.resume=auto"]) == 0
    assert steps == []  # the checkpoint of the last step was still there
    assert_same_run(folder, unbroken)


def test_a_recipe_by_name_gives_all_but_what_is_a_studys(tmp_path, capsys):
    small = ["--data.name=digits", "--network.name=mlp", "--train.epochs=1", "--data.train_fraction=0.2"]
    folder = tmp_path / "run"
    words = ["train", "--config", "cifar10_nllr_table1", *small, "--loss=nllr:clamp=1e-3", "--device=cpu"]
    assert main([*words, f"--run.dir={folder}", "--train.augment=none"]) == 0
    out = capsys.readouterr().out
    assert "notice: cifar10_nllr_table1.yaml also holds losses, seeds, which" in out
    assert "NLLR (clamp 0.001), seed 0: 1 epochs" in out
    record = json.loads((folder / "run.json").read_text())
    assert (record["train"]["optimizer"], record["train"]["batch_size"]) == ("rmsprop", 32)
    assert main([*words, f"--run.dir={tmp_path / 'other'}", "--losses=crl"]) == 2
    assert "unknown option --losses (did you mean loss?)" in capsys.readouterr().err
