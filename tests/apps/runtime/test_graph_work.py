from __future__ import annotations

from collections.abc import Callable

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

import apps.runtime.graph_limits
from apps.runtime.graph_limits import check_graph
from apps.runtime.graph_work import Shapes, UnknownWorkError, multiply_adds
from finetune.errors import ModelFileError
from tests.apps.tiny_onnx import tiny_model

# operator, attributes, the shapes of its inputs and of its output; the multiply-adds by hand
COUNTED: list[tuple[str, dict[str, object], list[list[int]], list[int], int]] = [
    ("MatMul", {}, [[7, 2, 3], [3, 5]], [7, 2, 5], 7 * 2 * 3 * 5),
    ("MatMul", {}, [[2, 3], [4, 1, 3, 5]], [4, 1, 2, 5], 4 * 2 * 3 * 5),
    ("MatMul", {}, [[3], [3]], [], 3),
    ("MatMulInteger", {}, [[2, 3], [3, 5]], [2, 5], 30),
    ("QLinearMatMul", {}, [[2, 3], [], [], [3, 5], [], [], [], []], [2, 5], 30),
    ("Gemm", {}, [[2, 3], [3, 5]], [2, 5], 30),
    ("Gemm", {"transA": 1}, [[3, 2], [3, 5]], [2, 5], 30),
    ("Conv", {}, [[1, 6, 9, 9], [4, 3, 5, 5]], [1, 4, 5, 5], 4 * 25 * 3 * 25),
    ("QLinearConv", {}, [[1, 3, 9, 9], [], [], [4, 3, 5, 5], [], [], [], []], [1, 4, 5, 5], 4 * 25 * 75),
    ("ConvTranspose", {}, [[1, 3, 5, 5], [3, 4, 2, 2]], [1, 4, 6, 6], 75 * 16),
    ("Einsum", {"equation": "bchw,bdhw->bcd"}, [[2, 3, 4, 5], [2, 6, 4, 5]], [2, 3, 6], 2 * 3 * 6 * 20),
    ("Einsum", {"equation": "...ij,...jk->...ik"}, [[7, 2, 3], [7, 3, 5]], [7, 2, 5], 210),
    ("Attention", {}, [[1, 2, 10, 4], [1, 2, 20, 4], [1, 2, 20, 6]], [1, 2, 10, 6], (80 + 120) * 20),
    ("MaxPool", {"kernel_shape": [3, 3]}, [[1, 2, 9, 9]], [1, 2, 7, 7], 98 * 9),
    ("LRN", {"size": 5}, [[1, 8, 2, 2]], [1, 8, 2, 2], 32 * 5),
    ("Relu", {}, [[10, 10]], [10, 10], 0),
]


@pytest.mark.parametrize(("operator", "attributes", "inputs", "output", "work"), COUNTED)
def test_multiply_adds_are_those_counted_by_hand(
    operator: str, attributes: dict[str, object], inputs: list[list[int]], output: list[int], work: int
) -> None:
    names = [f"x{place}" for place in range(len(inputs))]
    shapes: Shapes = dict(zip(names, inputs, strict=True)) | {"y": output}
    touched = sum(int(np.prod(dims)) for dims in shapes.values())
    node = helper.make_node(operator, names, ["y"], **attributes)
    assert multiply_adds(node, shapes) == work + touched


def test_regions_that_are_sampled_by_their_size_are_refused() -> None:
    shapes: Shapes = {"x": [1, 3, 9, 9], "rois": [1, 4], "i": [1], "y": [1, 3, 1, 1]}
    with pytest.raises(UnknownWorkError, match="sampling_ratio"):
        multiply_adds(helper.make_node("RoiAlign", ["x", "rois", "i"], ["y"]), shapes)


def chained(side: int, count: int, *, constant: bool) -> onnx.ModelProto:
    """The tiny model, and behind it products of square matrices that are made from little."""
    made = tiny_model()
    made.graph.initializer.append(numpy_helper.from_array(np.array([side, side]), "square"))
    zero = helper.make_tensor("zero", TensorProto.FLOAT, [1], [0.0])
    made.graph.node.append(helper.make_node("ConstantOfShape", ["square"], ["matrix"], value=zero))
    first = "matrix"
    if not constant:
        reduced = helper.make_node("ReduceMax", ["logits"], ["one"], keepdims=0)
        made.graph.node.extend([reduced, helper.make_node("Add", ["matrix", "one"], ["full"])])
        first = "full"
    for number in range(count):
        made.graph.node.append(helper.make_node("MatMul", [first, "matrix"], [f"product{number}"]))
        first = f"product{number}"
    return made


@pytest.mark.parametrize(
    ("make", "word"),
    [
        (lambda: chained(12_000, 5, constant=False), "too much work: more than 1.73e[+]12"),
        (lambda: chained(12_000, 1, constant=True), "while it is loaded"),
        (lambda: chained(2_000, 2, constant=True), "while it is loaded"),
    ],
)
def test_a_graph_of_too_much_work_is_refused(make: Callable[[], onnx.ModelProto], word: str) -> None:
    with pytest.raises(ModelFileError, match=word):
        check_graph(make())


def test_the_bound_is_for_each_image(monkeypatch: pytest.MonkeyPatch) -> None:
    check_graph(chained(1_000, 3, constant=False))
    monkeypatch.setattr(apps.runtime.graph_limits, "MOST_WORK", 10**9)
    with pytest.raises(ModelFileError, match="one image"):
        check_graph(chained(1_000, 3, constant=False))
