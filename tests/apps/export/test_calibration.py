"""Exports with a calibration: probs are softmax(logits / T), the rest is as ever, and the card says so."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch

from apps.config import EvaluateOnnxConfig, ExportConfig
from apps.evaluate.reproduce_run import repeat_run
from apps.export.graph import build_graph
from apps.export.run import export_run
from apps.runtime.calibration import answer_sets
from apps.runtime.session import OnnxClassifier
from finetune.errors import DataError, UsageError
from finetune.metrics.calibration import Scaling, softmax
from tests.apps.random_nets import random_net, random_pictures, spec_of

pytestmark = pytest.mark.usefixtures("traced_once")


@pytest.fixture(scope="module")
def calibrated(run: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """A copy of the run whose cross-validation calibrated it, and fold 2 exported so."""
    folder = Path(shutil.copytree(run, tmp_path_factory.mktemp("calibrated") / "run"))
    (made,) = export_run(folder, ExportConfig(fold=2, calibrate=True))["exports"]
    return folder, Path(made["file"])


def test_a_cross_validation_calibrates_itself(run: Path):
    content = json.loads((run / "calibration.json").read_text())
    assert list(content["models"]) == ["0", "1", "2", "3", "4"]
    assert content["measured"]["how"] == "cross-fitted over 5 folds: each is calibrated by the others"


def test_probs_are_the_softmax_of_the_logits_over_the_temperature(calibrated: tuple[Path, Path]):
    folder, file = calibrated
    model = OnnxClassifier(file, device="cpu")
    entry = json.loads((folder / "calibration.json").read_text())["models"]["2"]
    assert model.facts.calibration["T"] == entry["T"] != 1
    found = model.run(random_pictures(9, model.size))
    np.testing.assert_allclose(found.probs, softmax(found.logits / entry["T"]), atol=1e-6)
    assert np.abs(found.probs - softmax(found.logits)).max() > 1e-3
    assert (found.probs.argmax(1) == found.logits.argmax(1)).all()
    sets = answer_sets(model.facts.calibration, found.probs, ordered=True)
    assert sets is not None
    assert sets[np.arange(9), found.probs.argmax(1)].all()


def test_the_file_repeats_its_run_before_the_temperature(calibrated: tuple[Path, Path]):
    folder, file = calibrated
    summary = repeat_run([OnnxClassifier(file, device="cpu")], EvaluateOnnxConfig(run=str(folder)))
    (line,) = summary["models"]
    assert line["right_onnx"] == line["right_trained"]
    assert line["largest_difference"] < 1e-4


def test_the_card_says_what_calibrated_and_gives_both_scores(calibrated: tuple[Path, Path]):
    folder, file = calibrated
    entry = json.loads((folder / "calibration.json").read_text())["models"]["2"]
    text = " ".join((file.parent / "README.md").read_text(encoding="utf-8").split())
    assert "## How sure it is" in text
    assert "Fitted on its own test images (fold 2)" in text
    raw, after = entry["measured"]["raw"]["nll"], entry["measured"]["calibrated"]["nll"]
    assert f"| negative log-likelihood | {raw:.3f} | {after:.3f} |" in text
    assert "Measured cross-fitted over 5 folds" in text
    facts = OnnxClassifier(file, device="cpu").facts
    assert facts.metrics["nll"] == after
    assert facts.metrics["exact"] == entry["measured"]["raw"]["exact"]
    assert str(folder) not in facts.to_json()


def test_the_same_export_again_is_kept_and_one_without_is_another(calibrated: tuple[Path, Path]):
    folder, file = calibrated
    before = file.stat().st_mtime_ns
    export_run(folder, ExportConfig(fold=2, calibrate=True))
    assert file.stat().st_mtime_ns == before
    with pytest.raises(UsageError, match=r"differs from this one in .*metrics.*calibration"):
        export_run(folder, ExportConfig(fold=2))


def test_a_model_without_images_of_its_own_is_refused(calibrated: tuple[Path, Path], tmp_path: Path):
    folder, _ = calibrated
    options = {"calibrate": True, "out": str(tmp_path)}
    with pytest.raises(UsageError, match="has no images that none of its models saw"):
        export_run(folder, ExportConfig(ensemble=True, **options))
    assert not list(tmp_path.iterdir())


def test_weights_that_were_trained_again_are_refused(own_run: Path, tmp_path: Path):
    content = json.loads((own_run / "calibration.json").read_text())
    content["models"]["1"]["weights"] = ["ab" * 32]
    (own_run / "calibration.json").write_text(json.dumps(content))
    with pytest.raises(DataError, match="was trained again after it was calibrated"):
        export_run(own_run, ExportConfig(fold=1, calibrate=True, out=str(tmp_path)))


def test_without_an_entry_the_card_says_not_calibrated(run: Path, tmp_path: Path):
    (made,) = export_run(run, ExportConfig(fold=0, out=str(tmp_path)))["exports"]
    assert OnnxClassifier(made["file"], device="cpu").facts.calibration == {}
    card = (Path(made["file"]).parent / "README.md").read_text(encoding="utf-8")
    assert "**Not calibrated**" in card
    assert "exact accuracy: answered" in card


def test_members_are_tempered_before_their_mean():
    cores = [random_net("test_resnet", 32, seed=seed) for seed in (0, 1)]
    images, spec = torch.from_numpy(random_pictures(5, 32)), spec_of(32)
    scaling = Scaling(np.full(5, 1 / 2.5), np.zeros(5), temperature=2.5)
    with torch.no_grad():
        plain = [build_graph([core], spec, images)(images)[0] for core in cores]
        logits, probs, *_ = build_graph(cores, spec, images, scaling)(images)
    mean = np.mean([softmax(one.numpy() / 2.5) for one in plain], axis=0)
    np.testing.assert_allclose(probs.numpy(), mean, atol=1e-6)
    np.testing.assert_allclose(np.exp(logits.numpy()), mean, atol=1e-6)


def test_a_scale_and_a_shift_per_class():
    core, images, spec = random_net("test_resnet", 32), torch.from_numpy(random_pictures(5, 32)), spec_of(32)
    scaling = Scaling(np.linspace(0.5, 2, 5), np.linspace(-1, 1, 5))
    with torch.no_grad():
        logits, probs, *_ = build_graph([core], spec, images, scaling)(images)
    np.testing.assert_allclose(probs.numpy(), scaling.apply(softmax(logits.numpy())), atol=1e-6)
