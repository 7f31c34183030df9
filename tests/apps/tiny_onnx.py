"""A complete, tiny exported model written by hand: no torch, no training, known answers.

The network averages the image's colours and applies one linear layer: logits = scale * (W mean + b) for
pixels in 0-1. Class activation maps are W x over a 4 x 4 grid of averages, so their mean is logits - b.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from apps.runtime.metadata import METADATA_KEY, ModelFacts
from finetune.images.preprocess import PreprocessSpec

GROUPS = ("0-2", "4-6", "8-12", "15-20", "25-32", "38-43", "48-53", "60+")
SPEC = PreprocessSpec(32, "warp", 36, "bicubic", (0.5, 0.5, 0.5), (0.5, 0.5, 0.5))


def tiny_facts(**changes: object) -> ModelFacts:
    """Return the facts of a tiny age model; `changes` replace fields."""
    facts = ModelFacts(
        title="tiny",
        task="age",
        class_names=GROUPS,
        ordered=True,
        preprocess=SPEC,
        crop={"style": "plain", "margin": 0.4},
        architecture={"backbone": "none", "head": "linear", "members": 1},
        loss={"name": "cel"},
        data={"name": "drawn", "fold": 0},
        metrics={"n": 10, "exact": 50.0, "one_off": 90.0},
        pretraining={"kind": "none"},
    )
    return replace(facts, **changes)  # type: ignore[arg-type]


def weights(classes: int, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Return W (K, 3) and b (K,) of the linear layer, float32."""
    generator = np.random.default_rng(seed)
    return generator.normal(size=(classes, 3)).astype("f4") * 6, generator.normal(size=classes).astype("f4")


def tiny_model(facts: ModelFacts | None = None, *, seed: int = 0, maps: bool = True) -> onnx.ModelProto:
    """Return the model as a proto, its facts in the metadata."""
    facts = facts or tiny_facts()
    size, classes = facts.preprocess.image_size, len(facts.class_names)
    matrix, bias = weights(classes, seed)
    cell = size // 4
    nodes = [
        helper.make_node("Cast", ["images"], ["pixels"], to=TensorProto.FLOAT),
        helper.make_node("Div", ["pixels", "top"], ["scaled"]),
        helper.make_node("Transpose", ["scaled"], ["planes"], perm=[0, 3, 1, 2]),
        helper.make_node("Conv", ["planes", "kernel"], ["fine"]),
        helper.make_node("AveragePool", ["fine"], ["cams"], kernel_shape=[cell, cell], strides=[cell, cell]),
        helper.make_node("GlobalAveragePool", ["fine"], ["pooled"]),
        helper.make_node("Flatten", ["pooled"], ["flat"]),
        helper.make_node("Add", ["flat", "bias"], ["logits"]),
        helper.make_node("Softmax", ["logits"], ["probs"], axis=-1),
    ]
    constants = {"top": np.float32(255), "kernel": matrix[:, :, None, None], "bias": bias}
    outputs = [("logits", ["batch", classes]), ("probs", ["batch", classes])]
    outputs += [("cams", ["batch", classes, 4, 4])] if maps else []
    graph = helper.make_graph(
        nodes,
        "tiny",
        [helper.make_tensor_value_info("images", TensorProto.UINT8, ["batch", size, size, 3])],
        [helper.make_tensor_value_info(name, TensorProto.FLOAT, shape) for name, shape in outputs],
        [numpy_helper.from_array(np.asarray(value), name) for name, value in constants.items()],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10)
    helper.set_model_props(model, {METADATA_KEY: facts.to_json()})
    return model


def write_tiny(file: Path, facts: ModelFacts | None = None, *, seed: int = 0, maps: bool = True) -> Path:
    """Write the model to `file` and return it."""
    onnx.save(tiny_model(facts, seed=seed, maps=maps), str(file))
    return file


def expected_probs(prepared: np.ndarray, classes: int = len(GROUPS), seed: int = 0) -> np.ndarray:
    """Return the probabilities (N, K) that the model must give for uint8 crops (N, S, S, 3)."""
    matrix, bias = weights(classes, seed)
    logits = prepared.astype("f8").mean(axis=(1, 2)) / 255 @ matrix.T.astype("f8") + bias
    powers = np.exp(logits - logits.max(axis=1, keepdims=True))
    return np.asarray(powers / powers.sum(axis=1, keepdims=True))
