"""The check of an exported file: passes what agrees, and refuses every way of being wrong."""

from __future__ import annotations

import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from onnx import helper, numpy_helper
from torch import Tensor

from agecls.task import TASK
from apps.config import ExportConfig
from apps.export.former import load_members
from apps.export.images import RunPictures
from apps.export.parity import check_accuracy, check_member, check_parity, check_repeats
from apps.export.plan import plan_exports
from apps.export.run import export_run
from finetune.cli.console import reset
from finetune.errors import ModelFileError, UsageError
from finetune.experiments.records.record import RunRecord
from finetune.experiments.result import Result
from finetune.models.bundle import load_bundle, save_bundle
from tests.apps.random_nets import random_pictures
from tests.apps.tiny_onnx import GROUPS, expected_probs, tiny_model, weights, write_tiny

REAL = random_pictures(20, 32)

RECORD = {"manifest": "m", "split": "s", "seed": 0, "backbone": "b"}
OWN = RunRecord.from_dict(RECORD)


class TinyGraph:
    """The hand-written model's arithmetic in torch, as an exported graph would answer."""

    output_names = ("logits", "probs", "cams")

    def __call__(self, images: Tensor) -> tuple[Tensor, ...]:
        matrix, bias = (torch.from_numpy(values) for values in weights(len(GROUPS)))
        planes = images.permute(0, 3, 1, 2).float() / 255
        cams = torch.nn.functional.avg_pool2d(torch.einsum("kc,nchw->nkhw", matrix, planes), 8)
        logits = cams.mean((2, 3)) + bias
        return logits, logits.softmax(1), cams


def changed(file: Path, name: str, change: Any) -> Path:
    """Write the tiny model with one of its constants changed."""
    model = tiny_model()
    for tensor in model.graph.initializer:
        if tensor.name == name:
            tensor.CopyFrom(numpy_helper.from_array(change(numpy_helper.to_array(tensor).copy()), name))
    onnx.save(model, str(file))
    return file


def test_a_faithful_file_passes_and_the_record_tells_how(tmp_path: Path):
    found = check_parity(write_tiny(tmp_path / "a.onnx"), TinyGraph(), REAL)
    assert found["batches"] == [1, 2, 7]
    assert (found["real_images"], found["random_images"]) == (20, 16)
    assert found["same_class_percent"] == {"real": 100, "random": 100}
    assert set(found["max_relative_difference"]) == {"logits", "probs", "cams"}
    assert all(value <= 1e-4 for value in found["max_relative_difference"].values())


@pytest.mark.parametrize(("name", "change"), [
    ("bias", lambda bias: bias + np.float32(0.01)),
    ("kernel", lambda kernel: kernel[:, ::-1].copy()),
    ("top", lambda _: np.float32(256)),
])  # fmt: skip
def test_a_slightly_wrong_file_is_refused(tmp_path: Path, name: str, change: Any):
    file = changed(tmp_path / "a.onnx", name, change)
    with pytest.raises(ModelFileError, match=r"off from the trained model.*Nothing was written"):
        check_parity(file, TinyGraph(), REAL)


def test_other_maps_alone_are_refused(tmp_path: Path):
    model = tiny_model()
    place = next(index for index, node in enumerate(model.graph.node) if node.op_type == "AveragePool")
    model.graph.node[place].output[0] = "averages"
    model.graph.node.insert(place + 1, helper.make_node("Mul", ["averages", "two"], ["cams"]))
    model.graph.initializer.append(numpy_helper.from_array(np.float32(2), "two"))
    onnx.save(model, str(tmp_path / "a.onnx"))
    with pytest.raises(ModelFileError, match="cams differ"):
        check_parity(tmp_path / "a.onnx", TinyGraph(), REAL)


def test_missing_maps_are_refused(tmp_path: Path):
    with pytest.raises(ModelFileError, match="gives logits, probs, the trained model logits, probs, cams"):
        check_parity(write_tiny(tmp_path / "a.onnx", maps=False), TinyGraph(), REAL)


def test_a_batch_axis_that_mixes_pictures_is_refused(tmp_path: Path):
    model = tiny_model()
    pool = next(node for node in model.graph.node if node.op_type == "GlobalAveragePool")
    pool.output[0] = "own"
    extra = [
        helper.make_node("ReduceMean", ["own", "rows"], ["all"], keepdims=1),
        helper.make_node("Add", ["own", "all"], ["pooled"]),
    ]
    place = list(model.graph.node).index(pool) + 1
    for offset, node in enumerate(extra):
        model.graph.node.insert(place + offset, node)
    model.graph.initializer.append(numpy_helper.from_array(np.array([0]), "rows"))
    onnx.save(model, str(tmp_path / "a.onnx"))
    with pytest.raises(ModelFileError, match="off from"):
        check_parity(tmp_path / "a.onnx", TinyGraph(), REAL)


def test_another_class_is_refused_even_within_a_wide_tolerance(tmp_path: Path):
    file = changed(tmp_path / "a.onnx", "kernel", lambda kernel: -kernel)
    with pytest.raises(ModelFileError, match="names another class than the trained model for"):
        check_parity(file, TinyGraph(), REAL, tolerance=10.0)
    found = check_parity(file, TinyGraph(), REAL, tolerance=float("inf"), same_class=0.0)
    assert found["same_class_percent"]["real"] < 100
    assert "tolerance" not in found


