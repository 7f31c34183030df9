"""Every rule for files from anywhere has a crafted file here that breaks it, and only it."""

from __future__ import annotations

import hashlib
import os
import socket
from collections.abc import Callable
from pathlib import Path

import onnx
import pytest
from onnx import TensorProto, helper

from apps.runtime.metadata import METADATA_KEY
from apps.runtime.model_file import MAX_BYTES, read_model_file
from finetune.errors import ModelFileError
from tests.apps.tiny_onnx import GROUPS, SPEC, tiny_facts, tiny_model, write_tiny


def refused(file: Path, reason: str, **options: int) -> None:
    """Check that the file is refused, by its name and for this reason."""
    with pytest.raises(ModelFileError, match=reason) as caught:
        read_model_file(file, **options)
    assert str(caught.value).startswith(f"{file}: ")


def test_a_good_file_is_read_once_and_whole(tmp_path: Path):
    file = write_tiny(tmp_path / "tiny.onnx")
    content, facts, outline = read_model_file(file)
    assert content == file.read_bytes()
    assert facts.class_names == GROUPS
    assert outline.outputs == ("logits", "probs", "cams")
    assert outline.opset == 18
    assert (outline.size_bytes, outline.sha256) == (len(content), hashlib.sha256(content).hexdigest())


def test_maps_may_be_absent(tmp_path: Path):
    _, _, outline = read_model_file(write_tiny(tmp_path / "tiny.onnx", maps=False))
    assert outline.outputs == ("logits", "probs")


# Files that are no plain file.


def test_a_missing_file(tmp_path: Path):
    refused(tmp_path / "none.onnx", "cannot be opened: No such file")


def test_a_symbolic_link(tmp_path: Path):
    (tmp_path / "link.onnx").symlink_to(write_tiny(tmp_path / "tiny.onnx"))
    refused(tmp_path / "link.onnx", "symbolic link")


