"""Sizes that are known, sums that several threads cannot spoil, and the head's nodes by name."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper
from onnx.reference import ReferenceEvaluator

from apps.export.simplify import HEAD_MARK, SCOPES, fold_sizes, mark_head, sum_in_order
from finetune.errors import ModelFileError

VALUES, PLACES = 30, 4


def summing(indices: np.ndarray, *, rank: int = 2, reduction: str = "add") -> onnx.ModelProto:
    """Return a graph that sums values (VALUES, batch[, 3]) into PLACES, as the exporter writes index_add."""
    sides = ["batch", 3][: rank - 1]
    tensor = lambda name, kind, dims: helper.make_tensor_value_info(name, kind, dims)  # noqa: E731
    options = {"reduction": reduction} if reduction else {}
    graph = helper.make_graph(
        [helper.make_node("ScatterND", ["empty", "places", "values"], ["sums"], "scatter", **options)],
        "sums",
        [
            tensor("values", TensorProto.FLOAT, [VALUES, *sides]),
            tensor("empty", TensorProto.FLOAT, [PLACES, *sides]),
        ],
        [tensor("sums", TensorProto.FLOAT, [PLACES, *sides])],
        [numpy_helper.from_array(indices.astype(np.int64), "places")],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10)


@pytest.mark.parametrize("rank", [2, 3])
@pytest.mark.parametrize("reduction", ["add", "max"])
def test_a_sum_is_the_same_one_after_the_other(rank: int, reduction: str):
    generator = np.random.default_rng(0)
    model = summing(generator.integers(0, PLACES, (VALUES, 1)), rank=rank, reduction=reduction)
    shape = (5, 3)[: rank - 1]
    shown = {
        "values": generator.normal(size=(VALUES, *shape)).astype(np.float32),
        "empty": generator.normal(size=(PLACES, *shape)).astype(np.float32),
    }
    (wanted,) = ReferenceEvaluator(model).run(None, shown)
    sum_in_order(model)
    kinds = [node.op_type for node in model.graph.node]
    assert kinds == ["Reshape", "Cast", "Shape", "Expand", "ScatterElements"]
    onnx.checker.check_model(model, full_check=True)
    (found,) = ReferenceEvaluator(model).run(None, shown)
    np.testing.assert_allclose(found, wanted, rtol=1e-5)
    assert not np.allclose(wanted, shown["empty"])


def test_writing_without_a_sum_stays_as_it_is():
    model = summing(np.arange(VALUES)[:, None] % PLACES, reduction="")
    sum_in_order(model)
    assert [node.op_type for node in model.graph.node] == ["ScatterND"]


def test_a_sum_along_several_axes_is_refused():
    with pytest.raises(ModelFileError, match=r"several axes at once \(scatter\)"):
        sum_in_order(summing(np.zeros((VALUES, 2))))


def sizes_graph() -> onnx.ModelProto:
    """Return a graph that makes a square of ones, as wide as a matrix, by asking for the matrix's shape."""
    constant = lambda name, value: numpy_helper.from_array(np.array(value, np.int64), name)  # noqa: E731
    nodes = [
        helper.make_node("Shape", ["matrix"], ["shape"]),
        helper.make_node("Gather", ["shape", "second"], ["side"]),
        helper.make_node("Reshape", ["side", "flat"], ["row"]),
        helper.make_node("Concat", ["row", "row"], ["square"], axis=0),
        helper.make_node("ConstantOfShape", ["square"], ["zeros"]),
        helper.make_node("Gather", ["shape", "first"], ["batch_side"]),
        helper.make_node("Cast", ["batch_side"], ["count"], to=TensorProto.FLOAT),
        helper.make_node("Add", ["zeros", "count"], ["out"]),
    ]
    return helper.make_model(
        helper.make_graph(
            nodes,
            "sizes",
            [helper.make_tensor_value_info("matrix", TensorProto.FLOAT, ["batch", 6])],
            [helper.make_tensor_value_info("out", TensorProto.FLOAT, [6, 6])],
            [constant("first", 0), constant("second", 1), constant("flat", [-1])],
        ),
        opset_imports=[helper.make_opsetid("", 18)],
        ir_version=10,
    )


def test_known_sizes_become_numbers_and_the_batch_stays_a_question():
    model = sizes_graph()
    fold_sizes(model)
    kinds = [node.op_type for node in model.graph.node]
    assert kinds == ["Shape", "ConstantOfShape", "Gather", "Cast", "Add"]
    assert {item.name for item in model.graph.initializer} == {"square", "first"}
    onnx.checker.check_model(model, full_check=True)
    (found,) = ReferenceEvaluator(model).run(None, {"matrix": np.zeros((7, 6), np.float32)})
    np.testing.assert_array_equal(found, np.full((6, 6), 7))


def test_the_nodes_of_the_head_are_marked():
    model = sizes_graph()
    for node, scope in zip(
        model.graph.node, ("['', 'core.backbone', 'x']", "['', 'members.0.head_part', 'y']"), strict=False
    ):
        node.name = "node"
        node.metadata_props.add(key=SCOPES, value=scope)
    mark_head(model, "head_part")
    names = [node.name for node in model.graph.node]
    assert names[:3] == ["node", f"{HEAD_MARK}node", ""]
