"""A checked float32 .onnx graph -> float16, or static int8 with ranges taken from training images.

Only weights and inner activations change: images go in as uint8, logits, probabilities and maps come out as
float32, scaling of the image and softmax stay in float32, and the metadata stays what it was.
"""

from __future__ import annotations

import contextlib
import io
import logging
import tempfile
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path

import numpy as np
import onnx
from onnx import numpy_helper

from apps.export.simplify import HEAD_MARK
from apps.runtime.session import load_runtime
from finetune.errors import ModelFileError

INPUT = "images"
# Quantised are convolutions and matrix products with weights, and what stands between them in a
# convolutional network; the runtime then joins them into chains of integers.
INT8_OPERATORS = ("Conv", "Gemm", "MatMul", "Add", "Relu", "Clip", "MaxPool")
LAYERS = ("Conv", "Gemm", "MatMul", "Einsum")
NO_FLOAT16 = ("Resize", "Range")  # they read sizes and steps as float32
ACTIVATIONS = ("Clip", "Relu", "HardSwish", "HardSigmoid", "Sigmoid", "Mul")


def to_fp16(model: onnx.ModelProto) -> onnx.ModelProto:
    """Return the model with weights and activations in float16, at half the size.

    The last layer and the maps stay in float32 too. Meant for GPUs: on most CPUs the runtime
    widens every value again and gains nothing.

    Raises ModelFileError where a weight is too large for float16 (65504).
    """
    typed = onnx.shape_inference.infer_shapes(model, data_prop=True)
    made = onnx.ModelProto()
    made.CopyFrom(model)
    halves = _Halves(made.graph, _float_values(typed.graph))
    nodes = list(made.graph.node)
    kept = {node.name for node in _float_ends(made.graph)}
    del made.graph.node[:]
    for node in nodes:
        if node.name in kept or node.op_type in NO_FLOAT16:
            halves.keep(node)
        else:
            halves.narrow(node)
    halves.finish()
    return _finished(made, model)


class _Halves:
    """A graph on its way to float16: every value has a float32 name, a float16 name, or both with a cast.

    Args:
        graph: its weights stay, its nodes were taken out and are put back one by one, in order.
        floats: names of all its float32 values.
    """

    def __init__(self, graph: onnx.GraphProto, floats: set[str]) -> None:
        self.graph, self.floats = graph, floats
        self.outputs = {item.name for item in graph.output}
        self.weights = {item.name: item for item in graph.initializer if item.name in floats}
        self.wide = set(self.weights)
        self.half: set[str] = set()

    def keep(self, node: onnx.NodeProto) -> None:
        """Put a node back as it is; what it reads is widened."""
        for name in node.input:
            if name in self.floats and name not in self.wide:
                self._cast(_half(name), name, onnx.TensorProto.FLOAT)
                self.wide.add(name)
        self.graph.node.append(node)
        self.wide |= set(node.output)

    def narrow(self, node: onnx.NodeProto) -> None:
        """Put a node back in float16; what it reads is narrowed."""
        for place, name in enumerate(node.input):
            if name in self.floats:
                if name not in self.half:
                    self._narrow_value(name)
                node.input[place] = _half(name)
        for place, name in enumerate(node.output):
            if name in self.floats:
                node.output[place] = _half(name)
                self.half.add(name)
        for item in node.attribute:
            if item.name == "to" and item.i == onnx.TensorProto.FLOAT:
                item.i = onnx.TensorProto.FLOAT16
            elif item.type == onnx.AttributeProto.TENSOR and item.t.data_type == onnx.TensorProto.FLOAT:
                item.t.CopyFrom(_narrowed(item.t, item.t.name))
        self.graph.node.append(node)

    def finish(self) -> None:
        """Widen the outputs and drop the weights that nobody reads any more."""
        for name in sorted(self.outputs - self.wide):
            self._cast(_half(name), name, onnx.TensorProto.FLOAT)
        read = {name for node in self.graph.node for name in node.input}
        weights = [item for item in self.graph.initializer if item.name in read]
        del self.graph.initializer[:]
        self.graph.initializer.extend(weights)

    def _narrow_value(self, name: str) -> None:
        if name in self.weights:
            self.graph.initializer.append(_narrowed(self.weights[name], _half(name)))
        else:
            self._cast(name, _half(name), onnx.TensorProto.FLOAT16)
        self.half.add(name)

    def _cast(self, source: str, target: str, kind: int) -> None:
        self.graph.node.append(onnx.helper.make_node("Cast", [source], [target], f"cast_{target}", to=kind))


