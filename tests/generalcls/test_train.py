from __future__ import annotations

import json

import numpy as np
import pytest
import torch

from finetune.errors import ModelFileError, UsageError
from generalcls.commands import main
from generalcls.config import GeneralDataConfig
from generalcls.data import read_general_data
from generalcls.resident import ResidentImages
from generalcls.train import load_network, one_arm

WORDS = [
    "train",
    "--data.train_fraction=0.2",
    "--network.name=mlp",
    "--train.epochs=2",
    "--device=cpu",
    "--loss=crl:alpha=1",
]


def test_a_run_keeps_a_model_that_gives_its_answers(tmp_path, capsys):
    folder = tmp_path / "run"
    assert main([*WORDS, f"--run.dir={folder}", "--json"]) == 0
    record = json.loads(capsys.readouterr().out)
    assert record["loss"]["alpha"] == 1
    assert record["n"] == 450
    network, scaling, facts = load_network(folder / "model.safetensors")
    data = read_general_data(GeneralDataConfig(train_fraction=0.2))
    images = ResidentImages(data.test, torch.device("cpu"), scaling)
    with torch.no_grad():
        preds = network(images.scaled(images.take(torch.arange(450)))).argmax(1).numpy()
    assert (preds == np.load(folder / "predictions.npz")["preds"]).all()
    assert 100 * (preds == data.test.target).mean() == pytest.approx(record["scores"]["accuracy"])
    assert facts["class_names"] == [str(digit) for digit in range(10)]
    rows = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    assert [row["epoch"] for row in rows] == [0, 1]
    assert (folder / "pictures" / "error_curve.png").is_file()
    page = (folder / "report.md").read_text()
    assert "CRL (alpha 1, beta 1)" in page
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
