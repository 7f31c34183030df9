"""`crl export` from end to end: what it writes and tells, and that nothing appears when a check fails."""

from __future__ import annotations

import hashlib
import json
import re
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from onnx import numpy_helper

import apps.export.convert
import apps.export.run
from agecls.task import TASK
from apps.config import FP16_TOLERANCE, ExportConfig
from apps.export.graph import build_graph
from apps.export.images import RunPictures, spread
from apps.export.run import Check, export_run, trace
from apps.runtime.metadata import METADATA_KEY
from apps.runtime.session import OnnxClassifier
from finetune.cli.console import reset
from finetune.errors import DataError, ModelFileError, UsageError
from finetune.experiments.result import Result
from finetune.images.decode import decode_image
from finetune.images.preprocess import preprocess
from finetune.models.classifier import build_classifier
from finetune.training.learner import load_classifier
from tests.apps.export.conftest import trace_once
from tests.apps.random_nets import random_net, random_pictures, spec_of
from tests.apps.tiny_onnx import tiny_facts


@pytest.fixture(scope="module")
def exported(run: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """What the export of fold 2 said of itself."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(apps.export.run, "trace", trace_once)
        made = export_run(run, ExportConfig(fold=2, out=str(tmp_path_factory.mktemp("out"))))
    reset()
    (one,) = made["exports"]
    return one


def files_in(folder: Path) -> list[str]:
    """Return every file and folder below `folder`."""
    return sorted(file.relative_to(folder).as_posix() for file in folder.rglob("*"))


def refused(run: Path, out: Path, kind: type[Exception], match: str, **options: Any) -> None:
    """Expect the export to be refused with nothing written."""
    before = files_in(out)
    with pytest.raises(kind, match=match):
        export_run(run, ExportConfig(out=str(out), **options))
    assert files_in(out) == before


def test_a_fold_becomes_one_file_with_its_card(exported: dict[str, Any]):
    file = Path(exported["file"])
    assert file.parent.name == "fold2"
    assert file.name == "tiny-run-fold-2.onnx"
    assert files_in(file.parent) == ["README.md", "tiny-run-fold-2.onnx"]
    content = file.read_bytes()
    assert (len(content), hashlib.sha256(content).hexdigest()) == (exported["size_bytes"], exported["sha256"])
    assert exported["sha256"] in (file.parent / "README.md").read_text(encoding="utf-8")
    assert max(exported["parity"]["max_relative_difference"].values()) <= 1e-4


def test_the_file_answers_as_the_run_did(run: Path, exported: dict[str, Any]):
    model, result = OnnxClassifier(exported["file"], device="cpu"), Result.load(run, TASK.form)
    own = result.predictions.select(result.predictions.fold == 2)
    assert result.manifest is not None
    found = model.predict([result.manifest.root / path for path in own.path.tolist()])
    probs = np.stack([answer.probs for answer in found])
    np.testing.assert_allclose(probs, own.probs, atol=1e-5)
    assert [answer.class_index for answer in found] == own.preds.tolist()
    assert len(set(own.preds.tolist())) > 1


def test_the_file_says_what_it_is(run: Path, exported: dict[str, Any]):
    facts = OnnxClassifier(exported["file"], device="cpu").facts
    record = json.loads((run / "run.json").read_text())
    assert (facts.title, facts.task, facts.ordered) == ("tiny run fold 2", "age", True)
    assert list(facts.class_names) == record["class_names"]
    assert facts.preprocess.to_dict() == record["preprocess"]
    assert facts.architecture["backbone"] == "test_resnet"
    assert (facts.architecture["head"], facts.architecture["members"]) == ("linear", 1)
    assert (facts.loss["name"], facts.training["seed"], facts.training["epochs"]) == ("cel", 0, 3)
    assert (facts.data["fold"], facts.data["manifest"]) == (2, record["manifest"])
    assert facts.data["split"] == record["split"]
    assert facts.crop is not None
    assert facts.crop["style"] == "aligned"
    assert facts.metrics["n"] == facts.data["n_test"] > 0
    assert facts.parity["batches"] == [1, 2, 7]
    assert facts.parity["real_images"] >= 16
    assert facts.versions["exported_with"]["onnx"] == onnx.__version__


def test_the_file_holds_no_path_of_this_machine(run: Path, exported: dict[str, Any]):
    content = Path(exported["file"]).read_bytes()
    root = str(Path(apps.export.run.__file__).resolve().parents[2])
    for trace_of_here in (str(run.parent), root, str(Path.home()) + "/", "site-packages", ".py", 'File "'):
        assert trace_of_here.encode() not in content, trace_of_here
    model = onnx.load(exported["file"])
    (text,) = [item.value for item in model.metadata_props if item.key == METADATA_KEY]
    assert not re.search(r"(?<![\w.])/(home|root|tmp|work|usr|var|opt|Users|mnt|data)/", text)


@pytest.mark.usefixtures("traced_once")
def test_a_second_export_is_refused_and_overwrite_replaces_it(run: Path, tmp_path: Path):
    options = {"fold": 0, "title": "First", "face_crop": "plain", "face_margin": 0.1}
    export_run(run, ExportConfig(out=str(tmp_path), **options))
    assert files_in(tmp_path) == ["fold0", "fold0/README.md", "fold0/first.onnx"]
    assert OnnxClassifier(tmp_path / "fold0" / "first.onnx", device="cpu").facts.crop["margin"] == 0.1
    told = r"holds a previous export of another name \(first.onnx\): replace it by --overwrite"
    refused(run, tmp_path, UsageError, told, fold=0)
    refused(run, tmp_path, UsageError, told, all=True)
    export_run(run, ExportConfig(out=str(tmp_path), fold=0, overwrite=True))
    assert files_in(tmp_path) == ["fold0", "fold0/README.md", "fold0/tiny-run-fold-0.onnx"]
    (tmp_path / "fold0" / "notes.txt").write_text("mine")
    refused(run, tmp_path, UsageError, r"holds more than an export:\n .*notes.txt", fold=0, overwrite=True)


@pytest.mark.exhaustive  # seven seconds
def test_the_ensemble_averages_the_folds(run: Path, tmp_path: Path):
    made = export_run(run, ExportConfig(out=str(tmp_path), ensemble=True, precision="fp16"))
    (one,) = made["exports"]
    assert (
        Path(one["file"]).relative_to(tmp_path).as_posix() == "ensemble-fp16/tiny-run-ensemble-of-5-fp16.onnx"
    )
    model = OnnxClassifier(one["file"], device="cpu")
    assert (model.facts.architecture["members"], model.facts.data["fold"]) == (5, None)
    assert (model.facts.precision, model.facts.parity["tolerance"]) == ("fp16", FP16_TOLERANCE)
    pictures = random_pictures(6, 32)
    members = []
    for fold in range(5):
        core, spec, _ = load_classifier(run / f"fold{fold}" / "model.safetensors")
        with torch.inference_mode():
            members.append(
                build_graph([core], spec, torch.from_numpy(pictures))(torch.from_numpy(pictures))[1]
            )
    mean = torch.stack(members).mean(0).numpy()
    np.testing.assert_allclose(model.run(pictures).probs, mean, atol=0.01)


@pytest.mark.usefixtures("traced_once")
def test_int8_is_gated_by_accuracy(
    run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    tested = Result.load(run, TASK.form).predictions
    right = [int((tested.correct & (tested.fold == fold)).sum()) for fold in range(5)]
    fold = int(np.argmax(right))
    own = tested.select(tested.fold == fold)
    options = {"fold": fold, "precision": "int8", "max_drop": 100.0, "calibration_images": 16}
    (one,) = export_run(run, ExportConfig(out=str(tmp_path / "one"), **options))["exports"]
    said = capsys.readouterr().out
    assert re.search(
        rf"{len(own)} test images: float32 has {right[fold]} correct .* the smaller file \d+", said
    )
    facts = OnnxClassifier(one["file"], device="cpu").facts
    accuracy = facts.parity["accuracy"]
    assert (accuracy["n"], accuracy["max_drop_points"]) == (len(own), 100)
    assert accuracy["float32_percent"] == round(100 * own.correct.mean(), 2)
    assert (facts.precision, facts.parity["calibration_images"]) == ("int8", 16)
    assert facts.title.endswith("int8")

    rarest = int(np.bincount(own.target, minlength=len(own.class_names)).argmin())
    assert right[fold] > (own.target == rarest).sum()
    broken = lambda model, batches: always(model, rarest, list(batches))  # noqa: E731
    monkeypatch.setattr(apps.export.convert, "to_int8", broken)
    options["max_drop"] = 1.0
    refused(run, tmp_path, ModelFileError, r"a loss of .* Nothing was written", **options)


def always(model: onnx.ModelProto, index: int, batches: list[np.ndarray]) -> onnx.ModelProto:
    """Return a model that names one class whatever it sees."""
    assert sum(map(len, batches)) >= 16
    model = onnx.ModelProto.FromString(model.SerializeToString())
    bias = next(item for item in model.graph.initializer if item.name.endswith("classifier.bias"))
    values = numpy_helper.to_array(bias).copy()
    values[index] += 1e4
    bias.CopyFrom(numpy_helper.from_array(values, bias.name))
    return model


def test_nothing_appears_when_the_graph_is_wrong(run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    def slightly_off(graph: Any, spec: Any) -> onnx.ModelProto:
        model = trace_once(graph, spec)
        weight = next(item for item in model.graph.initializer if len(item.dims) == 4)
        weight.CopyFrom(
            numpy_helper.from_array(numpy_helper.to_array(weight) * np.float32(1.001), weight.name)
        )
        return model

    monkeypatch.setattr(apps.export.run, "trace", slightly_off)
    refused(run, tmp_path, ModelFileError, "off from the trained model", fold=0)

    def invalid(graph: Any, spec: Any) -> onnx.ModelProto:
        model = trace_once(graph, spec)
        model.graph.node[3].op_type = "Convolve"
        return model

    monkeypatch.setattr(apps.export.run, "trace", invalid)
    refused(run, tmp_path, ModelFileError, "no valid ONNX: .*Convolve.*Nothing was written", fold=0)


@pytest.mark.usefixtures("traced_once")
def test_nothing_appears_when_the_written_file_reads_back_otherwise(
    run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    load = onnx.load

    def misread(file: Path) -> onnx.ModelProto:
        model = load(file)
        del model.graph.initializer[0]
        return model

    monkeypatch.setattr(apps.export.run.onnx, "load", misread)
    with pytest.raises(ModelFileError, match="does not read back as it was written"):
        export_run(run, ExportConfig(out=str(tmp_path), fold=0))
    assert [name for name in files_in(tmp_path) if name != "fold0"] == []


def test_pictures_that_moved_are_a_data_error(run: Path, tmp_path: Path):
    shutil.copytree(run, tmp_path / "run")
    record = json.loads((run / "run.json").read_text())
    (tmp_path / "run" / "run.json").write_text(json.dumps(record | {"data_root": str(tmp_path / "gone")}))
    with pytest.raises(DataError, match=r"where there is no folder now.*write their new place as data_root"):
        export_run(tmp_path / "run", ExportConfig(fold=0))
    (tmp_path / "run" / "run.json").write_text(json.dumps(record | {"manifest": "0" * 64}))
    with pytest.raises(DataError, match="is not the table that"):
        export_run(tmp_path / "run", ExportConfig(fold=0))
    assert not (tmp_path / "run" / "export").exists()


@pytest.mark.usefixtures("traced_once")
def test_one_fold_s_own_folder_is_a_run_too(run: Path, tmp_path: Path):
    (one,) = export_run(run / "fold2", ExportConfig(out=str(tmp_path)))["exports"]
    assert Path(one["file"]).relative_to(tmp_path).as_posix() == "model/fold2.onnx"
    assert OnnxClassifier(one["file"], device="cpu").facts.data["fold"] == 2


NETS = [
    ("test_efficientnet", 64),  # depthwise convolutions
    pytest.param("convnext_atto", 64, marks=pytest.mark.exhaustive),
    pytest.param("resnet18", 64, marks=pytest.mark.exhaustive),
    pytest.param("mobilenetv3_small_050", 64, marks=pytest.mark.exhaustive),
    pytest.param("vit_tiny_patch16_224", 64, marks=pytest.mark.exhaustive),
    pytest.param("swin_tiny_patch4_window7_224", 56, marks=pytest.mark.exhaustive),
]


@pytest.mark.parametrize(("backbone", "size"), NETS)
def test_every_family_of_networks_exports_as_it_was_trained(backbone: str, size: int, tmp_path: Path):
    """Random statistics: fresh networks hide errors behind zeros. All batch sizes, real-looking images."""
    core, real = random_net(backbone, size), random_pictures(20, size)
    found = checked(core, spec_of(size), real, tmp_path)
    assert found["same_class_percent"] == {"real": 100, "random": 100}
    assert max(found["max_relative_difference"].values()) <= 1e-4


@pytest.mark.exhaustive
@pytest.mark.real_data
def test_the_pretrained_network_exports_on_real_faces(real_data: Path, tmp_path: Path):
    weights = real_data / "weights" / "tf_efficientnet_lite0_imagenet.pth"
    core = build_classifier("tf_efficientnet_lite0", "linear", 8, weights=weights)
    torch.nn.init.normal_(core.head.classifier.weight)
    spec = core.backbone.preprocess_spec(96)
    faces = sorted((real_data / "fgnet").rglob("*.[jJ][pP][gG]"))
    chosen = [faces[row] for row in spread(np.arange(len(faces)), 16).tolist()]
    real = np.stack([preprocess(decode_image(file), spec) for file in chosen])
    found = checked(core, spec, real, tmp_path)
    assert set(found["max_relative_difference"]) == {"logits", "probs", "cams"}


def checked(core: Any, spec: Any, real: np.ndarray, folder: Path) -> dict[str, Any]:
    """Export a classifier into a scratch folder and return the record of its check."""
    graph = build_graph([core], spec, torch.from_numpy(real[:4]))
    classes = tuple(f"class {index}" for index in range(core.head.classifier.out_features))
    facts = tiny_facts(class_names=classes, preprocess=spec)
    return Check(folder, facts, graph, real).same(trace(graph, spec), "fp32")


def test_pictures_are_those_that_training_saw(run: Path):
    pictures = RunPictures.open(run)
    train, test = pictures.rows(1)
    assert set(pictures.manifest["fold"][test].tolist()) == {1}
    assert set(train.tolist()) | set(test.tolist()) == set(range(len(pictures.manifest)))
    assert not set(pictures.manifest["subject"][train].tolist()) & set(
        pictures.manifest["subject"][test].tolist()
    )
    assert set(pictures.check_rows([1], 10).tolist()) <= set(test.tolist())
    wide = pictures.check_rows([1], len(test) + 5)
    assert set(test.tolist()) < set(wide.tolist())
    assert len(set(wide.tolist())) == len(test) + 5
    every, none = pictures.rows(-1)
    assert (len(every), len(none)) == (len(pictures.manifest), 0)
    assert len(pictures.check_rows([-1], 20)) == 20
    with pytest.raises(DataError, match="none is 9"):
        pictures.rows(9)
    _, spec, _ = load_classifier(run / "fold1" / "model.safetensors")
    loaded = pictures.load(test, spec)
    wanted = preprocess(decode_image(pictures.manifest.file(int(test[-1]))), spec)
    np.testing.assert_array_equal(loaded[-1], wanted)
    assert len(loaded) == len(test)
