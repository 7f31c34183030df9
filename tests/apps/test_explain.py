from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
import pytest

from apps.config import ExplainConfig
from apps.explain import CUT_NOTE, checkpoint_of, explain_pictures, exported_note, load_explainer
from apps.predict.views import safe_name
from finetune.cli import console
from finetune.errors import DataError, UsageError
from finetune.figures.evidence_figure import FOOT, MARGIN
from finetune.images.streams.guard import DecodeProcesses
from finetune.models.bundle import save_bundle
from finetune.models.classifier import build_classifier
from tests.apps.tiny_onnx import GROUPS, SPEC, expected_probs, tiny_facts, write_tiny


@pytest.fixture
def pictures(tmp_path: Path) -> Path:
    folder = tmp_path / "pictures"
    folder.mkdir()
    for number in range(2):
        pixels = np.random.default_rng(number).integers(0, 256, (40, 40, 3), dtype=np.uint8)
        cv2.imwrite(str(folder / f"{number}.png"), pixels)
    return folder


def trained(file: Path) -> Path:
    core = build_classifier("test_resnet", "linear", len(GROUPS), weights="none", image_size=32)
    model = {"backbone": "test_resnet"}
    facts = {"class_names": list(GROUPS), "preprocess": SPEC.to_dict(), "model": model}
    file.parent.mkdir(parents=True, exist_ok=True)
    save_bundle(file, core.state_dict(), {**facts, "head": {"name": "linear", "dropout": 0.0}})
    return file


def test_an_exported_model_is_explained_by_its_maps(pictures: Path, tmp_path: Path):
    model = write_tiny(tmp_path / "tiny.onnx")
    told = explain_pictures(model, [str(pictures)], ExplainConfig(out=str(tmp_path / "out"), device="cpu"))
    assert [Path(row["path"]).name for row in told["pictures"]] == ["0.png", "1.png"]
    for row in told["pictures"]:  # a figure that is sent on says what it shows
        assert Path(row["file"]).stem.endswith(f"-{safe_name(row['class'])}-{row['probability']:.3f}")
    assert told["method"] == ["class activation map: what each place adds to the class's score"]
    drawn = cv2.imread(told["pictures"][0]["file"])
    bottom = len(drawn) - FOOT  # the crop as it was seen, eight times as large
    enlarged = drawn[bottom - 8 * 32 : bottom, MARGIN : MARGIN + 8 * 32]
    seen = cv2.cvtColor(np.ascontiguousarray(enlarged[::8, ::8]), cv2.COLOR_BGR2RGB)
    probs = expected_probs(seen[None])[0]
    assert told["pictures"][0]["class"] == GROUPS[probs.argmax()]
    assert told["pictures"][0]["probability"] == pytest.approx(probs.max(), abs=1e-5)


@pytest.mark.parametrize(
    ("facts", "note"),
    [
        ({"crop": None}, ""),
        ({}, "the model expects one cropped face an image; crl predict --faces --explain finds faces"),
        (
            {"crop": None, "card": {"data": {"kind": "drawn"}}, "data": {"picture_crop": "box"}},
            "not for real faces: the model learned from synthetic faces alone; " + CUT_NOTE,
        ),
    ],
)
def test_it_says_what_images_a_model_is_for(facts: dict[str, object], note: str):
    assert exported_note(tiny_facts(**facts)) == note


def test_a_checkpoint_is_explained_by_its_gradients_for_the_class_asked(pictures: Path, tmp_path: Path):
    file = trained(tmp_path / "run" / "model.safetensors")
    config = ExplainConfig(out=str(tmp_path / "out"), class_name="60+")
    told = explain_pictures(file, [str(pictures / "0.png")], config)
    assert (told["method"], told["pictures"][0]["class"]) == (["Grad-CAM"], "60+")
    assert Path(told["pictures"][0]["file"]).is_file()
    assert load_explainer(file, config).name == "run"
    assert load_explainer(trained(tmp_path / "cv" / "fold2" / "model.safetensors"), config).name == "cv/fold2"
    assert load_explainer(write_tiny(tmp_path / "t.onnx"), config).name == "tiny"


def test_a_bad_picture_is_told_after_the_good_ones_are_drawn(pictures: Path, tmp_path: Path):
    (pictures / "2.png").write_bytes(b"<html>")
    model, out = write_tiny(tmp_path / "tiny.onnx"), tmp_path / "out"
    with pytest.raises(DataError, match=r"1 of 4 .*\n.*2\.png: a web page") as refused:
        explain_pictures(
            model,
            [str(pictures), str(pictures / "0.png")],
            ExplainConfig(out=str(out), device="cpu"),
        )
    assert "2.png" in str(refused.value)
    assert len(list(out.iterdir())) == 3


def test_costly_images_are_decoded_in_a_process(tmp_path: Path, decoders: DecodeProcesses):
    cv2.imwrite(str(tmp_path / "a.webp"), np.full((40, 40, 3), 90, np.uint8))
    model, out = write_tiny(tmp_path / "tiny.onnx"), str(tmp_path / "out")
    told = explain_pictures(model, [str(tmp_path / "a.webp")], ExplainConfig(out=out, device="cpu"))
    assert (len(told["pictures"]), len(decoders._idle)) == (1, 1)


def test_the_fold_of_a_cross_validation_must_be_said(tmp_path: Path):
    (tmp_path / "run.json").write_text("{}")
    files = [trained(tmp_path / f"fold{fold}" / "model.safetensors") for fold in (0, 2)]
    assert checkpoint_of(tmp_path, 2) == files[1]
    for fold in (None, 1):
        with pytest.raises(UsageError, match=r"--fold \(0, 2\)"):
            checkpoint_of(tmp_path, fold)


def test_unknown_classes_and_used_folders_are_refused(pictures: Path, tmp_path: Path):
    model = write_tiny(tmp_path / "tiny.onnx")
    with pytest.raises(UsageError, match=r"'old' is no class of this model; it knows 0-2, 4-6"):
        explain_pictures(model, [str(pictures)], ExplainConfig(out=str(tmp_path / "o"), class_name="old"))
    with pytest.raises(UsageError, match="holds something already"):
        explain_pictures(model, [str(pictures)], ExplainConfig(out=str(pictures)))
    console.reset()
