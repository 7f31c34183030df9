"""The check of an exported file: passes what agrees, and refuses every way of being wrong."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from onnx import helper, numpy_helper
from torch import Tensor

from apps.export.parity import check_accuracy, check_parity
from finetune.cli.console import reset
from finetune.errors import ModelFileError, UsageError
from tests.apps.random_nets import random_pictures
from tests.apps.tiny_onnx import GROUPS, expected_probs, tiny_model, weights, write_tiny

REAL = random_pictures(20, 32)


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
    with pytest.raises(UsageError, match="16 real pictures or more, got 15"):
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
    assert "20 test images: float32 names 16 right (80.00 %)" in capsys.readouterr().out
    right = int((expected_probs(REAL, seed=1).argmax(1) == target).sum())
    drop = 80 - 5 * right
    assert drop > 0
    with pytest.raises(ModelFileError, match=f"a loss of {drop}.00 percentage points, allowed are 1 "):
        check_accuracy(exact, other, [REAL], target, max_drop=1)
    assert check_accuracy(exact, other, [REAL], target, max_drop=drop)["drop_points"] == drop
