"""Files that pass every check of the file alone, and what the session makes of their graphs."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper

import apps.runtime.session
from apps.runtime.session import OnnxClassifier
from finetune.errors import ModelFileError
from tests.apps.tiny_onnx import expected_probs, tiny_facts, tiny_model

PICTURE = np.random.default_rng(0).integers(0, 256, (50, 70, 3), dtype=np.uint8)


def test_a_refused_file_never_reaches_the_runtime(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    def runtime() -> Any:
        raise AssertionError("the runtime was asked")

    monkeypatch.setattr(apps.runtime.session, "load_runtime", runtime)
    proto = tiny_model()
    proto.graph.node.append(helper.make_node("Run", ["probs"], ["c"], domain="evil.ops"))
    file = tmp_path / "evil.onnx"
    file.write_bytes(proto.SerializeToString())
    with pytest.raises(ModelFileError, match=r"evil\.onnx: uses the operator 'Run'"):
        OnnxClassifier(file)


def write(file: Path, proto: onnx.ModelProto) -> Path:
    file.write_bytes(proto.SerializeToString())
    return file


def test_a_graph_that_does_not_hold_together(tmp_path: Path, capfd: pytest.CaptureFixture[str]):
    proto = tiny_model()
    proto.graph.node[3].input[1] = "nowhere"
    with pytest.raises(ModelFileError, match=r"broken\.onnx: the size of what .*'Conv' .* cannot be known"):
        OnnxClassifier(write(tmp_path / "broken.onnx", proto))
    assert capfd.readouterr() == ("", "")


def test_an_unknown_operator(tmp_path: Path, capfd: pytest.CaptureFixture[str]):
    proto = tiny_model()
    proto.graph.node[3].op_type = "Convolve"
    with pytest.raises(ModelFileError, match=r"odd\.onnx: uses the operator 'Convolve'"):
        OnnxClassifier(write(tmp_path / "odd.onnx", proto))
    assert capfd.readouterr() == ("", "")


@pytest.mark.parametrize(
    ("ends", "reason"),
    [
        ("brightest one", r"the size of what its operator 'Slice' gives \('logits'\) cannot be known"),
        ("many", r"answers with shapes \[\(1, 128\), \(1, 128\)\]"),
    ],
)
def test_a_graph_that_lies_about_its_width(
    tmp_path: Path, capfd: pytest.CaptureFixture[str], ends: str, reason: str
):
    """Eight columns are declared; 128 come out, or as many as the brightest pixel says."""
    proto = tiny_model(maps=False)
    del proto.graph.node[1:]
    proto.graph.initializer.append(onnx.numpy_helper.from_array(np.array([0]), "zero"))
    proto.graph.initializer.append(onnx.numpy_helper.from_array(np.array([1]), "one"))
    proto.graph.initializer.append(onnx.numpy_helper.from_array(np.array([128]), "many"))
    nodes = [
        ("Flatten", ["pixels"], ["flat"], {}),
        ("ReduceMax", ["pixels"], ["brightest"], {"keepdims": 0}),
        ("Cast", ["brightest"], ["number"], {"to": TensorProto.INT64}),
        ("Reshape", ["number", "one"], ["brightest one"], {}),
        ("Slice", ["flat", "zero", ends, "one"], ["logits"], {}),
        ("Softmax", ["logits"], ["probs"], {"axis": -1}),
    ]
    proto.graph.node.extend(
        helper.make_node(name, inputs, outputs, **options) for name, inputs, outputs, options in nodes
    )
    with pytest.raises(ModelFileError, match=rf"wide\.onnx: {reason}"):
        OnnxClassifier(write(tmp_path / "wide.onnx", proto), device="cpu")
    assert capfd.readouterr() == ("", "")


def test_probabilities_that_name_another_class_than_the_logits(tmp_path: Path):
    proto = tiny_model(maps=False)
    proto.graph.node[-1].input[0] = "turned"
    proto.graph.node.insert(len(proto.graph.node) - 1, helper.make_node("Neg", ["logits"], ["turned"]))
    with pytest.raises(ModelFileError, match=r"turned\.onnx: its probabilities name another class than its"):
        OnnxClassifier(write(tmp_path / "turned.onnx", proto), device="cpu")


def test_probabilities_that_are_none(tmp_path: Path):
    proto = tiny_model(maps=False)
    proto.graph.node[-1].CopyFrom(helper.make_node("Sigmoid", ["logits"], ["probs"]))
    with pytest.raises(ModelFileError, match=r"sigmoid\.onnx: its probabilities miss a sum of 1 by"):
        OnnxClassifier(write(tmp_path / "sigmoid.onnx", proto))


def test_answers_that_are_not_finite(tmp_path: Path):
    proto = tiny_model(maps=False)
    proto.graph.initializer[0].CopyFrom(onnx.numpy_helper.from_array(np.array(0, "f4"), "top"))
    with pytest.raises(ModelFileError, match=r"zero\.onnx: some of its answers are not finite"):
        OnnxClassifier(write(tmp_path / "zero.onnx", proto))


def test_a_node_that_fails_at_run_time(tmp_path: Path, capfd: pytest.CaptureFixture[str]):
    proto = tiny_model()
    proto.graph.initializer.append(onnx.numpy_helper.from_array(np.array([99]), "place"))
    proto.graph.node.insert(0, helper.make_node("Gather", ["images", "place"], ["gone"], axis=0))
    proto.graph.node.insert(1, helper.make_node("ReduceMax", ["gone"], ["most"], keepdims=0))
    proto.graph.node[2].input[0] = "shown"
    proto.graph.node.insert(2, helper.make_node("Add", ["images", "most"], ["shown"]))
    with pytest.raises(ModelFileError, match=r"far\.onnx: ONNX Runtime cannot "):
        OnnxClassifier(write(tmp_path / "far.onnx", proto))
    assert capfd.readouterr() == ("", "")


def test_a_file_of_two_formats_is_read_as_the_one_that_was_checked(tmp_path: Path):
    """ONNX Runtime takes bytes with ORTM in fifth place for its own format, whose content nobody checked."""
    file = tmp_path / "both.onnx"
    file.write_bytes(b"\x12\x06..ORTM" + tiny_model().SerializeToString())  # field 2: the producer's name
    answer = OnnxClassifier(file, device="cpu").predict([PICTURE])[0]
    np.testing.assert_allclose(answer.probs, expected_probs(answer.crop[None])[0], atol=1e-6)


def test_a_half_precision_model_answers_too(tmp_path: Path):
    """The same class serves every precision: only the graph's inside differs."""
    proto = tiny_model(tiny_facts(precision="fp16"), maps=False)
    proto.graph.node[-1].CopyFrom(helper.make_node("Softmax", ["half"], ["half probs"], axis=-1))
    proto.graph.node.insert(
        len(proto.graph.node) - 1, helper.make_node("Cast", ["logits"], ["half"], to=TensorProto.FLOAT16)
    )
    proto.graph.node.append(helper.make_node("Cast", ["half probs"], ["probs"], to=TensorProto.FLOAT))
    model = OnnxClassifier(write(tmp_path / "half.onnx", proto), device="cpu")
    answer = model.predict([PICTURE])[0]
    np.testing.assert_allclose(answer.probs, expected_probs(answer.crop[None])[0], atol=2e-3)