def _half(name: str) -> str:
    return f"{name}_fp16"


def _narrowed(tensor: onnx.TensorProto, name: str) -> onnx.TensorProto:
    values = numpy_helper.to_array(tensor)
    largest, limit = float(np.abs(values).max(initial=0.0)), float(np.finfo(np.float16).max)
    # An infinity, or the smallest float32 that stands for it in a mask, means the same in float16.
    if limit < largest < np.finfo(np.float32).max:
        raise ModelFileError(
            f"the weights {tensor.name} reach {largest:g}, float16 ends at {limit:g}: use fp32"
        )
    return numpy_helper.from_array(np.clip(values, -limit, limit).astype(np.float16), name)


def _float_values(graph: onnx.GraphProto) -> set[str]:
    """Return the names of a graph's float32 values, after type inference."""
    values = [*graph.value_info, *graph.input, *graph.output]
    names = {item.name for item in values if item.type.tensor_type.elem_type == onnx.TensorProto.FLOAT}
    return names | {item.name for item in graph.initializer if item.data_type == onnx.TensorProto.FLOAT}


def to_int8(model: onnx.ModelProto, batches: Iterable[np.ndarray]) -> onnx.ModelProto:
    """Return the model with int8 weights, a scale per channel, and uint8 activations (static QDQ).

    Activations' ranges are the extremes over `batches`, uint8 (n, S, S, 3) each: images of the training
    part. The last layer, which makes the logits, stays in float32, and so does most networks' stem: it costs
    most accuracy there and the runtime gains nothing from it.

    Raises ModelFileError where the model holds nothing to quantise.
    """
    load_runtime()
    from onnxruntime.quantization import CalibrationMethod, QuantFormat, QuantType, quantize_static

    if not any(node.op_type in LAYERS for node in model.graph.node):
        raise ModelFileError("the graph has no convolution or matrix product to quantise; use fp32 or fp16")
    with tempfile.TemporaryDirectory(prefix="crl-int8-") as folder, _silence():
        target, scratch = Path(folder) / "int8.onnx", onnx.ModelProto()
        scratch.CopyFrom(model)  # the quantiser moves the weights of what it is given out of it
        quantize_static(
            scratch,
            target,
            _Calibration(batches),
            quant_format=QuantFormat.QDQ,
            op_types_to_quantize=list(INT8_OPERATORS),
            nodes_to_exclude=sorted(nodes_in_float(model.graph)),
            per_channel=True,
            activation_type=QuantType.QUInt8,
            weight_type=QuantType.QInt8,
            calibrate_method=CalibrationMethod.MinMax,
        )
        made = onnx.load(target)
    return _finished(made, model)


def nodes_in_float(graph: onnx.GraphProto) -> set[str]:
    """Return the names of the nodes that int8 leaves in float32.

    They are the scaling of the image, the stem (see `stem_nodes`), the layers that make logits and maps,
    products of two activations (attention), and in networks with LayerNorm all sums: theirs span far wider
    ranges than 8 bits hold.
    """
    weights = {item.name for item in graph.initializer}
    kept = [*_float_ends(graph), *stem_nodes(graph)]
    kept += [node for node in graph.node if node.op_type in LAYERS and node.input[1] not in weights]
    if any(node.op_type == "LayerNormalization" for node in graph.node):
        kept += [node for node in graph.node if node.op_type == "Add"]
    return {node.name for node in kept}


