"""How many multiply-adds an operator of a graph takes, counted from the shapes of what goes in and out.

The counts are upper bounds up to a small factor; sources are the operators' definitions in ONNX.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

Shapes = dict[str, list[int]]  # by the value's name
SAMPLES = 16  # of a pixel that is interpolated
_WEIGHTS = {"Conv": 1, "ConvInteger": 1, "DeformConv": 1, "QLinearConv": 3}  # which input they are
_RIGHT = {"MatMul": 1, "MatMulInteger": 1, "QLinearMatMul": 3}
_WINDOWS = ("AveragePool", "MaxPool", "LpPool")


class UnknownWorkError(ValueError):
    """An operator whose work depends on more than shapes."""


def multiply_adds(node: Any, shapes: Shapes) -> int:
    """Return the multiply-adds of an ONNX node, at least one for every number that it reads or writes.

    Raises UnknownWorkError where shapes alone do not tell.
    """
    read = sum(_count(shapes, name) for name in node.input if name)
    written = sum(_count(shapes, name) for name in node.output if name)
    counted = _COUNTED.get(node.op_type)
    return read + written + (0 if counted is None else counted(node, shapes, written))


def _count(shapes: Shapes, name: str) -> int:
    return math.prod(shapes.get(name, []))


def _dims(node: Any, shapes: Shapes, place: int) -> list[int]:
    return shapes.get(node.input[place], []) if place < len(node.input) else []


def _attribute(node: Any, name: str) -> Any:
    return next((item for item in node.attribute if item.name == name), None)


def _product(node: Any, shapes: Shapes, written: int) -> int:
    """Return the work of a product of matrices: each number written takes a row of the first."""
    del written
    left, right = _dims(node, shapes, 0), _dims(node, shapes, _RIGHT[node.op_type])
    shared = left[-1] if left else 1
    columns = right[-1] if len(right) > 1 else 1
    rows = math.prod(left[-2:-1])
    batch = [max(pair) for pair in _from_behind(left[:-2], right[:-2])]
    return math.prod(batch) * rows * shared * columns


def _from_behind(first: list[int], second: list[int]) -> list[tuple[int, int]]:
    width = max(len(first), len(second))
    longer = ([1] * (width - len(each)) + each for each in (first, second))
    return list(zip(*longer, strict=True))


def _gemm(node: Any, shapes: Shapes, written: int) -> int:
    left = _dims(node, shapes, 0)
    turned = _attribute(node, "transA")
    return written * (left[0] if turned is not None and turned.i else left[-1]) if left else written


def _convolution(node: Any, shapes: Shapes, written: int) -> int:
    return written * math.prod(_dims(node, shapes, _WEIGHTS[node.op_type])[1:])


def _back_convolution(node: Any, shapes: Shapes, written: int) -> int:
    del written
    return math.prod(_dims(node, shapes, 0)) * math.prod(_dims(node, shapes, 1)[1:])


def _einsum(node: Any, shapes: Shapes, written: int) -> int:
    """Return the product of all the sizes that the equation names."""
    del written
    equation = _attribute(node, "equation").s.decode("ascii", "replace").replace(" ", "")
    sizes: dict[str, int] = {}
    for place, letters in enumerate(equation.partition("->")[0].split(",")):
        dims = _dims(node, shapes, place)
        before, dots, behind = letters.partition("...")
        named = [*before, *behind]
        hidden = len(dims) - len(named) if dots else 0
        spread = [f"...{number - hidden}" for number in range(max(hidden, 0))]
        for name, size in zip([*before, *spread, *behind], dims, strict=False):
            sizes[name] = max(sizes.get(name, 1), size)
    return math.prod(sizes.values())


def _attention(node: Any, shapes: Shapes, written: int) -> int:
    query, key = _dims(node, shapes, 0), _dims(node, shapes, 1)
    past = _dims(node, shapes, 4)
    keys = (key[-2] if len(key) > 1 else 1) + (past[-2] if len(past) > 1 else 0)
    return (math.prod(query) + written) * keys


def _window(node: Any, shapes: Shapes, written: int) -> int:
    del shapes
    kernel = _attribute(node, "kernel_shape")
    return written * math.prod(kernel.ints if kernel is not None else [1])


def _neighbours(node: Any, shapes: Shapes, written: int) -> int:
    del shapes
    return written * int(_attribute(node, "size").i)


def _sampled(node: Any, shapes: Shapes, written: int) -> int:
    del node, shapes
    return written * SAMPLES


def _regions(node: Any, shapes: Shapes, written: int) -> int:
    del shapes
    ratio = _attribute(node, "sampling_ratio")
    if ratio is None or ratio.i < 1:
        raise UnknownWorkError("it samples as often as its regions are large; give it a sampling_ratio")
    return written * int(ratio.i) ** 2 * SAMPLES


def _by_last_side(node: Any, shapes: Shapes, written: int) -> int:
    """Return the work where every number meets all those of the longest side."""
    dims = _dims(node, shapes, 0)
    return (math.prod(dims) + written) * max(dims, default=1)


_COUNTED: dict[str, Callable[[Any, Shapes, int], int]] = {
    **dict.fromkeys(_RIGHT, _product),
    **dict.fromkeys(_WEIGHTS, _convolution),
    **dict.fromkeys(_WINDOWS, _window),
    "Gemm": _gemm,
    "ConvTranspose": _back_convolution,
    "Einsum": _einsum,
    "Attention": _attention,
    "LRN": _neighbours,
    "Resize": _sampled,
    "GridSample": _sampled,
    "RoiAlign": _regions,
    "Det": _by_last_side,
    "DFT": _by_last_side,
    "STFT": _by_last_side,
}
