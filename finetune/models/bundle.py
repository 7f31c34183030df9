"""A finished model as one safetensors file: the weights, and everything needed to use and to judge them.

The facts travel as one JSON value under one key of the file's metadata, together with a SHA-256 over facts
and weights, so that neither can change unnoticed. Reading a bundle runs nothing.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor

from finetune.errors import ModelFileError
from finetune.runs.files import json_text, write_bytes
from finetune.runs.former_losses import recorded_loss
from finetune.runs.parse import parse_json

METADATA_KEY = "crl_toolkit"
SCHEMA = 1


def save_bundle(file: Path, model_state: Mapping[str, Tensor], facts: Mapping[str, Any]) -> None:
    """Write weights and facts to `file`, atomically.

    Args:
        file: the target; its folder must exist.
        model_state: what `state_dict()` returns; any memory format, tensors may share memory (each is stored
            whole).
        facts: plain values; `class_names`, in the order of the outputs, is required. Usual further keys:
            preprocess, backbone, head, loss, pretraining, manifest, policy, fold, seed, metrics, versions.

    Raises:
        ValueError: `class_names` is missing, empty or not text.
        TypeError: a fact is not a number, text, list or mapping.
        ResourceError: the disk is full or the folder cannot be written to; an old file is untouched.
    """
    if not _are_names(facts.get("class_names")):
        raise ValueError(f"facts need class_names, a list of text, got {facts.get('class_names')!r}")
    text = json_text(facts)
    tensors = {
        name: tensor.detach().cpu().clone(memory_format=torch.contiguous_format)
        for name, tensor in model_state.items()
    }
    record = {"schema": SCHEMA, "sha256": _digest(text, tensors), "facts": text}
    write_bytes(file, save(tensors, metadata={METADATA_KEY: json_text(record)}))


def load_bundle(file: Path) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Return the weights, on the CPU, and the facts of a bundle.

    Raises:
        ModelFileError: the file is missing, damaged, of a newer schema or no bundle of this toolkit.
    """
    try:
        with safe_open(file, framework="pt") as content:
            metadata = content.metadata() or {}
            tensors = {name: content.get_tensor(name) for name in content.keys()}  # noqa: SIM118
    except (SafetensorError, OSError) as error:
        raise ModelFileError(f"{file} is no readable safetensors file: {error}") from error
    if METADATA_KEY not in metadata:
        raise ModelFileError(
            f"{file} says nothing about its classes and preprocessing (no {METADATA_KEY} metadata): it is no"
            " finished model of this toolkit; plain weights can be given to the backbone instead"
        )
    return tensors, _read_facts(file, metadata[METADATA_KEY], tensors)


def check_class_names(
    bundle_names: Sequence[str], wanted_names: Sequence[str], file: Path | None = None
) -> None:
    """Raise ModelFileError, telling both lists apart, unless a model's classes are the wanted ones in order.

    `file` is the model's, for the message.

    >>> check_class_names(["0-2", "4-6"], ["0-2", "4-6"])
    >>> check_class_names(["0-2", "3-5"], ["0-2", "4-6"])
    Traceback (most recent call last):
    finetune.errors.ModelFileError: the model knows 2 classes, the data has 2:
      only in the model: 3-5
      only in the data: 4-6
    Use the data set and label policy that the model was trained with, or train a model for this one.
    """
    model, data = list(bundle_names), list(wanted_names)
    if model == data:
        return
    lines = [f"{'the model' if file is None else file} knows {len(model)} classes, the data has {len(data)}:"]
    for place, names, others in (("model", model, data), ("data", data, model)):
        only = [name for name in names if name not in others]
        lines += [f"  only in the {place}: {', '.join(only)}"] if only else []
    if sorted(model) == sorted(data):
        lines.append(f"  the same names in another order: {', '.join(model)} against {', '.join(data)}")
    lines.append(
        "Use the data set and label policy that the model was trained with, or train a model for this one."
    )
    raise ModelFileError("\n".join(lines))


def weights_hash(state: Mapping[str, Tensor]) -> str:
    """Return the SHA-256, hexadecimal, over the sorted names with each tensor's type, shape and raw bytes.

    Equal exactly when every weight is equal bit for bit, on whichever device and in whichever memory format.

    >>> weights_hash({"a": torch.ones(2)}) == weights_hash({"a": torch.ones(2, dtype=torch.bfloat16)})
    False
    """
    digest = hashlib.sha256()
    for name in sorted(state):
        tensor = state[name].detach().cpu().contiguous()
        digest.update(f"{len(name)} {name} {tensor.dtype} {tuple(tensor.shape)}\n".encode())
        digest.update(tensor.reshape(-1).view(torch.uint8).numpy().data)
    return digest.hexdigest()


def _read_facts(file: Path, text: str, tensors: Mapping[str, Tensor]) -> dict[str, Any]:
    try:
        record = parse_json(text)
        schema, digest, facts_text = record["schema"], record["sha256"], record["facts"]
    except (ValueError, KeyError, TypeError) as error:
        raise ModelFileError(
            f"{file} is damaged: its {METADATA_KEY} metadata cannot be read: {error}"
        ) from error
    if schema != SCHEMA:
        raise ModelFileError(
            f"{file} has schema {schema}, this toolkit reads {SCHEMA}: use the version that wrote it"
        )
    if digest != _digest(facts_text, tensors):
        raise ModelFileError(f"{file} is damaged: weights or facts do not match their SHA-256")
    facts: dict[str, Any] = parse_json(facts_text)
    if not _are_names(facts.get("class_names")):
        raise ModelFileError(f"{file} carries no class_names")
    if isinstance(facts.get("loss"), Mapping):
        facts["loss"] = recorded_loss(facts["loss"])
    return facts


def _digest(facts_text: str, tensors: Mapping[str, Tensor]) -> str:
    return hashlib.sha256(f"{weights_hash(tensors)}\n{facts_text}".encode()).hexdigest()


def _are_names(value: object) -> bool:
    return isinstance(value, list | tuple) and bool(value) and all(isinstance(name, str) for name in value)