def _float_ends(graph: onnx.GraphProto) -> list[onnx.NodeProto]:
    """Return what is float32 at every precision: scaling the image, and making logits, probs and maps.

    The latter are all nodes from the outputs back to the layers that make them, and all of a head that does
    more than a linear layer: sums over places, square roots and products of matrices overflow or drown in
    fewer bits.
    """
    made_by = {output: node for node in graph.node for output in node.output}
    found = {node.name: node for node in scaling_nodes(graph)}
    found |= {node.name: node for node in graph.node if node.name.startswith(HEAD_MARK)}
    names = [item.name for item in graph.output]
    while names:
        node = made_by.get(names.pop())
        if node is not None and node.name not in found:
            found[node.name] = node
            names += [] if node.op_type in LAYERS else node.input
    return list(found.values())


def scaling_nodes(graph: onnx.GraphProto) -> list[onnx.NodeProto]:
    """Return the nodes that turn the image into normalised planes: all between the input and a layer."""
    found, known = [], {INPUT}
    for node in graph.node:
        if node.op_type in ("Transpose", "Cast", "Sub", "Mul") and known & set(node.input):
            found.append(node)
            known |= set(node.output)
    return found


def stem_nodes(graph: onnx.GraphProto) -> list[onnx.NodeProto]:
    """Return the convolutions that read the image itself, and the depthwise ones right behind them.

    A stem with a pooling behind it is left out: the runtime would move the rounding in front of the pooling,
    and is slow at pooling integers there (ResNet-18's takes as long as half of its layers).
    """
    scaled = {output for node in scaling_nodes(graph) for output in node.output}
    readers: dict[str, list[onnx.NodeProto]] = {}
    for node in graph.node:
        for name in node.input:
            readers.setdefault(name, []).append(node)
    found = []
    for first in (node for node in graph.node if node.op_type == "Conv" and node.input[0] in scaled):
        behind = _next_layers(first, readers)
        if all(node.op_type == "Conv" for node in behind):
            found += [first, *(node for node in behind if _groups(node) > 1)]
    return found


def _next_layers(node: onnx.NodeProto, readers: Mapping[str, list[onnx.NodeProto]]) -> list[onnx.NodeProto]:
    """Return the layers that read a node's output, past functions that act on single values."""
    found, open_nodes = [], [node]
    while open_nodes:
        for reader in (item for name in open_nodes.pop().output for item in readers.get(name, [])):
            if reader.op_type in ("Conv", "MaxPool"):
                found.append(reader)
            elif reader.op_type in ACTIVATIONS:
                open_nodes.append(reader)
    return found


def _groups(node: onnx.NodeProto) -> int:
    return next((int(item.i) for item in node.attribute if item.name == "group"), 1)


class _Calibration:
    """The batches as onnxruntime's quantiser asks for them: one by one, then None."""

    def __init__(self, batches: Iterable[np.ndarray]) -> None:
        self._batches = iter(batches)

    def get_next(self) -> dict[str, np.ndarray] | None:
        """Return the next batch by the input's name."""
        batch = next(self._batches, None)
        return None if batch is None else {INPUT: batch}


def _finished(made: onnx.ModelProto, model: onnx.ModelProto) -> onnx.ModelProto:
    """Return the converted model with the original's metadata and only the operator sets that it uses."""
    del made.graph.value_info[:]  # types of inner values as they were before; whoever needs them infers them
    used = {node.domain for node in made.graph.node} | {""}
    opsets = [item for item in made.opset_import if item.domain in used]
    del made.opset_import[:]
    made.opset_import.extend(opsets)
    del made.metadata_props[:]
    made.metadata_props.extend(model.metadata_props)
    made.producer_name, made.producer_version = model.producer_name, model.producer_version
    return made


@contextlib.contextmanager
def _silence() -> Iterator[None]:
    """Keep the converters' advice off the screen; what goes wrong is still raised."""
    level = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        with contextlib.redirect_stdout(io.StringIO()):
            yield
    finally:
        logging.disable(level)
