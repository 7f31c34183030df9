"""Every head as a file: the trained model's answers at every batch size, in operators all runtimes have."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch

from apps.config import FP16_TOLERANCE
from apps.export.convert import nodes_in_float, to_fp16, to_int8
from apps.export.graph import ExportGraph, build_graph, find_map_layout
from apps.export.run import FP16_SAME_CLASS, OPSET, Check, trace
from apps.export.simplify import HEAD_MARK
from apps.runtime.graph_limits import OPERATORS, check_graph
from apps.runtime.session import OnnxClassifier
from finetune.models.classifier import Classifier
from finetune.models.heads.registry import head_names
from tests.apps.random_nets import random_net, random_pictures, spec_of
from tests.apps.tiny_onnx import tiny_facts

CASES: dict[str, tuple[str, dict[str, Any]]] = {
    "L-Softmax": ("lsoftmax", {}),
    "A-Softmax": ("asoftmax", {}),
    "CosFace": ("cosface", {}),
    "ArcFace": ("arcface", {"scale": 16.0}),
    "CORN": ("corn", {"dropout": 0.1}),
    "CORN of 8 classes": ("corn", {}),
    "cumulative": ("cumulative", {}),
    "cumulative of 8 classes": ("cumulative", {}),
    "Laplace years": ("year_laplace", {}),
    "logistic years": ("year_logistic", {}),
    "bilinear": ("bilinear", {"reduction": 12}),
    "compact bilinear": ("compact_bilinear", {"dim": 256}),
    "kernel pooling": ("kernel_pooling", {"dim": 64, "gamma": 0.5, "order": 2}),
    "kernel pooling of order 4": ("kernel_pooling", {"dim": 64, "gamma": 0.5}),
    "iSQRT-COV": ("isqrt_cov", {"dim": 12}),
    "DFL": ("dfl", {"detectors": 3, "init": "random"}),
    "DFL, two scales": ("dfl", {"detectors": 2, "init": "random", "two_scale": True, "filter_norm": "bn"}),
    "DCL": ("dcl", {"regions": 2}),
    "DCL of the last release": ("dcl", {"regions": 2, "variant": "repo"}),
}
CLASSES = {"CORN": 101, "cumulative": 101, "CORN of 8 classes": 8, "cumulative of 8 classes": 8}
CLASSES |= {"Laplace years": 101, "logistic years": 101}  # else 5
# Untrained nets are sure of the first of few ordered classes: these seeds are less so.
SEEDS = {"CORN of 8 classes": 1, "cumulative of 8 classes": 1}
MARGIN_OF_A_LAYER = ("L-Softmax", "A-Softmax")  # they answer as the linear layer that they train
WITH_MAPS = ("DCL", *MARGIN_OF_A_LAYER)
# A transformer pools no grid; VGG has layers between its last map and the vector that these heads classify.
WITHOUT_GRID_MEAN = {("DCL", "test_vit")} | {
    (case, backbone) for case in MARGIN_OF_A_LAYER for backbone in ("test_vit", "vgg11")
}
# The operators of A-Softmax, kernel pooling, DFL, DCL and the cumulative head, or fewer.
RARE_CASES = (
    *("CORN", "CORN of 8 classes", "cumulative of 8 classes", "Laplace years", "logistic years"),
    *("L-Softmax", "CosFace", "ArcFace", "kernel pooling", "kernel pooling of order 4", "DFL, two scales"),
    "DCL of the last release",
)
SHOWN = [pytest.param(case, marks=pytest.mark.exhaustive if case in RARE_CASES else ()) for case in CASES]
NETS = [
    ("test_resnet", 64),
    pytest.param("vgg11", 64, marks=pytest.mark.exhaustive),
    pytest.param("swin_tiny_patch4_window7_224", 64, marks=pytest.mark.exhaustive),
    pytest.param("test_vit", 64, marks=pytest.mark.exhaustive),
]
# Heads of ordered classes read the vector alone: they are shown on small networks, and not on those that take
# gigabytes to export.
SMALL = ("test_resnet", "test_vit")


def shown() -> list[Any]:
    """Return every case on every network that it is shown on, with the marks of both."""
    grid = []
    for case in SHOWN:
        for one in NETS:
            values = getattr(one, "values", one)
            name = str(case.values[0])
            if name in CLASSES and values[0] not in SMALL:
                continue
            marks = [*case.marks, *getattr(one, "marks", ())]
            grid.append(pytest.param(name, *values, marks=marks, id=f"{name}-{values[0]}-{values[1]}"))
    return grid


# Transforms beyond what a runtime must offer, and sums that ONNX Runtime's threads spoil.
NEVER = {"DFT", "STFT", "ScatterND"}


def net(case: str, backbone: str = "test_resnet", size: int = 64) -> Classifier:
    head, options = CASES[case]
    return random_net(backbone, size, CLASSES.get(case, 5), SEEDS.get(case, 0), head=head, **options)


class Exported:
    """A classifier traced into a graph, and the check that its file must pass."""

    def __init__(self, core: Classifier, folder: Path, size: int, classes: int = 5) -> None:
        self.spec, self.real = spec_of(size), random_pictures(16, size)
        self.graph = build_graph([core], self.spec, torch.from_numpy(self.real[:4]))
        self.model = trace(self.graph, self.spec)
        facts = tiny_facts(
            class_names=tuple(f"class {index}" for index in range(classes)), preprocess=self.spec
        )
        self.check = Check(folder, facts, self.graph, self.real)


Export = Callable[..., Exported]


@pytest.fixture(scope="module")
def exported(tmp_path_factory: pytest.TempPathFactory) -> Export:
    """Return each case as a graph, traced once for all tests; no test changes it.

    Large networks are shown once and not kept: a score of them would fill the memory.
    """

    @cache  # one key for a case, however it is asked for
    def made(case: str, backbone: str, size: int) -> Exported:
        folder = tmp_path_factory.mktemp("head")
        return Exported(net(case, backbone, size), folder, size, CLASSES.get(case, 5))

    def asked(case: str, backbone: str = "test_resnet", size: int = 64) -> Exported:
        return (made if backbone in SMALL else made.__wrapped__)(case, backbone, size)

    return asked


def test_every_head_there_is_has_a_case():
    assert {head for head, _ in CASES.values()} | {"linear"} == set(head_names())


@pytest.mark.parametrize(("case", "backbone", "size"), shown())
def test_a_head_answers_in_a_file_as_it_was_trained(case: str, backbone: str, size: int, exported: Export):
    made = exported(case, backbone, size)
    found = made.check.same(made.model, "fp32")
    assert found["batches"] == [1, 2, 7]
    assert found["same_class_percent"] == {"real": 100, "random": 100}
    assert max(found["max_relative_difference"].values()) <= 1e-4
    has_maps = case in WITH_MAPS and (case, backbone) not in WITHOUT_GRID_MEAN
    assert ("cams" in found["max_relative_difference"]) == has_maps
    with torch.no_grad():
        logits = made.graph(torch.from_numpy(made.real))[0]
    assert logits.std(0).min() > 1e-3, "logits that all images share show no difference"
    kinds = {node.op_type for node in made.model.graph.node}
    assert kinds <= OPERATORS
    assert not kinds & NEVER
    assert [item.version for item in made.model.opset_import] == [OPSET]
    check_graph(made.model)


@pytest.mark.exhaustive  # five seconds
def test_sums_do_not_depend_on_the_number_of_threads(tmp_path: Path):
    """262,144 values into 256 places, the head's own sum at VGG's width: a lost one would show at once."""
    core = random_net("vgg11", 32, head="compact_bilinear", dim=256)
    made = Exported(core, tmp_path, 32)
    file = made.check.draft(made.model, "fp32")
    answers = [OnnxClassifier(file, device="cpu", threads=threads) for threads in (1, 2)]
    wanted = answers[0].run(made.real[:1]).logits
    for _ in range(60):
        np.testing.assert_allclose(answers[1].run(made.real[:1]).logits, wanted, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("case", ["bilinear", "iSQRT-COV"])
def test_second_order_statistics_stay_in_float32_at_half_precision(case: str, exported: Export):
    made = exported(case)
    half = to_fp16(made.model)
    made.check.same(half, "fp16", FP16_TOLERANCE, FP16_SAME_CLASS)
    kinds = value_kinds(half)
    head = [node for node in half.graph.node if node.name.startswith(HEAD_MARK)]
    assert {"MatMul", "Sqrt"} <= {node.op_type for node in head}
    for node in head:
        for name in node.output:
            assert kinds.get(name) != onnx.TensorProto.FLOAT16, node.name
    assert onnx.TensorProto.FLOAT16 in kinds.values(), "the backbone is in float16"


def value_kinds(model: onnx.ModelProto) -> dict[str, int]:
    typed = onnx.shape_inference.infer_shapes(model, data_prop=True).graph
    return {item.name: item.type.tensor_type.elem_type for item in typed.value_info}


@pytest.mark.parametrize("case", ["iSQRT-COV", "cumulative"])
def test_a_head_is_left_in_float32_by_int8(case: str, exported: Export):
    made = exported(case)
    marked = {node.name for node in made.model.graph.node if node.name.startswith(HEAD_MARK)}
    assert marked
    assert marked <= nodes_in_float(made.model.graph)
    small = to_int8(made.model, iter([made.real]))
    kinds = value_kinds(small)
    assert onnx.TensorProto.UINT8 in kinds.values()
    made_by = {name: node for node in small.graph.node for name in node.output}
    for node in small.graph.node:
        if node.name in marked and node.op_type in ("MatMul", "Add"):
            assert not any(
                made_by[name].op_type == "DequantizeLinear" and "weight" in name
                for name in node.input
                if name in made_by
            )
    made.check.same(small, "int8", float("inf"), 0.0)


def test_maps_are_those_of_the_layer_that_a_head_names():
    spec, pictures = spec_of(64), torch.from_numpy(random_pictures(4, 64))
    core = net("DCL")
    assert find_map_layout(core, spec, pictures) == "NCHW"
    with torch.no_grad():
        logits, _, cams = build_graph([core], spec, pictures)(pictures)
        torch.testing.assert_close(cams.mean((2, 3)) + core.head.classifier.bias, logits)
        torch.testing.assert_close(core.infer(ExportGraph(core, spec).scaled(pictures)), logits)
    for case in ("DCL of the last release", "DFL", "bilinear"):
        assert find_map_layout(net(case), spec, pictures) is None


def test_maps_of_a_network_without_an_embedding():
    """VGG's hidden layers are left out, so that the head reads the mean of the last map."""
    core, pictures = net("DCL", "vgg11"), torch.from_numpy(random_pictures(4, 64))
    assert core.backbone.embedding_dim == 0
    graph = build_graph([core], spec_of(64), pictures)
    with torch.no_grad():
        logits, _, cams = graph(pictures)
        torch.testing.assert_close(
            cams.mean((2, 3)) + core.head.classifier.bias, logits, rtol=1e-4, atol=1e-4
        )


def test_no_maps_where_another_layer_is_named():
    core, pictures = net("DCL"), torch.from_numpy(random_pictures(4, 64))
    other = torch.nn.Linear(core.head.classifier.in_features, 5)
    core.head.map_classifier = lambda: other
    assert find_map_layout(core, spec_of(64), pictures) is None
