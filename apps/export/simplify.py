"""The exporter's graph made fit for every runtime: known sizes, sums that do not depend on threads."""

from __future__ import annotations

import ast
from collections.abc import Mapping

import numpy as np
import onnx
from onnx import helper, numpy_helper
from onnx.reference import ReferenceEvaluator

from finetune.errors import ModelFileError

# Nodes of a head other than the linear one carry this before their name: conversions leave them in float32.
HEAD_MARK = "head/"
SCOPES = "pkg.torch.onnx.name_scopes"  # where the exporter notes which modules a node came from
SIZES = ("Add", "Concat", "Gather", "Max", "Min", "Mul", "Reshape", "Squeeze", "Sub", "Unsqueeze")
SMALL = 1024  # numbers: what gives a size is shorter

Dims = tuple[int | None, ...]


def tidy(model: onnx.ModelProto, head_module: str) -> None:
    """Mark the head's nodes, sum one after the other, and put down the sizes that are known, in place.

    Args:
        model: as torch's exporter made it, its notes included.
        head_module: name of the module inside which a node belongs to the head.

    Raises ModelFileError for a sum that cannot be put another way.
    """
    mark_head(model, head_module)
    sum_in_order(model)
    fold_sizes(model)


def mark_head(model: onnx.ModelProto, head_module: str) -> None:
    """Put HEAD_MARK before the name of every node that a module of this name made."""
    for node in model.graph.node:
        notes = {item.key: item.value for item in node.metadata_props}
        scopes = ast.literal_eval(notes.get(SCOPES, "[]"))
        if any(scope.rpartition(".")[2] == head_module for scope in scopes):
            node.name = f"{HEAD_MARK}{node.name}"


def sum_in_order(model: onnx.ModelProto) -> None:
    """Replace every ScatterND that adds (multiplies, ...) by a ScatterElements that does the same.

    ONNX Runtime (1.31) shares a ScatterND out among its threads without a lock, so that of two values for one
    place one may be lost: of 262,144 values summed into 256 places on two threads, 6 runs of 200 were wrong.
    It goes through a ScatterElements in one thread. `torch.Tensor.index_add` becomes the first.

    Raises ModelFileError where the places lie along several axes: only one axis has another form.
    """
    sizes = _dims(model.graph)
    nodes = list(model.graph.node)
    del model.graph.node[:]
    for node in nodes:
        kind = next((item.s.decode() for item in node.attribute if item.name == "reduction"), "none")
        if node.op_type != "ScatterND" or kind == "none":
            model.graph.node.append(node)
            continue
        if sizes[node.input[1]][1:] != (1,):
            raise ModelFileError(
                f"the model sums values into places along several axes at once ({node.name}), which ONNX "
                "Runtime does wrongly in several threads; write it with index_add or scatter_add"
            )
        model.graph.node.extend(_in_order(node, kind, len(sizes[node.output[0]]), model.graph))


def _in_order(node: onnx.NodeProto, kind: str, rank: int, graph: onnx.GraphProto) -> list[onnx.NodeProto]:
    data, places, values = node.input
    name = node.output[0]
    column, short, size, wide = (f"{name}_{part}" for part in ("column", "short", "size", "places"))
    shape = np.array([-1] + [1] * (rank - 1), np.int64)
    graph.initializer.append(numpy_helper.from_array(shape, f"{name}_shape"))
    return [
        helper.make_node("Reshape", [places, f"{name}_shape"], [column], f"{node.name}_column"),
        # There is a place for every value: four bytes each instead of eight.
        helper.make_node("Cast", [column], [short], f"{node.name}_short", to=onnx.TensorProto.INT32),
        helper.make_node("Shape", [values], [size], f"{node.name}_size"),
        helper.make_node("Expand", [short, size], [wide], f"{node.name}_places"),
        helper.make_node("ScatterElements", [data, wide, values], [name], node.name, axis=0, reduction=kind),
    ]


def fold_sizes(model: onnx.ModelProto) -> None:
    """Replace what only gives sizes that do not depend on the batch by their numbers, in place.

    The exporter asks for them again and again (of `torch.diagonal` for one), through operators that shape
    inference does not follow, so that nobody could say before a run what memory the graph takes.
    """
    graph = model.graph
    sizes = _dims(graph)
    known = {
        item.name: numpy_helper.to_array(item)
        for item in graph.initializer
        if item.data_type == onnx.TensorProto.INT64 and int(np.prod(item.dims)) <= SMALL
    }
    shapes: dict[str, Dims] = {}
    kept = []
    for node in graph.node:
        if node.op_type == "Shape":
            span = {item.name: item.i for item in node.attribute}
            dims = sizes.get(node.input[0])
            if dims is not None:
                shapes[node.output[0]] = dims[span.get("start", 0) : span.get("end")]
        value = _told(node, shapes, known)
        if value is None:
            kept.append(node)
        else:
            known[node.output[0]] = value
            graph.initializer.append(numpy_helper.from_array(value, node.output[0]))
    del graph.node[:]
    graph.node.extend(kept)
    _drop_unread(graph)


def _told(
    node: onnx.NodeProto, shapes: Mapping[str, Dims], known: Mapping[str, np.ndarray]
) -> np.ndarray | None:
    """Return what a node gives where that follows from known sizes alone."""
    if node.op_type == "Shape":
        return _numbers(shapes.get(node.output[0]))
    first = node.input[0] if node.input else ""
    if node.op_type == "Gather" and first in shapes and node.input[1] in known:
        wanted = known[node.input[1]]
        found = _numbers(tuple(shapes[first][place] for place in wanted.ravel().tolist()))
        return None if found is None else found.reshape(wanted.shape)
    if node.op_type not in SIZES or not all(name in known for name in node.input):
        return None
    (value,) = ReferenceEvaluator(node).run(None, {name: known[name] for name in node.input})
    value = np.asarray(value)
    return value if value.dtype == np.int64 and value.size <= SMALL else None


def _numbers(dims: Dims | None) -> np.ndarray | None:
    if dims is None or None in dims:
        return None
    return np.array(dims, np.int64)


def _dims(graph: onnx.GraphProto) -> dict[str, Dims]:
    """Return the sides of every value that the graph gives, None for a side that may vary."""
    found: dict[str, Dims] = {item.name: tuple(item.dims) for item in graph.initializer}
    for item in (*graph.input, *graph.value_info, *graph.output):
        if item.type.tensor_type.HasField("shape"):
            dims = item.type.tensor_type.shape.dim
            found[item.name] = tuple(dim.dim_value if dim.HasField("dim_value") else None for dim in dims)
    return found


def _drop_unread(graph: onnx.GraphProto) -> None:
    """Remove the nodes and weights whose values nobody reads any more."""
    read = {item.name for item in graph.output}
    kept = []
    for node in reversed(graph.node):
        if read & set(node.output):
            kept.append(node)
            read |= set(node.input)
    weights = [item for item in graph.initializer if item.name in read]
    del graph.node[:], graph.initializer[:]
    graph.node.extend(reversed(kept))
    graph.initializer.extend(weights)
