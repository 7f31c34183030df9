"""Float16 and int8: what changes, what must not, and how close the answers stay."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from onnx import TensorProto, helper, numpy_helper

from apps.export.convert import nodes_in_float, stem_nodes, to_fp16, to_int8
from apps.export.graph import build_graph
from apps.export.run import trace, with_facts
from apps.runtime.metadata import METADATA_KEY, ModelFacts
from apps.runtime.session import OnnxClassifier, Outputs
from finetune.errors import ModelFileError
from tests.apps.random_nets import random_net, random_pictures, spec_of
from tests.apps.tiny_onnx import tiny_facts

SIZE = 48
SEEN = random_pictures(32, SIZE, seed=3)
SHOWN = random_pictures(64, SIZE, seed=4)
FACTS = tiny_facts(class_names=tuple("abcde"), preprocess=spec_of(SIZE))


def traced(backbone: str, members: int = 1) -> onnx.ModelProto:
    """Return a random network as a float32 model with facts."""
    cores = [random_net(backbone, SIZE, seed=seed) for seed in range(members)]
    return with_facts(
        trace(build_graph(cores, spec_of(SIZE), torch.from_numpy(SEEN[:2])), spec_of(SIZE)), FACTS
    )


@pytest.fixture(scope="module")
def residual() -> onnx.ModelProto:
    """A small residual network with class maps."""
    return traced("test_resnet")


@pytest.fixture(scope="module")
def depthwise() -> onnx.ModelProto:
    """A network of depthwise convolutions."""
    return traced("mobilenetv3_small_050")


@pytest.fixture(scope="module")
def attention() -> onnx.ModelProto:
    """A small vision transformer."""
    core = random_net("test_vit", SIZE)
    return with_facts(
        trace(build_graph([core], spec_of(SIZE), torch.from_numpy(SEEN[:2])), spec_of(SIZE)), FACTS
    )


def answers(model: onnx.ModelProto, folder: Path) -> Outputs:
    """Return what the model says of `SHOWN`; the file passes every check for foreign files on the way."""
    onnx.checker.check_model(model, full_check=True)
    file = folder / f"{np.random.default_rng().integers(1 << 40)}.onnx"
    onnx.save(model, str(file))
    return OnnxClassifier(file, device="cpu").run(SHOWN, maps=True)


def apart(first: Outputs, second: Outputs) -> float:
    """Return the largest difference of logits relative to the largest logit."""
    return float(np.abs(first.logits - second.logits).max() / np.abs(first.logits).max())


def batches() -> list[np.ndarray]:
    """Return the calibration images, the last batch smaller."""
    return [SEEN[:20], SEEN[20:]]


FURTHER = pytest.mark.exhaustive  # further combinations


@pytest.mark.parametrize(
    "name", [pytest.param("residual", marks=FURTHER), pytest.param("depthwise", marks=FURTHER), "attention"]
)
def test_float16_is_half_the_size_and_close(name: str, request: pytest.FixtureRequest, tmp_path: Path):
    model = request.getfixturevalue(name)
    half = to_fp16(model)
    exact, found = answers(model, tmp_path), answers(half, tmp_path)
    assert half.ByteSize() < 0.6 * model.ByteSize()
    assert 0 < apart(exact, found) < 0.02
    assert np.abs(found.probs.sum(1) - 1).max() < 1e-6  # softmax stayed in float32
    assert (found.maps is None) == (exact.maps is None)


def test_float16_scales_the_picture_in_float32(residual: onnx.ModelProto):
    half = to_fp16(residual)
    weights = {item.name: numpy_helper.to_array(item) for item in half.graph.initializer}
    constants = [
        weights[name]
        for node in half.graph.node
        for name in node.input
        if node.op_type == "Sub" and name in weights
    ]
    assert [values.dtype for values in constants] == [np.float32]
    np.testing.assert_array_equal(constants[0].ravel(), (torch.tensor(spec_of(SIZE).mean) * 255).numpy())


def test_float16_refuses_weights_it_cannot_hold(residual: onnx.ModelProto):
    model = onnx.ModelProto()
    model.CopyFrom(residual)
    weight = next(item for item in model.graph.initializer if len(item.dims) == 4)
    values = numpy_helper.to_array(weight).copy()
    values.flat[0] = 1e5
    weight.CopyFrom(numpy_helper.from_array(values, weight.name))
    with pytest.raises(ModelFileError, match=r"reach 100000, float16 ends at 65504: use fp32"):
        to_fp16(model)


def test_float16_keeps_masks_of_infinity():
    """A mask of -inf, or of the smallest float32, becomes the smallest float16."""
    shape = ["batch", 4, 4, 3]
    nodes = [
        helper.make_node("Cast", ["images"], ["pixels"], "a", to=TensorProto.FLOAT),
        helper.make_node("Add", ["pixels", "mask"], ["masked"], "b"),
        helper.make_node("ReduceMax", ["masked"], ["logits"], "c", axes=[1, 2], keepdims=0),
    ]
    mask = np.zeros((1, 4, 4, 3), np.float32)
    mask[:, 0] = np.finfo(np.float32).min
    graph = helper.make_graph(
        nodes, "masked",
        [helper.make_tensor_value_info("images", TensorProto.UINT8, shape)],
        [helper.make_tensor_value_info("logits", TensorProto.FLOAT, ["batch", 3])],
        [numpy_helper.from_array(mask, "mask")],
    )  # fmt: skip
    half = to_fp16(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=10))
    weights = [numpy_helper.to_array(item) for item in half.graph.initializer]
    assert [values.min() for values in weights if values.dtype == np.float16] in (
        [],
        [np.finfo(np.float16).min],
    )
    onnx.checker.check_model(half, full_check=True)


@pytest.mark.parametrize(
    "name", [pytest.param("residual", marks=FURTHER), pytest.param("depthwise", marks=FURTHER), "attention"]
)
def test_int8_is_a_quarter_of_the_size_and_near(name: str, request: pytest.FixtureRequest, tmp_path: Path):
    model = request.getfixturevalue(name)
    small = to_int8(model, batches())
    exact, found = answers(model, tmp_path), answers(small, tmp_path)
    assert small.ByteSize() < 0.45 * model.ByteSize()
    assert 0 < apart(exact, found) < 0.25
    assert (exact.logits.argmax(1) == found.logits.argmax(1)).mean() > 0.8


def test_int8_is_static_and_per_channel(residual: onnx.ModelProto):
    small = to_int8(residual, batches())
    kinds = {node.op_type for node in small.graph.node}
    assert {"QuantizeLinear", "DequantizeLinear"} <= kinds
    assert not any("Dynamic" in kind for kind in kinds)
    assert {item.domain for item in small.opset_import} == {""}
    scales = {item.name: item.dims for item in small.graph.initializer}
    weights = [
        (node.input[1], item)
        for node in small.graph.node
        for item in small.graph.initializer
        if node.op_type == "DequantizeLinear" and item.name == node.input[0] and len(item.dims) == 4
    ]
    assert len(weights) >= 5
    assert all(item.data_type == TensorProto.INT8 for _, item in weights)
    assert all(list(scales[scale]) == [item.dims[0]] for scale, item in weights)


@pytest.mark.parametrize("convert", [to_fp16, lambda model: to_int8(model, batches())])
def test_facts_and_signature_survive(residual: onnx.ModelProto, convert):
    before = residual.SerializeToString()
    made = convert(residual)
    assert residual.SerializeToString() == before
    props = {item.key: item.value for item in made.metadata_props}
    assert set(props) == {METADATA_KEY}
    assert ModelFacts.from_json(props[METADATA_KEY]) == FACTS
    assert list(made.graph.input) == list(residual.graph.input)
    assert list(made.graph.output) == list(residual.graph.output)


@pytest.mark.exhaustive  # tracing the network takes five seconds
def test_the_ends_and_a_depthwise_stem_stay_in_float32(depthwise: onnx.ModelProto):
    kinds = {node.name: node.op_type for node in depthwise.graph.node}
    kept = sorted(kinds[name] for name in nodes_in_float(depthwise.graph))
    assert kept == ["Cast", "Conv", "Conv", "Gemm", "Mul", "Softmax", "Sub", "Transpose"]
    first, second = stem_nodes(depthwise.graph)
    groups = [{item.name: item.i for item in node.attribute}.get("group", 1) for node in (first, second)]
    assert groups[0] == 1 < groups[1]


def test_sums_and_products_of_activations_stay_in_float32(attention: onnx.ModelProto):
    sums = {node.name for node in attention.graph.node if node.op_type == "Add"}
    assert sums
    weights = {item.name for item in attention.graph.initializer}
    matrices = [node for node in attention.graph.node if node.op_type == "MatMul"]
    products = {node.name for node in matrices if node.input[1] not in weights}
    assert 0 < len(products) < len(matrices)
    assert sums | products <= nodes_in_float(attention.graph)
    assert not {node.name for node in matrices} <= nodes_in_float(attention.graph)


@pytest.mark.parametrize(("behind", "wanted"), [
    ([("MaxPool", {"kernel_shape": [2, 2]}), ("Conv", {})], []),
    ([("Conv", {})], ["layer 0"]),
    ([("Conv", {"group": 3})], ["layer 0", "layer 2"]),
])  # fmt: skip
def test_a_stem_is_kept_unless_a_pooling_follows(behind: list[tuple[str, dict]], wanted: list[str]):
    layers = [("Conv", {}), ("Relu", {}), *behind]
    nodes = [helper.make_node("Cast", ["images"], ["x0"], "scaling", to=TensorProto.FLOAT)]
    for place, (kind, options) in enumerate(layers):
        weights = ["kernel"] if kind == "Conv" else []
        name = f"layer {place}"
        nodes.append(helper.make_node(kind, [f"x{place}", *weights], [f"x{place + 1}"], name, **options))
    graph = helper.make_graph(nodes, "stem", [helper.make_empty_tensor_value_info("images")], [])
    assert [node.name for node in stem_nodes(graph)] == wanted


@pytest.mark.exhaustive  # further combinations
def test_every_member_of_an_ensemble_has_its_own_stem_and_ends(tmp_path: Path):
    pair = traced("test_resnet", members=2)
    assert len(stem_nodes(pair.graph)) == 2
    kept = {node.name: node.op_type for node in pair.graph.node if node.name in nodes_in_float(pair.graph)}
    assert list(kept.values()).count("Gemm") == 2
    exact, half = answers(pair, tmp_path), answers(to_fp16(pair), tmp_path)
    assert 0 < apart(exact, half) < 0.02
    assert np.abs(half.probs.sum(1) - 1).max() < 1e-6


def test_int8_needs_something_to_quantise():
    graph = helper.make_graph(
        [helper.make_node("Softmax", ["images"], ["probs"], "softmax")], "nothing",
        [helper.make_tensor_value_info("images", TensorProto.FLOAT, ["batch", 3])],
        [helper.make_tensor_value_info("probs", TensorProto.FLOAT, ["batch", 3])],
    )  # fmt: skip
    with pytest.raises(ModelFileError, match="no convolution or matrix product to quantise"):
        to_int8(helper.make_model(graph), [])
