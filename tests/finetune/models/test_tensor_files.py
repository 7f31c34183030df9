from __future__ import annotations

import argparse
import io
import os
import pickle
import re
import socket
from collections import OrderedDict
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from finetune.errors import ModelFileError
from finetune.models.backbone import build_backbone
from finetune.models.tensor_files import forbidden_globals, read_tensors
from finetune.models.weights import find_local


class Malicious:
    def __init__(self, command: str) -> None:
        self.command = command

    def __reduce__(self):
        return os.system, (self.command,)


def test_safetensors_and_torch_files_of_either_format_read_alike(tmp_path):
    tensors = {"a.weight": torch.arange(4.0), "b": torch.ones(2, 2)}
    save_file(tensors, tmp_path / "w.safetensors")
    torch.save(tensors, tmp_path / "w.pth")
    torch.save(tensors, tmp_path / "w.bin", _use_new_zipfile_serialization=False)
    for name in ("w.safetensors", "w.pth", "w.bin"):
        read = read_tensors(tmp_path / name)
        assert read.keys() == tensors.keys()
        assert all(torch.equal(read[key], tensors[key]) for key in tensors)


def test_a_training_checkpoint_is_opened_to_its_averaged_weights_without_wrapper_prefixes(tmp_path):
    state = {
        "args": argparse.Namespace(lr=0.1),
        "state_dict": {"module.a": torch.zeros(1)},
        "state_dict_ema": {"module._orig_mod.a": torch.ones(1)},
    }
    torch.save(state, tmp_path / "w.pth")
    assert read_tensors(tmp_path / "w.pth") == {"a": torch.ones(1)}


@pytest.mark.parametrize("form", ["zip", "legacy", "pickle 2", "pickle 4"])
def test_a_malicious_pickle_is_refused_by_name_and_not_run(tmp_path, form):
    file, trace = tmp_path / "w.pth", tmp_path / "was_run"
    content = {"a": torch.ones(1), "b": Malicious(f"touch {trace}")}
    if form.startswith("pickle"):
        file.write_bytes(pickle.dumps(Malicious(f"touch {trace}"), protocol=int(form[-1])))
    else:
        torch.save(content, file, _use_new_zipfile_serialization=form == "zip")
    with pytest.raises(
        ModelFileError, match=rf"nothing in it was run: it asks for {os.name}\.system"
    ) as refusal:
        read_tensors(file)
    assert not trace.exists()
    assert refusal.value.exit_code == 4


@pytest.mark.parametrize("suffix", ["pth", "safetensors"])
def test_a_file_cut_short_is_called_damaged(tmp_path, suffix):
    whole = tmp_path / f"whole.{suffix}"
    tensors = {"a": torch.ones(1000)}
    if suffix == "pth":
        torch.save(tensors, whole)
    else:
        save_file(tensors, whole)
    (tmp_path / f"cut.{suffix}").write_bytes(whole.read_bytes()[:1500])
    with pytest.raises(ModelFileError, match="damaged"):
        read_tensors(tmp_path / f"cut.{suffix}")


def test_a_web_page_and_a_file_without_tensors_are_refused(tmp_path):
    (tmp_path / "page.pth").write_text("<html>not found</html>")
    with pytest.raises(ModelFileError, match="no torch weights file"):
        read_tensors(tmp_path / "page.pth")
    torch.save([1, 2], tmp_path / "list.pth")
    with pytest.raises(ModelFileError, match=r"holds no state dict.*list"):
        read_tensors(tmp_path / "list.pth")


class Evil:
    def __reduce__(self) -> tuple[object, tuple[str]]:
        return os.system, ("true",)


@pytest.mark.parametrize("protocol", range(pickle.HIGHEST_PROTOCOL + 1))
def test_the_import_of_a_plain_pickle_is_found_in_every_protocol(protocol: int) -> None:
    found = forbidden_globals(io.BytesIO(pickle.dumps({"a": [Evil()]}, protocol)))
    assert found == ["posix.system"]


def test_a_name_that_reaches_the_stack_from_the_memo_is_found() -> None:
    found = forbidden_globals(io.BytesIO(pickle.dumps(["posix", "system", Evil()], 4)))
    assert found == ["posix.system"]


def test_only_what_torch_does_not_hold_safe_is_listed() -> None:
    content = io.BytesIO()
    torch.save({"w": torch.ones(2), "order": OrderedDict(a=1), "evil": Evil()}, content)
    assert forbidden_globals(content) == ["posix.system"]


@pytest.mark.parametrize("content", [b"", b"PK\x03\x04 broken", b"\x80\x04 no pickle", b"\xff\xd8\xff image"])
def test_what_is_no_pickle_imports_nothing(content: bytes) -> None:
    assert forbidden_globals(io.BytesIO(content)) == []


def test_an_import_before_the_damage_still_counts() -> None:
    assert forbidden_globals(io.BytesIO(pickle.dumps(Evil(), 2)[:-1] + b"\xff\xff")) == ["posix.system"]


def spoiled(kind: str, file: Path) -> Path:
    """Write a weights file that cannot be used; return it, or what is to be given in its place."""
    save_file({"a": torch.ones(64)}, file)
    if kind == "without tensors":
        save_file({}, file)
    elif kind == "cut":
        file.write_bytes(file.read_bytes()[:100])
    elif kind == "flipped":
        file.write_bytes(b"\xff" * 8 + file.read_bytes()[8:])
    elif kind == "no bytes":
        file.write_bytes(b"")
    elif kind == "a folder":
        file.unlink()
        file.mkdir()
    elif kind == "missing":
        file.unlink()
    return file


@pytest.mark.parametrize(
    "kind", ["without tensors", "cut", "flipped", "no bytes", "a folder", "missing", "of another model"]
)
@pytest.mark.parametrize("name", ["w.safetensors", "w.pth", "w.pth.tar"])
def test_a_file_that_cannot_be_used_never_asks_the_network(
    kind: str, name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    def ask(*_asked: object, **_how: object) -> None:
        pytest.fail("asked the network")

    for module, call in ((socket.socket, "connect"), (socket, "create_connection"), (socket, "getaddrinfo")):
        monkeypatch.setattr(module, call, ask)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", False)
    monkeypatch.delenv("HF_HUB_OFFLINE", raising=False)
    monkeypatch.chdir(tmp_path)
    given = spoiled(kind, tmp_path / name).name  # without a slash
    if name != "w.safetensors" and kind == "without tensors":
        torch.save({}, tmp_path / name)
    with pytest.raises(ModelFileError, match=re.escape(given)) as caught:
        build_backbone("test_resnet", given)
    assert caught.value.exit_code == 4


def test_a_checkpoint_of_timms_own_training_is_read_by_its_name(tmp_path: Path):
    file = tmp_path / "model_best.pth.tar"
    torch.save({"epoch": 3, "state_dict": {"module.a": torch.ones(1)}}, file)
    assert read_tensors(find_local(file, "test_resnet")) == {"a": torch.ones(1)}
