"""An .onnx file from anywhere, read without trust: what it may hold, and what it must say of itself.

Nothing of the file is executed here. The bytes are read once, through one opened descriptor, and those very
bytes go to the runtime, so that a file swapped after the check changes nothing.
"""

from __future__ import annotations

import hashlib
import os
import stat
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import cast

import onnx
from google.protobuf.message import DecodeError, Message
from onnx import TensorProto

from apps.runtime.graph_limits import check_graph
from apps.runtime.metadata import METADATA_KEY, ModelFacts
from finetune.errors import ModelFileError

# Protocol buffers, and so .onnx files, end at 2 GiB.
MAX_BYTES = 2**31 - 2**20
MAX_SIDE = 2048
STANDARD_DOMAINS = ("", "ai.onnx")
INPUT = "images"
OUTPUTS = ("logits", "probs", "cams")
READ_PIECE = 2**24


@dataclass(frozen=True)
class Outline:
    """What a checked file looks like from outside.

    Args:
        outputs: names of its outputs, in order: logits, probs and, where there are class maps, cams.
        opset: version of the standard operators it uses.
        sha256: of the whole file, hexadecimal.
        size_bytes: of the whole file.
    """

    outputs: tuple[str, ...]
    opset: int
    sha256: str
    size_bytes: int


def read_model_file(path: Path, *, max_bytes: int = MAX_BYTES) -> tuple[bytes, ModelFacts, Outline]:
    """Return the bytes of an exported model, the facts inside it, and its outline, after every check.

    Raises ModelFileError, naming the file and the reason, for: anything but a regular file with one name (no
    symbolic or hard link, folder, pipe or device); more than `max_bytes`; bytes that are no ONNX model;
    weights kept outside the file, in whatever corner it asks for them; operators or operator sets outside the
    standard domains, functions or training graphs of its own; operators that `check_graph` does not run, or
    values that would fill the memory; facts that are missing, double or wrong; an
    input or outputs other than an exported model's; a number of classes or an image size that its facts and
    its graph say otherwise.
    """
    try:
        content = _read_bytes(Path(path), max_bytes)
        model = _parse(content)
        _refuse_foreign_parts(model)
        facts = _read_facts(model)
        outputs = _check_signature(model.graph, facts)
        check_graph(model)
    except ModelFileError as error:
        raise ModelFileError(f"{path}: {error}") from error.__cause__
    opset = max(item.version for item in model.opset_import)
    return content, facts, Outline(outputs, opset, hashlib.sha256(content).hexdigest(), len(content))


def _read_bytes(path: Path, max_bytes: int) -> bytes:
    """Return the whole file, read through one descriptor that is checked after it is open."""
    if path.is_symlink():
        raise ModelFileError("is a symbolic link; name the file itself")
    # Without O_NONBLOCK opening a pipe waits for a writer; where a flag is unknown (Windows) fstat decides.
    flags = sum(getattr(os, name, 0) for name in ("O_NOFOLLOW", "O_NONBLOCK", "O_CLOEXEC", "O_BINARY"))
    try:
        handle = os.open(path, os.O_RDONLY | flags)
    except (OSError, ValueError) as error:
        raise ModelFileError(f"cannot be opened: {getattr(error, 'strerror', None) or error}") from None
    try:
        _check_status(os.fstat(handle), max_bytes)
        return _read_all(handle, max_bytes)
    except OSError as error:
        raise ModelFileError(f"cannot be read: {error.strerror or error}") from None
    finally:
        os.close(handle)


def _check_status(status: os.stat_result, max_bytes: int) -> None:
    if stat.S_ISDIR(status.st_mode):
        raise ModelFileError("is a folder; name the .onnx file in it")
    if not stat.S_ISREG(status.st_mode):
        raise ModelFileError("is no regular file (a pipe, a socket or a device)")
    if status.st_nlink != 1:
        raise ModelFileError(f"has {status.st_nlink} names (hard links); copy it to a file of its own")
    if status.st_size > max_bytes:
        raise ModelFileError(f"holds {status.st_size:,} bytes, at most {max_bytes:,} are read")


def _read_all(handle: int, max_bytes: int) -> bytes:
    pieces, total = [], 0
    while piece := os.read(handle, READ_PIECE):
        pieces.append(piece)
        total += len(piece)
        if total > max_bytes:
            raise ModelFileError(
                f"grows while it is read, past the {max_bytes:,} bytes that are read at most"
            )
    return b"".join(pieces)


def _parse(content: bytes) -> onnx.ModelProto:
    if not content:
        raise ModelFileError("is empty (0 bytes)")
    try:
        model = onnx.ModelProto.FromString(content)
    except DecodeError as error:
        raise ModelFileError(f"is no ONNX model, or a damaged one ({error})") from None
    if not model.graph.node or not model.opset_import:
        raise ModelFileError("is no ONNX model: it has no operators")
    return model


