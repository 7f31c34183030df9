"""What a model's graph may do, and how much memory and work it may ask for, read before it runs."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto

from apps.runtime.graph_work import Shapes, UnknownWorkError, multiply_adds
from finetune.errors import ModelFileError

# What may be counted out before it runs: no loops, branches, random numbers, texts or lists, and nothing
# whose result's size depends on the pixels.
OPERATORS = frozenset(
    """
    Abs Acos Acosh Add AffineGrid And ArgMax ArgMin Asin Asinh Atan Atanh Attention AveragePool
    BatchNormalization BitShift BitwiseAnd BitwiseNot BitwiseOr BitwiseXor BlackmanWindow Cast
    CastLike Ceil Celu CenterCropPad Clip Col2Im Concat Constant ConstantOfShape Conv ConvInteger
    ConvTranspose Cos Cosh CumProd CumSum DFT DeformConv DepthToSpace DequantizeLinear Det Div
    DynamicQuantizeLinear Einsum Elu Equal Erf Exp Expand EyeLike Flatten Floor Gather
    GatherElements GatherND Gelu Gemm GlobalAveragePool GlobalLpPool GlobalMaxPool Greater
    GreaterOrEqual GridSample GroupNormalization HammingWindow HannWindow HardSigmoid HardSwish
    Hardmax Identity InstanceNormalization IsInf IsNaN LRN LayerNormalization LeakyRelu Less
    LessOrEqual Log LogSoftmax LpNormalization LpPool MatMul MatMulInteger Max MaxPool Mean
    MeanVarianceNormalization Min Mish Mod Mul Neg Not OneHot Or PRelu Pad Pow QLinearConv
    QLinearMatMul QuantizeLinear RMSNormalization Range Reciprocal ReduceL1 ReduceL2 ReduceLogSum
    ReduceLogSumExp ReduceMax ReduceMean ReduceMin ReduceProd ReduceSum ReduceSumSquare Relu Reshape
    Resize RoiAlign Round STFT ScatterElements ScatterND Selu Shape Shrink Sigmoid Sign Sin Sinh
    Size Slice Softmax Softplus Softsign SpaceToDepth Split Sqrt Squeeze Sub Sum Swish Tan Tanh
    ThresholdedRelu Tile TopK Transpose Trilu Unsqueeze Where Xor
    """.split()  # noqa: SIM905 (a column of 150 names helps nobody)
)
LARGEST_VALUE, LARGEST_SUM = 10**9, 8 * 10**9  # bytes, of a batch of one image
MOST_WORK = 10**12  # multiply-adds for an image; Swin-L at 384 px takes a tenth of it
MOST_FOLDED = 10**10  # multiply-adds among constants, which are worked out while the model is loaded
BATCHES = (1, 64)  # the second shows what grows faster than the batch
SMALL = 1024  # numbers: what gives a shape is shorter, and the longer ones need not be copied
BYTES = {TensorProto.DOUBLE: 8, TensorProto.INT64: 8, TensorProto.UINT64: 8, TensorProto.COMPLEX64: 8}
BYTES |= {TensorProto.COMPLEX128: 16, TensorProto.FLOAT16: 2, TensorProto.BFLOAT16: 2}
BYTES |= {TensorProto.INT8: 1, TensorProto.UINT8: 1, TensorProto.BOOL: 1}


def check_graph(model: onnx.ModelProto) -> None:
    """Raise ModelFileError for operators that are not run, and for too much memory or work.

    Every value's size must follow from the graph alone; for each image of a batch no value may take more
    than 1 GB, and all of them together no more than 8 GB. An image may take 10^12 multiply-adds, and what
    follows from constants alone 10^10.
    """
    for node in model.graph.node:
        if node.op_type not in OPERATORS:
            raise ModelFileError(
                f"uses the operator {node.op_type[:80]!r}, which is not run: no classifier's answer needs it"
            )
        if any(item.HasField("g") or item.graphs for item in node.attribute):
            raise ModelFileError(f"carries a graph inside its operator {node.op_type!r}, which is not run")
        if any(item.HasField("sparse_tensor") or item.sparse_tensors for item in node.attribute):
            raise ModelFileError("holds sparse tensors, which are not read")
    if model.graph.sparse_initializer:
        raise ModelFileError("holds sparse tensors, which are not read")
    for tensor in model.graph.initializer:
        if min(tensor.dims, default=0) < 0:
            raise ModelFileError(f"holds the tensor {tensor.name[:80]!r} of a size below 0")
    for batch in BATCHES:
        _check_costs(model, batch)


def _check_costs(model: onnx.ModelProto, batch: int) -> None:
    """Raise ModelFileError where a batch of this many images takes too much memory or work."""
    graph, known = _inferred(model, batch)
    _check_memory(model, graph, known, batch)
    _check_work(model, graph, known, batch)


def _check_work(model: onnx.ModelProto, graph: onnx.GraphProto, known: Mapping[str, Any], batch: int) -> None:
    shapes: Shapes = {tensor.name: list(tensor.dims) for tensor in model.graph.initializer}
    constant = {"", *shapes}
    shapes |= {name: [dim.dim_value for dim in found.shape.dim] for name, found in known.items()}
    inferred = {item.name: item for item in graph.initializer}  # what is told of the input's sides alone
    shapes |= {name: list(tensor.dims) for name, tensor in inferred.items()}
    constant |= set(inferred)
    total = folded = 0
    for node in graph.node:
        try:
            work = multiply_adds(node, shapes)
        except UnknownWorkError as error:
            raise ModelFileError(
                f"the work of its operator {node.op_type!r} cannot be told: {error}"
            ) from None
        total += work
        if constant.issuperset(node.input):
            folded += work
            constant.update(node.output)
        if folded > MOST_FOLDED:
            raise ModelFileError(
                f"asks for too much work while it is loaded: more than {folded:.3g} multiply-adds of "
                f"constants, at most {MOST_FOLDED:.0e}; export it with its constants worked out"
            )
        if total > batch * MOST_WORK:
            pictures = "one image" if batch == 1 else f"{batch} images"
            told = f"more than {total:.3g} multiply-adds to answer for {pictures}"
            raise ModelFileError(f"asks for too much work: {told}; at most {MOST_WORK:.0e} an image are run")


def _check_memory(
    model: onnx.ModelProto, graph: onnx.GraphProto, known: Mapping[str, Any], batch: int
) -> None:
    total = 0
    for name, size in _sizes(model, graph, known):
        total += size
        if size > batch * LARGEST_VALUE or total > batch * LARGEST_SUM:
            least = f"{size / 1e9:.3g} GB for the value {name[:80]!r}"
            told = least if size > batch * LARGEST_VALUE else f"more than {total / 1e9:.3g} GB in all"
            pictures = "one image" if batch == 1 else f"{batch} images"
            raise ModelFileError(f"asks for too much memory: {told}, to answer for {pictures}")


def _inferred(model: onnx.ModelProto, batch: int) -> tuple[onnx.GraphProto, dict[str, Any]]:
    """Return the graph's outline for a batch of this many images, and the type of each of its values."""
    try:
        graph = onnx.shape_inference.infer_shapes(_outline(model, batch), data_prop=True).graph
    except (onnx.shape_inference.InferenceError, ValueError, RuntimeError) as error:
        told = (str(error).strip().splitlines() or ["no reason given"])[0][:200]
        raise ModelFileError(f"the sizes of its values cannot be told: {told}") from None
    items = (*graph.input, *graph.value_info, *graph.output)
    return graph, {item.name: item.type.tensor_type for item in items}