def test_a_link_that_appears_after_the_look(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    (tmp_path / "link.onnx").symlink_to(write_tiny(tmp_path / "tiny.onnx"))
    monkeypatch.setattr(Path, "is_symlink", lambda self: False)
    refused(tmp_path / "link.onnx", "cannot be opened")


def test_a_hard_link(tmp_path: Path):
    os.link(write_tiny(tmp_path / "tiny.onnx"), tmp_path / "twin.onnx")
    refused(tmp_path / "twin.onnx", r"2 names \(hard links\)")


def test_a_folder(tmp_path: Path):
    refused(tmp_path, "is a folder")


@pytest.mark.timeout(10)
def test_a_pipe_does_not_hang(tmp_path: Path):
    os.mkfifo(tmp_path / "pipe.onnx")
    refused(tmp_path / "pipe.onnx", "no regular file")


def test_a_socket_and_a_device(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.chdir(tmp_path)  # a socket's path may have about a hundred characters
    with socket.socket(socket.AF_UNIX) as end:
        end.bind("s.onnx")
        refused(Path("s.onnx"), "cannot be opened|no regular file")
    refused(Path(os.devnull), "no regular file")


def test_a_name_that_is_none(tmp_path: Path):
    refused(tmp_path / "a\0b.onnx", "cannot be opened")


def test_an_over_large_file(tmp_path: Path):
    file = write_tiny(tmp_path / "tiny.onnx")
    size = file.stat().st_size
    refused(file, f"holds {size:,} bytes, at most {size - 1:,}", max_bytes=size - 1)
    assert read_model_file(file, max_bytes=size)[2].size_bytes == size


def test_a_file_past_two_gigabytes_is_not_read(tmp_path: Path):
    file = tmp_path / "large.onnx"
    with file.open("wb") as stream:
        stream.truncate(MAX_BYTES + 1)  # a hole: it takes no room on the disk
    refused(file, "at most 2,146,435,072")


def test_a_file_that_grows_while_it_is_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    file = write_tiny(tmp_path / "tiny.onnx")
    monkeypatch.setattr("apps.runtime.model_file._check_status", lambda status, max_bytes: None)
    refused(file, "grows while it is read", max_bytes=100)


# Bytes that are no model.


def test_garbage(tmp_path: Path):
    file = tmp_path / "garbage.onnx"
    for content, reason in (
        (b"", "is empty"),
        (b"\xff" * 1000, "no ONNX model"),
        (b"PK\x03\x04" + bytes(200), "no ONNX model"),
        (b"\x80\x02cos\nsystem\n", "no ONNX model"),
        (b"<html>404</html>", "no ONNX model"),
    ):
        file.write_bytes(content)
        refused(file, reason)


def test_every_truncation_is_refused(tmp_path: Path):
    content = write_tiny(tmp_path / "tiny.onnx").read_bytes()
    file = tmp_path / "cut.onnx"
    for length in range(1, len(content), max(1, len(content) // 40)):
        file.write_bytes(content[:length])
        with pytest.raises(ModelFileError, match=r"cut\.onnx: "):
            read_model_file(file)


def test_too_deep_a_model(tmp_path: Path):
    def wrapped(field: int, content: bytes) -> bytes:
        length, size = b"", len(content)
        while size > 127:
            length, size = length + bytes([size & 127 | 128]), size >> 7
        return bytes([field << 3 | 2]) + length + bytes([size]) + content

    graph = b""
    for _ in range(60):  # graph: a node (field 1) with an attribute (5) that is a graph (6)
        graph = wrapped(1, wrapped(5, wrapped(6, graph)))
    file = tmp_path / "deep.onnx"
    file.write_bytes(wrapped(7, graph))
    refused(file, "no ONNX model, or a damaged one")


# Facts that are missing, wrong, or that the graph tells differently.


def set_facts(text: str) -> Callable[[onnx.ModelProto], None]:
    def change(model: onnx.ModelProto) -> None:
        helper.set_model_props(model, {METADATA_KEY: text})

    return change


def no_facts(model: onnx.ModelProto) -> None:
    helper.set_model_props(model, {"other_toolkit": "{}"})


def double_facts(model: onnx.ModelProto) -> None:
    model.metadata_props.add(key=METADATA_KEY, value=tiny_facts(title="another").to_json())


def wide_input(model: onnx.ModelProto) -> None:
    model.graph.input[0].type.tensor_type.shape.dim[1].dim_value = 64


def fixed_batch(model: onnx.ModelProto) -> None:
    model.graph.input[0].type.tensor_type.shape.dim[0].dim_value = 1


def planes_first(model: onnx.ModelProto) -> None:
    shape = ["batch", 3, 32, 32]
    model.graph.input[0].CopyFrom(helper.make_tensor_value_info("images", TensorProto.UINT8, shape))


def float_input(model: onnx.ModelProto) -> None:
    model.graph.input[0].type.tensor_type.elem_type = TensorProto.FLOAT


def list_input(model: onnx.ModelProto) -> None:
    model.graph.input[0].CopyFrom(
        helper.make_tensor_sequence_value_info("images", TensorProto.UINT8, ["batch", 32, 32, 3])
    )


def shapeless_input(model: onnx.ModelProto) -> None:
    model.graph.input[0].type.tensor_type.ClearField("shape")


def other_input(model: onnx.ModelProto) -> None:
    model.graph.input[0].name = "pixels"


def second_input(model: onnx.ModelProto) -> None:
    model.graph.input.append(helper.make_tensor_value_info("more", TensorProto.FLOAT, [1]))


def no_probs(model: onnx.ModelProto) -> None:
    del model.graph.output[1]


def swapped(model: onnx.ModelProto) -> None:
    model.graph.output[0].name, model.graph.output[1].name = "probs", "logits"


def half_probs(model: onnx.ModelProto) -> None:
    model.graph.output[1].type.tensor_type.elem_type = TensorProto.FLOAT16


def flat_maps(model: onnx.ModelProto) -> None:
    del model.graph.output[2].type.tensor_type.shape.dim[3]


def few_maps(model: onnx.ModelProto) -> None:
    model.graph.output[2].type.tensor_type.shape.dim[1].dim_value = 7


FACTS: dict[str, tuple[Callable[[onnx.ModelProto], None], str]] = {
    "no facts": (no_facts, "no facts of this toolkit"),
    "double facts": (double_facts, "its facts 2 times"),
    "bad JSON": (set_facts("{oops"), "no valid JSON"),
    "wrong schema": (set_facts('{"schema": 99}'), "schema 99, this toolkit reads 1"),
    "fewer names than outputs": (
        set_facts(tiny_facts(class_names=GROUPS[:7]).to_json()),
        r"its logits must have shape \(batch, 7\) for 7 class names, it has \(batch, 8\)",
    ),
    "a fraction as image size": (
        set_facts(tiny_facts().to_json().replace('"image_size": 32', '"image_size": 32.0')),
        r"image_size must be a whole number up to 2048 px, got 32\.0",
    ),
    "a huge image": (
        set_facts(tiny_facts().to_json().replace('"resize_size": 36', '"resize_size": 1000000')),
        "resize_size must be a whole number",
    ),
    "another image size": (wide_input, r"shape \(batch, 32, 32, 3\) for an image size of 32 px"),
    "batches of one": (fixed_batch, r"it has \(1, 32, 32, 3\)"),
    "planes first": (planes_first, r"it has \(batch, 3, 32, 32\)"),
    "float input": (float_input, "images must be a tensor of type UINT8"),
    "a list of tensors": (list_input, "images must be a tensor of type UINT8"),
    "no shape": (shapeless_input, r"it has \(\)"),
    "another input": (other_input, "only input must be 'images', it has pixels"),
    "a second input": (second_input, "it has images, more"),
    "no probs": (no_probs, "it has logits, cams"),
    "probs first": (swapped, "it has probs, logits, cams"),
    "half-precision probs": (half_probs, "probs must be a tensor of type FLOAT"),
    "flat maps": (flat_maps, r"cams must have shape \(batch, 8, any, any\)"),
    "fewer maps than classes": (few_maps, "cams must have shape"),
}


@pytest.mark.parametrize("name", FACTS)
def test_facts_and_graph_must_agree(name: str, tmp_path: Path):
    change, reason = FACTS[name]
    model = tiny_model()
    change(model)
    assert model != tiny_model()
    file = tmp_path / "other.onnx"
    file.write_bytes(model.SerializeToString())
    refused(file, reason)


def test_the_tiny_model_is_what_these_tests_think():
    assert SPEC.image_size == 32
    assert SPEC.resize_size == 36
    onnx.checker.check_model(tiny_model())
