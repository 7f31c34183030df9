from __future__ import annotations

import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest

from agecls.config import AgeDataConfig
from agecls.data.read import read_data
from agecls.scores import age_scores
from apps.config import EvaluateOnnxConfig
from apps.evaluate.evaluate_onnx import evaluate_onnx
from finetune.errors import DataError, ModelFileError, UsageError
from finetune.experiments.predictions import Predictions
from finetune.images.preprocess import preprocess
from tests.apps.tiny_onnx import GROUPS, SPEC, expected_probs, tiny_facts, write_tiny
from tests.apps.tiny_run import exported, make_run, own, write_pictures

ROOT = Path(__file__).resolve().parents[3]


@pytest.fixture
def run(tmp_path: Path) -> Path:
    return make_run(tmp_path)


@pytest.fixture
def table(tmp_path: Path) -> Path:
    """A table of six pictures of three people that no model was trained on."""
    write_pictures(tmp_path / "others", 6)
    rows = [f"{number:02}.png,{age},p{number % 3}" for number, age in enumerate((1, 5, 9, 17, 30, 70))]
    file = tmp_path / "others" / "faces.csv"
    file.write_text("path,age,subject\n" + "\n".join(rows) + "\n")
    return file


def others(table: Path, **changes: Any) -> EvaluateOnnxConfig:
    return EvaluateOnnxConfig(data=AgeDataConfig(table=str(table)), device="cpu", **changes)


def test_other_data_is_scored_by_each_model_and_by_all(
    tmp_path: Path, table: Path, capsys: pytest.CaptureFixture[str]
):
    files = [
        write_tiny(tmp_path / f"{seed}.onnx", tiny_facts(title=f"m{seed}"), seed=seed) for seed in (0, 1)
    ]
    found = evaluate_onnx(files, others(table, out=str(tmp_path / "out")))
    images = [cv2.imread(str(tmp_path / "others" / f"{n:02}.png"))[:, :, ::-1] for n in range(6)]
    prepared = np.stack([preprocess(np.ascontiguousarray(image), SPEC) for image in images])
    target = np.array([0, 1, 2, 3, 4, 7])
    wanted = [expected_probs(prepared, seed=seed) for seed in (0, 1)]
    for line, probs in zip(found["models"], wanted, strict=True):
        assert line["exact"] == age_scores(probs, target)["exact"]
        assert line["nll"] == pytest.approx(age_scores(probs, target)["nll"], abs=1e-4)
    assert found["nll"] == pytest.approx(age_scores(np.mean(wanted, axis=0), target)["nll"], abs=1e-4)
    assert [cell["images"] for cell in found["slices"]["group"]] == [1, 1, 1, 1, 1, 0, 0, 1]
    printed = capsys.readouterr().out
    assert "average of all" in printed
    assert "by group" in printed
    assert "warning" not in printed
    written = Predictions.read(tmp_path / "out" / "predictions.parquet", GROUPS)
    np.testing.assert_allclose(written.probs, np.mean(wanted, axis=0), atol=1e-6)


@pytest.mark.parametrize("n_folds", [3, 5])
def test_data_that_was_trained_on_is_told(
    tmp_path: Path, table: Path, n_folds: int, capsys: pytest.CaptureFixture[str]
):
    """Three people make three folds; for five no run can have been trained on them, and nothing fails."""
    lines = [f"{number:02}.png,{5 if number < 3 else 30},p{number % 3}" for number in range(6)]
    table.write_text("path,age,subject\n" + "\n".join(lines) + "\n")
    data = AgeDataConfig(table=str(table), n_folds=n_folds)
    trained_on = read_data(replace(data, n_folds=3)).manifest.fingerprint
    file = write_tiny(tmp_path / "known.onnx", tiny_facts(data={"fold": 0, "manifest": trained_on}))
    evaluate_onnx([file], EvaluateOnnxConfig(data=data, device="cpu"))
    told = "known.onnx was trained on images of this very data" in capsys.readouterr().out
    assert told == (n_folds == 3)


def test_other_classes_than_the_data_s(tmp_path: Path, table: Path):
    file = write_tiny(tmp_path / "few.onnx", tiny_facts(class_names=GROUPS[:7]))
    with pytest.raises(
        ModelFileError, match=r"few\.onnx has other classes than the data: 7 .*; the data has 8"
    ):
        evaluate_onnx([file], others(table))
    with pytest.raises(ModelFileError, match="have different classes"):
        evaluate_onnx([write_tiny(tmp_path / "all.onnx"), file], others(table))


def test_what_must_be_named(tmp_path: Path, table: Path):
    file = write_tiny(tmp_path / "tiny.onnx")
    with pytest.raises(UsageError, match="no model"):
        evaluate_onnx([], others(table))
    with pytest.raises(UsageError, match="no pictures: give --run RUN"):
        evaluate_onnx([file], EvaluateOnnxConfig(device="cpu"))
    with pytest.raises(UsageError, match="give one of them"):
        evaluate_onnx([file], others(table, run="somewhere"))
    with pytest.raises(DataError, match="is not the result of a finished run"):
        evaluate_onnx([file], own(tmp_path / "nowhere"))


def test_evaluating_needs_no_torch(run: Path):
    code = (
        "import sys\n"
        "from pathlib import Path\n"
        "from apps.config import EvaluateOnnxConfig\n"
        "from apps.evaluate.evaluate_onnx import evaluate_onnx\n"
        "found = evaluate_onnx([Path(sys.argv[2])], EvaluateOnnxConfig(run=sys.argv[1], device='cpu'))\n"
        "assert found['pooled']['fp32']['n'] == 12\n"
        "sys.exit(', '.join({'torch', 'timm', 'albumentations'} & set(sys.modules)) or 0)\n"
    )
    words = [sys.executable, "-W", "error", "-c", code, str(run), str(exported(run, 0))]
    done = subprocess.run(words, cwd=ROOT, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")
