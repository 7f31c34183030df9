"""A fine-grained run as a file: facts, card, its other weights, boxes, and the trained answers again."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from agecls.config import AgeDataConfig
from apps.config import EvaluateOnnxConfig, ExplainConfig, ExportConfig
from apps.evaluate.evaluate_onnx import evaluate_onnx
from apps.explain import CUT_NOTE, explain_pictures
from apps.export.images import RunPictures
from apps.export.run import export_run
from apps.runtime.session import OnnxClassifier
from finegrained.task import TASK
from finetune.cli.console import reset
from finetune.errors import ModelFileError, UsageError
from finetune.experiments.records.predictions import Predictions
from finetune.experiments.result import Result
from finetune.images.boxes import cut
from finetune.images.decode import decode_image
from finetune.images.preprocess import preprocess
from finetune.training.learner import load_classifier
from tests.finegrained.tiny_birds import birds, run_whole, tiny, trained

Export = dict[str, Any]


@pytest.fixture(scope="module")
def boxed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished run on birds cut to their boxes, with a margin; tests leave it as it is."""
    folder = tmp_path_factory.mktemp("fine")
    config = tiny(
        birds(folder / "birds", classes=6, per_class=10), folder / "run", crop="box", box_margin=0.1
    )
    run_whole(trained(config, epochs=2))
    reset()
    return folder / "run"


