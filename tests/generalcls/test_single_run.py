from __future__ import annotations

import json

import numpy as np
import pytest
import torch

from finetune.errors import ModelFileError, UsageError
from finetune.runs.lock import FolderLock
from generalcls.commands import main
from generalcls.config import GeneralDataConfig, GeneralRunOneConfig
from generalcls.data.datasets import GeneralData, read_general_data
from generalcls.networks.registry import Network
from generalcls.parallel.device_data import ResidentImages, Scaling
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
    assert [row["epoch"] for row in rows] == [0, 1]
    assert (folder / "pictures" / "error_curve.png").is_file()
    page = (folder / "report.md").read_text()
    for part in ("CRL (alpha 1, beta 1)", "## Most confused", "Always guessing", "Command:", "fingerprint"):
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