def _refuse_foreign_parts(model: onnx.ModelProto) -> None:
    """Raise ModelFileError for anything that reaches outside the file or outside the standard operators."""
    if model.functions:
        names = sorted({item.name for item in model.functions})
        raise ModelFileError(f"defines functions of its own ({_few(names)}), which are not run")
    if model.training_info:
        raise ModelFileError("carries a training graph, which is not run")
    for part in _parts(model):
        if isinstance(part, TensorProto):
            if part.data_location != TensorProto.DEFAULT or part.external_data:
                raise ModelFileError(
                    f"keeps the tensor {part.name[:80]!r} outside the file; export it as one file"
                )
        elif isinstance(part, onnx.NodeProto | onnx.OperatorSetIdProto) and (
            part.domain not in STANDARD_DOMAINS
        ):
            what = f"the operator {part.op_type[:80]!r}" if isinstance(part, onnx.NodeProto) else "operators"
            raise ModelFileError(f"uses {what} of the domain {part.domain[:80]!r}; only ONNX's own are run")


def _parts(model: onnx.ModelProto) -> Iterator[Message]:
    """Yield every message inside the model, however deep: subgraphs, attributes, sparse tensors and all."""
    stack: list[Message] = [model]
    while stack:
        part = stack.pop()
        yield part
        if isinstance(part, TensorProto):  # its numbers are long, and what it may hold is given by its fields
            continue
        for field, value in part.ListFields():
            if field.message_type is not None:
                stack.extend([value] if isinstance(value, Message) else value)


def _read_facts(model: onnx.ModelProto) -> ModelFacts:
    texts = [item.value for item in model.metadata_props if item.key == METADATA_KEY]
    if not texts:
        raise ModelFileError(
            f"carries no facts of this toolkit (metadata {METADATA_KEY!r}): make it with crl export"
        )
    if len(texts) > 1:
        raise ModelFileError(f"carries its facts {len(texts)} times, and they may differ: export it again")
    facts = ModelFacts.from_json(texts[0])
    for name in ("image_size", "resize_size"):
        side = getattr(facts.preprocess, name)
        if type(side) is not int or side > MAX_SIDE:
            raise ModelFileError(f"its {name} must be a whole number up to {MAX_SIDE} px, got {side!r}")
    return facts


def _check_signature(graph: onnx.GraphProto, facts: ModelFacts) -> tuple[str, ...]:
    """Return the names of the outputs after comparing the graph's signature with the facts."""
    size, classes = facts.preprocess.image_size, len(facts.class_names)
    if [item.name for item in graph.input] != [INPUT]:
        found = _few([item.name for item in graph.input])
        raise ModelFileError(f"its only input must be {INPUT!r}, it has {found or 'none'}")
    _check_tensor(graph.input[0], TensorProto.UINT8, (size, size, 3), f"an image size of {size} px")
    names = tuple(item.name for item in graph.output)
    if names not in (OUTPUTS[:2], OUTPUTS):
        wanted = "logits, probs and perhaps cams"
        raise ModelFileError(f"its outputs must be {wanted}, in this order; it has {_few(names) or 'none'}")
    told = f"{classes} class names"
    for item in graph.output[:2]:
        _check_tensor(item, TensorProto.FLOAT, (classes,), told)
    for item in graph.output[2:]:
        _check_tensor(item, TensorProto.FLOAT, (classes, None, None), told)
    return names


def _check_tensor(item: onnx.ValueInfoProto, kind: int, shape: tuple[int | None, ...], told: str) -> None:
    """Raise ModelFileError unless the tensor has this type and shape behind a batch axis of any length."""
    found = item.type.tensor_type
    if not item.type.HasField("tensor_type") or found.elem_type != kind:
        wanted = cast(str, TensorProto.DataType.Name(cast(TensorProto.DataType, kind)))
        raise ModelFileError(f"its {item.name} must be a tensor of type {wanted}")
    dims = list(found.shape.dim)
    sizes = [dim.dim_value if dim.HasField("dim_value") else dim.dim_param or "?" for dim in dims]
    fits = len(sizes) == len(shape) + 1 and isinstance(sizes[0], str)
    if not fits or any(want not in (None, have) for want, have in zip(shape, sizes[1:], strict=True)):
        asked = ", ".join(["batch", *("any" if want is None else str(want) for want in shape)])
        shown = ", ".join(map(str, sizes))
        raise ModelFileError(f"its {item.name} must have shape ({asked}) for {told}, it has ({shown})")


def _few(names: list[str] | tuple[str, ...]) -> str:
    return ", ".join(name[:80] for name in names[:5]) + (" ..." if len(names) > 5 else "")