@pytest.fixture(scope="module")
def file(boxed: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The run's selected weights as an .onnx file."""
    (one,) = export_run(boxed, ExportConfig(out=str(tmp_path_factory.mktemp("out"))))["exports"]
    reset()
    return Path(one["file"])


def copied(run: Path, folder: Path, **changes: Any) -> Path:
    """Return a copy of a run whose record is changed."""
    shutil.copytree(run, folder)
    record = json.loads((run / "run.json").read_text())
    (folder / "run.json").write_text(json.dumps(record | changes))
    return folder


def again(run: Path, **changes: Any) -> EvaluateOnnxConfig:
    return EvaluateOnnxConfig(run=str(run), device="cpu", **changes)


def test_the_file_says_what_it_is(boxed: Path, file: Path):
    facts, record = OnnxClassifier(file, device="cpu").facts, json.loads((boxed / "run.json").read_text())
    assert (facts.title, facts.task, facts.ordered, facts.crop) == ("run", "category", False, None)
    assert file.parent.name == "model"
    assert list(facts.class_names) == record["class_names"]
    assert (facts.data["fold"], facts.data["folds"]) == (None, [])
    assert (facts.data["picture_crop"], facts.data["box_margin"]) == ("box", 0.1)
    assert (facts.data["weights"], facts.data["manifest"]) == (record["selected"], record["manifest"])
    assert "face_crop" not in facts.data
    assert facts.metrics["top1"] == pytest.approx(record["scores"]["top1"])
    assert (facts.architecture["head"], facts.training["epochs"]) == ("linear", 2)


def test_the_card_tells_of_boxes_and_of_every_category(boxed: Path, file: Path):
    text = (file.parent / "README.md").read_text(encoding="utf-8")
    assert "cut to the object's box**, with 10 % of its sides added" in text
    assert "cut to their boxes (margin 0.1)" in text
    assert "correct category (top-1)" in text
    for name in json.loads((boxed / "run.json").read_text())["class_names"]:
        assert name.replace("_", r"\_") in text
    for word in ("age", "face", "people"):
        assert f" {word} " not in text


def test_pictures_are_cut_as_in_training(boxed: Path):
    pictures = RunPictures.open(boxed)
    train, test = pictures.rows(-1)
    assert set(pictures.manifest["part"][train].tolist()) == {"train"}
    assert len(test) == len(Result.load(boxed, TASK.form).predictions)
    manifest, row = pictures.manifest, int(test[0])
    corners = np.array([manifest[name][row] for name in ("x1", "y1", "x2", "y2")])
    grow = 0.1 * (corners[2:] - corners[:2])
    box = np.concatenate([corners[:2] - grow, corners[2:] + grow])
    _, spec, _ = load_classifier(boxed / "model.safetensors")
    whole = decode_image(manifest.file(row))
    wanted = preprocess(cut(whole, box), spec)
    np.testing.assert_array_equal(pictures.load(test[:1], spec)[0], wanted)
    assert not np.array_equal(wanted, preprocess(whole, spec))


def test_a_record_of_whole_pictures_does_not_repeat_a_run_on_boxes(boxed: Path, tmp_path: Path):
    other = copied(boxed, tmp_path / "whole", crop={"kind": "image", "margin": 0.0})
    with pytest.raises(ModelFileError, match="does not repeat what its run predicted"):
        export_run(other, ExportConfig(out=str(tmp_path / "out")))
    assert not (tmp_path / "out").exists()


def test_the_trained_answers_are_repeated(boxed: Path, file: Path, tmp_path: Path):
    found = evaluate_onnx([file], again(boxed, out=str(tmp_path)))
    own = Result.load(boxed, TASK.form).predictions
    assert found["models"][0]["fold"] is None
    line = found["pooled"]["fp32"]
    assert (line["n"], line["same_answer"]) == (len(own), len(own))
    assert line["right_onnx"] == line["right_trained"] == int(own.correct.sum())
    assert line["largest_difference"] < 1e-3
    assert line["top1"] == pytest.approx(100 * own.correct.mean())
    assert 0 <= line["top1"] <= line["top5"] <= 100
    written = Predictions.read(tmp_path / "predictions.parquet", own.class_names)
    np.testing.assert_allclose(written.probs, own.probs, atol=1e-3)


def test_the_same_data_named_as_a_folder_scores_the_same(boxed: Path, file: Path):
    root = json.loads((boxed / "run.json").read_text())["data_root"]
    found = evaluate_onnx([file], EvaluateOnnxConfig(data=AgeDataConfig(root=root), device="cpu"))
    own = Result.load(boxed, TASK.form)
    assert found["n"] == len(own.predictions)
    assert found["top1"] == pytest.approx(own.run["scores"]["top1"])
    assert found["nll"] == pytest.approx(own.run["scores"]["nll"], rel=1e-3)


def test_the_weights_that_were_not_selected_can_be_named(
    boxed: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    (other,) = boxed.glob("model-*.safetensors")
    (one,) = export_run(other, ExportConfig(out=str(tmp_path)))["exports"]
    kind = other.stem.removeprefix("model-")
    made = Path(one["file"])
    assert (one["title"], made.relative_to(tmp_path).as_posix()) == (
        f"run {kind}",
        f"model-{kind}/run-{kind}.onnx",
    )
    assert OnnxClassifier(made, device="cpu").facts.metrics == {}
    assert "These weights on any test image" in (made.parent / "README.md").read_text(encoding="utf-8")
    with pytest.raises(ModelFileError, match="another choice of weights"):
        evaluate_onnx([made], again(boxed))
    with pytest.raises(UsageError, match=rf"there is no .*mine\.safetensors; .* holds .*{other.name}"):
        export_run(boxed / "mine.safetensors", ExportConfig())


def test_what_a_file_cannot_show_is_told(boxed: Path, file: Path, tmp_path: Path):
    twice = copied(boxed, tmp_path / "cam", test_crops="cam")
    (one,) = export_run(twice, ExportConfig(out=str(tmp_path / "out")))["exports"]
    assert OnnxClassifier(one["file"], device="cpu").facts.test_crops == "center"
    text = (Path(one["file"]).parent / "README.md").read_text(encoding="utf-8")
    assert "**This file shows the centre alone**" in text
    with pytest.raises(UsageError, match=r"tested with cam crops.*give --data\.root"):
        evaluate_onnx([file], again(twice))


def test_options_of_faces_are_refused(boxed: Path, tmp_path: Path):
    for options in ({"face_crop": "plain"}, {"face_margin": 0.2}, {"detector": "yunet.onnx"}):
        with pytest.raises(UsageError, match="images show no faces"):
            export_run(boxed, ExportConfig(out=str(tmp_path), **options))
    other = copied(boxed, tmp_path / "strange", kind="something")
    with pytest.raises(
        UsageError, match=r"kind 'something' cannot be exported; can be: age_fold, age_cv, fi"
    ):
        export_run(other, ExportConfig(out=str(tmp_path)))


def test_explanations_say_that_pictures_must_be_cut(
    boxed: Path, file: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    pictures = RunPictures.open(boxed)
    words = [str(pictures.manifest.file(0))]
    for number, model in enumerate((boxed, file)):
        capsys.readouterr()
        found = explain_pictures(model, words, ExplainConfig(out=str(tmp_path / str(number)), device="cpu"))
        assert CUT_NOTE in capsys.readouterr().out
        assert Path(found["pictures"][0]["file"]).is_file()
