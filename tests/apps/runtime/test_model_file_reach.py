"""Models that reach outside their file, or outside ONNX's own operators: a crafted file for each way."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from apps.runtime.model_file import read_model_file
from finetune.errors import ModelFileError
from tests.apps.tiny_onnx import tiny_model


def outside(tensor: TensorProto) -> TensorProto:
    """Mark a tensor as kept in the file /etc/passwd."""
    tensor.ClearField("raw_data")
    tensor.data_location = TensorProto.EXTERNAL
    tensor.external_data.add(key="location", value="/etc/passwd")
    return tensor


def numbers(name: str = "numbers") -> TensorProto:
    return numpy_helper.from_array(np.zeros(2, "f4"), name)


def external_initializer(model: onnx.ModelProto) -> None:
    outside(model.graph.initializer[1])


def external_without_location(model: onnx.ModelProto) -> None:
    model.graph.initializer[1].external_data.add(key="location", value="weights.bin")


def external_attribute(model: onnx.ModelProto) -> None:
    model.graph.node.append(helper.make_node("Constant", [], ["c"], value=outside(numbers())))


def external_attribute_list(model: onnx.ModelProto) -> None:
    node = helper.make_node("Constant", [], ["c"])
    node.attribute.add(name="values", type=onnx.AttributeProto.TENSORS).tensors.append(outside(numbers()))
    model.graph.node.append(node)


def branch(graph: onnx.GraphProto) -> onnx.NodeProto:
    return helper.make_node("If", ["top"], ["c"], then_branch=graph, else_branch=graph)


def external_in_subgraph(model: onnx.ModelProto) -> None:
    node = helper.make_node("Constant", [], ["c"], value=outside(numbers()))
    model.graph.node.append(branch(helper.make_graph([node], "inner", [], [])))


def external_in_subgraph_initializer(model: onnx.ModelProto) -> None:
    node = helper.make_node("Identity", ["numbers"], ["c"])
    inner = branch(helper.make_graph([node], "inner", [], [], [outside(numbers())]))
    model.graph.node.append(branch(helper.make_graph([inner], "outer", [], [])))


def external_sparse(model: onnx.ModelProto) -> None:
    sparse = helper.make_sparse_tensor(
        outside(numbers()), numpy_helper.from_array(np.arange(2), "places"), [9]
    )
    model.graph.sparse_initializer.append(sparse)


def external_sparse_places(model: onnx.ModelProto) -> None:
    places = numpy_helper.from_array(np.arange(2), "places")
    sparse = helper.make_sparse_tensor(numbers(), outside(places), [9])
    model.graph.node.append(helper.make_node("Constant", [], ["c"], sparse_value=sparse))


def custom_node(model: onnx.ModelProto) -> None:
    model.graph.node.append(helper.make_node("Run", ["probs"], ["c"], domain="evil.ops"))


def contrib_node(model: onnx.ModelProto) -> None:
    model.graph.node.append(helper.make_node("FusedMatMul", ["a", "b"], ["c"], domain="com.microsoft"))


def custom_node_in_subgraph(model: onnx.ModelProto) -> None:
    node = helper.make_node("Run", ["probs"], ["c"], domain="evil.ops")
    model.graph.node.append(branch(helper.make_graph([node], "inner", [], [])))


def custom_opset(model: onnx.ModelProto) -> None:
    model.opset_import.append(helper.make_opsetid("evil.ops", 1))


def function(model: onnx.ModelProto) -> None:
    node = helper.make_node("Identity", ["a"], ["b"])
    model.functions.append(helper.make_function("", "Softmax", ["a"], ["b"], [node], model.opset_import))


def training(model: onnx.ModelProto) -> None:
    model.training_info.add()


REACHING: dict[str, tuple[Callable[[onnx.ModelProto], None], str]] = {
    "initializer": (external_initializer, "'kernel' outside the file"),
    "external data without its mark": (external_without_location, "'kernel' outside the file"),
    "attribute": (external_attribute, "'numbers' outside the file"),
    "attribute list": (external_attribute_list, "'numbers' outside the file"),
    "subgraph attribute": (external_in_subgraph, "'numbers' outside the file"),
    "subgraph initializer": (external_in_subgraph_initializer, "'numbers' outside the file"),
    "sparse initializer": (external_sparse, "'numbers' outside the file"),
    "sparse places": (external_sparse_places, "'places' outside the file"),
    "custom node": (custom_node, "'Run' of the domain 'evil.ops'"),
    "contrib node": (contrib_node, "'FusedMatMul' of the domain 'com.microsoft'"),
    "custom node in a subgraph": (custom_node_in_subgraph, "'Run' of the domain 'evil.ops'"),
    "custom operator set": (custom_opset, "operators of the domain 'evil.ops'"),
    "function that replaces an operator": (function, r"functions of its own \(Softmax\)"),
    "training graph": (training, "training graph"),
}


@pytest.mark.parametrize("name", REACHING)
def test_models_that_reach_outside(name: str, tmp_path: Path):
    change, reason = REACHING[name]
    model = tiny_model()
    change(model)
    file = tmp_path / "reaching.onnx"
    file.write_bytes(model.SerializeToString())
    with pytest.raises(ModelFileError, match=rf"reaching\.onnx: .*{reason}"):
        read_model_file(file)