def test_fewer_than_sixteen_real_pictures_are_too_few(tmp_path: Path):
    with pytest.raises(UsageError, match="16 real images or more, got 15"):
        check_parity(write_tiny(tmp_path / "a.onnx"), TinyGraph(), REAL[:15])


def test_accuracy_is_counted_over_every_image(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    reset()
    exact, other = write_tiny(tmp_path / "a.onnx"), write_tiny(tmp_path / "b.onnx", seed=1)
    target = expected_probs(REAL).argmax(1)
    target[:4] = (target[:4] + 1) % len(GROUPS)
    same = check_accuracy(exact, exact, [REAL[:7], REAL[7:]], target, max_drop=0)
    assert same == {
        "n": 20, "float32_percent": 80.0, "percent": 80.0, "drop_points": 0.0, "max_drop_points": 0,
        "same_class_percent": 100.0,
    }  # fmt: skip
    assert "20 test images: float32 has 16 correct (80.00 %)" in capsys.readouterr().out
    right = int((expected_probs(REAL, seed=1).argmax(1) == target).sum())
    drop = 80 - 5 * right
    assert drop > 0
    with pytest.raises(ModelFileError, match=f"a loss of {drop}.00 percentage points, allowed are 1 "):
        check_accuracy(exact, other, [REAL], target, max_drop=1)
    assert check_accuracy(exact, other, [REAL], target, max_drop=drop)["drop_points"] == drop


def test_the_weights_of_another_fold_are_refused(own_run: Path, tmp_path: Path):
    shutil.copy(own_run / "fold1" / "model.safetensors", own_run / "fold0" / "model.safetensors")
    for options in ({"fold": 0}, {"ensemble": True}):
        with pytest.raises(ModelFileError, match="holds the model of fold 1, its place is that of fold 0"):
            export_run(own_run, ExportConfig(out=str(tmp_path / "out"), **options))
    with pytest.raises(ModelFileError, match="holds the model of fold 1"):
        export_run(own_run / "fold0", ExportConfig(out=str(tmp_path / "out")))
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("ensemble", [False, True])
def test_other_weights_with_the_facts_of_the_fold_are_refused(own_run: Path, tmp_path: Path, ensemble: bool):
    _, facts = load_bundle(own_run / "fold1" / "model.safetensors")
    state, _ = load_bundle(own_run / "fold0" / "model.safetensors")
    weight = next(name for name in state if name.endswith("classifier.weight"))
    state[weight] = state[weight] + torch.randn(state[weight].shape, generator=torch.manual_seed(0))
    save_bundle(own_run / "fold1" / "model.safetensors", state, facts)
    options: dict[str, Any] = {"ensemble": True} if ensemble else {"fold": 1}
    with pytest.raises(ModelFileError, match=r"fold1.*does not repeat what its run predicted for \d+ of its"):
        export_run(own_run, ExportConfig(out=str(tmp_path / "out"), **options))
    assert not (tmp_path / "out").exists()


def test_every_model_is_compared_on_the_images_of_its_own_fold(own_run: Path):
    from apps.export.graph import build_graph

    pictures = RunPictures.open(own_run)
    (plan,) = plan_exports(own_run, ExportConfig(ensemble=True))
    _, cores, spec = load_members(plan, pictures.record)
    rows = pictures.check_rows(list(plan.folds), 10)
    real = pictures.load(rows, spec)
    graph = build_graph(cores, spec, torch.from_numpy(real[:4]))
    assert check_repeats(own_run, plan, graph, pictures, rows, real) == len(rows) == 10
    several = replace(pictures, record=replace(pictures.record, test_crops="flip"))
    assert check_repeats(own_run, plan, graph, several, rows, real) == 0

    tested = Result.load(own_run, TASK.form).predictions
    probs = tested.probs.copy()
    place = tested.path.tolist().index(pictures.manifest["path"][rows[3]])
    probs[place] = np.roll(probs[place], 1)
    replace(tested, probs=probs).write(own_run / "predictions.parquet")
    with pytest.raises(ModelFileError, match="does not repeat"):
        check_repeats(own_run, plan, graph, pictures, rows, real)


def test_facts_of_another_run_are_refused(tmp_path: Path):
    file = tmp_path / "model.safetensors"
    check_member(file, 2, {**RECORD, "fold": 2}, OWN)
    check_member(file, -1, RECORD, OWN)
    check_member(file, 0, {"fold": 0}, OWN)
    for fold, own, told in ((-1, {"fold": 3}, "model of fold 3, .* no test fold"), (2, {}, "no test fold, ")):
        with pytest.raises(ModelFileError, match=told):
            check_member(file, fold, {**RECORD, **own}, OWN)
    for key, words in (
        ("manifest", "table of images"),
        ("split", "split"),
        ("seed", "seed"),
        ("backbone", "b"),
    ):
        with pytest.raises(ModelFileError, match=f"of another run: its {words}"):
            check_member(file, 0, {**RECORD, "fold": 0, key: "other"}, OWN)
