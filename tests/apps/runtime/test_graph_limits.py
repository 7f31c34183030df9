"""Graphs of a few kilobytes that would fill the memory, run for ever, or answer at random: one of each."""

from __future__ import annotations

import time
from collections.abc import Callable

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

import apps.runtime.graph_limits
from apps.runtime.graph_limits import OPERATORS, check_graph
from finetune.errors import ModelFileError
from tests.apps.tiny_onnx import tiny_model


def model(*nodes: onnx.NodeProto, **constants: object) -> onnx.ModelProto:
    """The tiny model with further nodes behind it."""
    made = tiny_model()
    made.graph.node.extend(nodes)
    made.graph.initializer.extend(
        numpy_helper.from_array(np.asarray(value), name) for name, value in constants.items()
    )
    return made


def node(operator: str, *names: str, **attributes: object) -> onnx.NodeProto:
    """A node that gives "more"."""
    return helper.make_node(operator, list(names), ["more"], **attributes)


def inner() -> onnx.GraphProto:
    return helper.make_graph([helper.make_node("Identity", ["top"], ["c"])], "inner", [], [])


def sparse() -> onnx.SparseTensorProto:
    values, places = np.ones(1, "f4"), np.zeros(1, "i8")
    return helper.make_sparse_tensor(
        numpy_helper.from_array(values, "v"), numpy_helper.from_array(places, "p"), [10**12]
    )


def sparse_weights() -> onnx.ModelProto:
    made = tiny_model()
    made.graph.sparse_initializer.append(sparse())
    return made


def empty_weights(*dims: int) -> onnx.ModelProto:
    made = tiny_model()
    made.graph.initializer.append(TensorProto(name="huge", data_type=TensorProto.FLOAT, dims=dims))
    return made


FORBIDDEN = ("Loop", "If", "Scan", "SequenceConstruct", "SequenceMap", "Optional", "RandomNormal")
FORBIDDEN += ("RandomUniformLike", "Multinomial", "Bernoulli", "StringNormalizer", "StringConcat")
FORBIDDEN += ("RegexFullMatch", "TfIdfVectorizer", "ImageDecoder", "NonZero", "Dropout", "Surprise")
BIG = np.array([50_000, 40_000])
REFUSED: dict[str, tuple[Callable[[], onnx.ModelProto], str]] = {
    "constant": (lambda: model(node("ConstantOfShape", "shape"), shape=BIG), "8 GB for the value 'more'"),
    "expanded": (lambda: model(node("Expand", "top", "shape"), shape=BIG), "8 GB for the value 'more'"),
    "tiled": (lambda: model(node("Tile", "bias", "times"), times=np.array([10**9])), "32 GB for"),
    "counted": (
        lambda: model(node("Range", "a", "b", "c"), a=0, b=10**10, c=1),
        "80 GB for the value 'more'",
    ),
    "outer product": (
        lambda: model(node("Mul", "x", "y"), x=np.ones((20_000, 1), "f4"), y=np.ones((1, 20_000), "f4")),
        "1.6 GB for the value 'more'",
    ),
    "enlarged": (
        lambda: model(node("Resize", "planes", "", "scales"), scales=np.array([1, 1, 900, 900], "f4")),
        "GB for the value 'more'",
    ),
    "padded": (
        lambda: model(node("Pad", "planes", "by"), by=np.array([0, 0, 0, 0, 0, 0, 10**4, 10**4])),
        "1.21 GB for the value 'more'",
    ),
    "sparse weights": (sparse_weights, "sparse tensors"),
    "sparse constant": (lambda: model(node("Constant", sparse_value=sparse())), "sparse tensors"),
    "weights that are not there": (lambda: empty_weights(10**6, 10**6), "4e\\+03 GB for the value 'huge'"),
    "weights below nothing": (lambda: empty_weights(-(10**6), 5), "'huge' of a size below 0"),
    "a graph in an operator": (lambda: model(node("Relu", "probs", body=inner())), "carries a graph inside"),
    "size by the pixels": (
        lambda: model(
            helper.make_node("ReduceMax", ["images"], ["most"], keepdims=0),
            helper.make_node("Cast", ["most"], ["count"], to=TensorProto.INT64),
            node("Range", "zero", "count", "one"),
            zero=0,
            one=1,
        ),
        "'Range' gives \\('more'\\) cannot be known",
    ),
}


@pytest.mark.parametrize("operator", FORBIDDEN)
def test_operators_that_are_not_run(operator: str):
    assert operator not in OPERATORS
    with pytest.raises(ModelFileError, match=f"uses the operator '{operator}', which is not run"):
        check_graph(model(node(operator)))


@pytest.mark.parametrize("name", REFUSED)
def test_graphs_that_would_fill_the_memory(name: str):
    build, reason = REFUSED[name]
    with pytest.raises(ModelFileError, match=reason):
        check_graph(build())


def test_what_grows_faster_than_the_batch_is_refused():
    """Every number of an image times every other: 0.04 GB for one image, 155 GB for 64."""
    made = model(
        helper.make_node("Reshape", ["pixels", "one column"], ["column"]),
        helper.make_node("Transpose", ["column"], ["row"], perm=[1, 0]),
        node("Mul", "column", "row"),
    )
    made.graph.initializer.append(numpy_helper.from_array(np.array([-1, 1]), "one column"))
    apps.runtime.graph_limits._check_costs(made, 1)
    check_graph(tiny_model())
    with pytest.raises(ModelFileError, match="to answer for 64 images"):
        check_graph(made)


def test_values_that_are_large_together_only():
    nodes = [helper.make_node("ConstantOfShape", ["shape"], [f"more {number}"]) for number in range(9)]
    with pytest.raises(ModelFileError, match=r"more than 8\.1 GB in all"):
        check_graph(model(*nodes, shape=np.array([30_000, 7_500])))
    check_graph(model(*nodes[:8], shape=np.array([30_000, 7_500])))


def test_counting_the_pictures_of_a_batch_is_allowed():
    """As torch writes it for ConvNeXt."""
    check_graph(
        model(
            helper.make_node("Shape", ["images"], ["side"], start=0, end=1),
            helper.make_node("Squeeze", ["side"], ["count"]),
            helper.make_node("Shape", ["images"], ["sides"]),
            helper.make_node("Gather", ["sides", "zero"], ["first"]),
            helper.make_node("Range", ["zero", "first", "one"], ["numbers"]),
            node("Range", "zero", "count", "one"),
            zero=0,
            one=1,
        )
    )


def test_what_fine_grained_heads_need_is_allowed():
    wanted = "DFT TopK GatherND ScatterElements ScatterND CumSum Trilu LayerNormalization Einsum MatMul Pad"
    wanted += " InstanceNormalization GroupNormalization Resize QuantizeLinear DequantizeLinear GridSample"
    assert set(wanted.split()) <= OPERATORS


@pytest.mark.alone
def test_the_check_takes_no_time_with_many_weights():
    made = model(weights=np.zeros((5_000, 5_000), "f4"))
    start = time.monotonic()
    check_graph(made)
    assert time.monotonic() - start < 0.5