def _sizes(
    model: onnx.ModelProto, graph: onnx.GraphProto, known: Mapping[str, Any]
) -> Iterator[tuple[str, int]]:
    """Yield every tensor of the graph with the bytes it takes."""
    for tensor in model.graph.initializer:
        yield tensor.name, _bytes(tensor.data_type, tensor.dims)
    for node in graph.node:
        for name in filter(None, node.output):
            found = known.get(name)
            dims = [] if found is None else [dim.dim_value for dim in found.shape.dim]
            if found is None or not found.HasField("shape") or _has_unknown(found):
                raise ModelFileError(
                    f"the size of what its operator {node.op_type!r} gives ({name[:80]!r}) cannot be known "
                    "before it runs"
                )
            yield name, _bytes(found.elem_type, dims)


def _has_unknown(found: onnx.TypeProto.Tensor) -> bool:
    return any(not dim.HasField("dim_value") or dim.dim_value < 0 for dim in found.shape.dim)


def _bytes(kind: int, dims: Iterable[int]) -> int:
    return BYTES.get(kind, 4) * math.prod(dims)


def _outline(model: onnx.ModelProto, batch: int) -> onnx.ModelProto:
    """Return the graph for batches of this size without its weights, without what it claims of its values."""
    made = onnx.ModelProto(ir_version=model.ir_version, opset_import=model.opset_import)
    graph = made.graph
    graph.name = "outline"
    graph.input.extend(model.graph.input)
    first = graph.input[0].type.tensor_type.shape.dim[0]
    first.Clear()
    first.dim_value = batch
    small: dict[str, np.ndarray] = {}
    for tensor in model.graph.initializer:
        if math.prod(tensor.dims) <= SMALL:
            graph.initializer.append(tensor)
            if tensor.data_type == TensorProto.INT64 and math.prod(tensor.dims) == 1:
                small[tensor.name] = _numbers(tensor)
        else:
            graph.input.append(onnx.helper.make_tensor_value_info(tensor.name, tensor.data_type, tensor.dims))
    for node in model.graph.node:
        side = _side(node, graph.input[0], small)
        if side is None:
            graph.node.append(node)
        else:  # inference follows a side of the input through most operators, not into Range
            small[node.output[0]] = side
            graph.initializer.append(onnx.numpy_helper.from_array(side, node.output[0]))
    graph.output.extend(onnx.helper.make_empty_tensor_value_info(item.name) for item in model.graph.output)
    return made


def _numbers(tensor: TensorProto) -> np.ndarray:
    try:
        return np.asarray(onnx.numpy_helper.to_array(tensor))
    except (ValueError, TypeError) as error:
        raise ModelFileError(f"its tensor {tensor.name[:80]!r} is damaged: {error}") from None


def _side(
    node: onnx.NodeProto, images: onnx.ValueInfoProto, small: Mapping[str, np.ndarray]
) -> np.ndarray | None:
    """Return what a node gives that only reads sides of the input; None for any other."""
    if node.op_type == "Shape" and list(node.input) == [images.name]:
        span = {item.name: item.i for item in node.attribute}
        dims = [dim.dim_value for dim in images.type.tensor_type.shape.dim]
        return np.array(dims[span.get("start", 0) : span.get("end")], np.int64)
    if node.op_type == "Squeeze" and node.input[0] in small and small[node.input[0]].shape == (1,):
        return small[node.input[0]].reshape(())
    if node.op_type == "Gather" and all(name in small for name in node.input):
        values, index = (small[name] for name in node.input)
        if values.ndim == 1 and index.ndim == 0 and -len(values) <= int(index) < len(values):
            return np.asarray(values[int(index)])
    return None
