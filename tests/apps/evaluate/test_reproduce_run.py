from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import apps.runtime.batching
from agecls.config import AgeDataConfig
from agecls.task import TASK
from apps.evaluate.evaluate_onnx import evaluate_onnx
from finetune.errors import DataError, ModelFileError, UsageError
from finetune.experiments.records.predictions import Predictions
from finetune.experiments.result import Result
from finetune.images.decode import BadImageError
from tests.apps.tiny_onnx import GROUPS
from tests.apps.tiny_run import IMAGES, exported, make_run, own


@pytest.fixture
def run(tmp_path: Path) -> Path:
    return make_run(tmp_path)


def test_the_trained_counts_are_repeated(run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    found = evaluate_onnx([exported(run, 1), exported(run, 0)], own(run, out=str(tmp_path / "out")))
    trained = Result.load(run, TASK.form).predictions
    right = [int(trained.select(trained.fold == fold).correct.sum()) for fold in (0, 1)]
    assert [line["fold"] for line in found["models"]] == [0, 1]
    assert [line["right_trained"] for line in found["models"]] == right
    assert [line["right_onnx"] for line in found["models"]] == right
    assert found["pooled"]["fp32"]["n"] == found["pooled"]["fp32"]["same_answer"] == IMAGES
    assert found["pooled"]["fp32"]["exact"] == pytest.approx(100 * sum(right) / IMAGES)
    assert found["pooled"]["fp32"]["largest_difference"] < 1e-6
    printed = capsys.readouterr().out
    assert "device: asked cpu, using cpu" in printed
    assert re.search(rf"\npooled  fp32 +{IMAGES} +{sum(right)} +{sum(right)} +{IMAGES} ", printed)
    written = Predictions.read(tmp_path / "out" / "predictions.parquet", GROUPS)
    np.testing.assert_array_equal(written.path, trained.path)
    np.testing.assert_allclose(written.probs, trained.probs, atol=1e-6)
    assert json.loads((tmp_path / "out" / "evaluation.json").read_text())["pooled"] == found["pooled"]


def test_each_model_sees_its_own_fold_alone(run: Path, monkeypatch: pytest.MonkeyPatch):
    seen: list[str] = []

    def decode(file: Path) -> np.ndarray:
        seen.append(file.name)
        return np.zeros((40, 40, 3), np.uint8)

    monkeypatch.setattr(apps.runtime.batching, "decode_guarded", decode)
    evaluate_onnx([exported(run, 1, precision="int8")], own(run))
    assert sorted(seen) == [f"{number:02}.png" for number in range(1, IMAGES, 2)]


def test_another_model_s_file_is_refused_by_its_count(
    run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    files = [exported(run, 0), exported(run, 1, seed=99)]
    with pytest.raises(
        ModelFileError, match=r"1 exported models do not repeat .*\n.*1\.onnx: .*\n.*opencv 5.0"
    ):
        evaluate_onnx(files, own(run, out=str(tmp_path / "out")))
    assert "pooled" in capsys.readouterr().out, "the comparison is told before the refusal"
    assert (tmp_path / "out" / "evaluation.json").is_file()


@pytest.mark.parametrize("precision", ["fp16", "int8"])
def test_other_precisions_are_reported(run: Path, tmp_path: Path, precision: str):
    worse = exported(run, 0, seed=99, name="worse", precision=precision)
    found = evaluate_onnx([exported(run, 0), worse], own(run, out=str(tmp_path / "out")))
    assert found["pooled"]["fp32"]["same_answer"] == found["pooled"]["fp32"]["n"] == 12
    assert found["pooled"][precision]["same_answer"] < 12
    assert found["pooled"][precision]["largest_difference"] > 0.1
    assert {file.name for file in (tmp_path / "out").iterdir()} == {
        "predictions.parquet",
        f"predictions-{precision}.parquet",
        "evaluation.json",
    }


def test_the_run_s_crops_are_used(run: Path):
    record = json.loads((run / "run.json").read_text()) | {"test_crops": "ten"}
    (run / "run.json").write_text(json.dumps(record))
    found = evaluate_onnx([exported(run, 0, precision="int8")], own(run))
    assert 1e-6 < found["pooled"]["int8"]["largest_difference"] < 0.2


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"data": {"fold": 0, "manifest": "another"}}, "another table of images"),
        ({"loss": {"name": "crl"}}, "another loss"),
    ],
)
def test_a_model_of_another_run(run: Path, changes: dict[str, Any], told: str):
    with pytest.raises(ModelFileError, match=rf"0\.onnx is not of .*run: {told}"):
        evaluate_onnx([exported(run, 0, **changes)], own(run))


def test_the_choice_of_weights_is_that_of_the_models_own_fold(run: Path):
    record = json.loads((run / "run.json").read_text()) | {"selected": "best"}
    fell_back = "last, for the best were damaged"
    for fold, selected in enumerate(("best", fell_back)):
        (run / f"fold{fold}").mkdir()
        (run / f"fold{fold}" / "run.json").write_text(json.dumps(record | {"selected": selected}))
    (run / "run.json").write_text(json.dumps(record))
    fingerprint = record["manifest"]
    files = [
        exported(run, fold, data={"fold": fold, "manifest": fingerprint, "weights": weights})
        for fold, weights in ((0, "best"), (1, fell_back))
    ]
    assert [line["fold"] for line in evaluate_onnx(files, own(run))["models"]] == [0, 1]
    other = exported(run, 1, data={"fold": 1, "manifest": fingerprint, "weights": "best"})
    with pytest.raises(ModelFileError, match=r"1\.onnx is not of .*run: another choice of weights"):
        evaluate_onnx([other], own(run))


def test_a_model_of_other_classes(run: Path):
    with pytest.raises(ModelFileError, match=r"0\.onnx has other classes than .*run: 8 \(60\+, 48-53"):
        evaluate_onnx([exported(run, 0, class_names=GROUPS[::-1])], own(run))


def test_models_without_test_images(run: Path):
    with pytest.raises(UsageError, match=r"averages models of several folds.*export single folds"):
        evaluate_onnx([exported(run, 0, architecture={"members": 5})], own(run))
    with pytest.raises(UsageError, match="averages models of several folds"):
        evaluate_onnx([exported(run, 0, data={"fold": None})], own(run))
    with pytest.raises(DataError, match="every image was trained on"):
        evaluate_onnx([exported(run, -1)], own(run))
    with pytest.raises(DataError, match=r"\(fold 7\): tested are \[0, 1\]"):
        evaluate_onnx([exported(run, 7)], own(run))


def test_pictures_that_have_moved(run: Path, tmp_path: Path):
    model = exported(run, 0)
    (tmp_path / "images").rename(tmp_path / "elsewhere")
    with pytest.raises(DataError, match=r"(?s)12 of 12 test images are not there:.*--data.root FOLDER"):
        evaluate_onnx([model], own(run))
    found = evaluate_onnx([model], own(run, data=AgeDataConfig(root=str(tmp_path / "elsewhere"))))
    assert found["pooled"]["fp32"]["same_answer"] == 12


def test_a_damaged_picture_stops_the_evaluation(run: Path, tmp_path: Path):
    (tmp_path / "images" / "04.png").write_bytes(b"<html>")
    with pytest.raises(BadImageError, match=r"04\.png: a web page"):
        evaluate_onnx([exported(run, 0)], own(run))


def test_a_run_without_its_table(run: Path):
    (run / "manifest.parquet").unlink()
    with pytest.raises(DataError, match=r"lacks manifest\.parquet"):
        evaluate_onnx([exported(run, 0)], own(run))
