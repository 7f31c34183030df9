from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from apps.doctor.weight_files import LISTED, check_weights, torch_checkpoints


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A machine without any weights: a working folder, a hub cache and a torch cache of its own."""
    from huggingface_hub import constants

    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "torch"))
    return tmp_path


def put(file: Path, size: int) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_bytes(bytes(size))


def test_what_lies_in_the_caches_and_in_weights_is_named_with_its_size(home: Path):
    put(home / "hub/models--timm--resnet18.a1_in1k/blobs/0a", 46_800_000)
    snapshot = home / "hub/models--timm--resnet18.a1_in1k/snapshots/c0"
    snapshot.mkdir(parents=True)
    (snapshot / "model.safetensors").symlink_to("../../blobs/0a")
    put(home / "hub/models--timm--half/snapshots/c0/config.json", 10)
    put(home / "torch/hub/checkpoints/vgg.pth", 1_500_000)
    put(home / "weights/own\x1b.safetensors", 2_000_000)
    put(home / "weights/face.onnx", 5)
    finding = check_weights()
    assert finding.status == "ok"
    assert finding.found == (
        f"timm/resnet18.a1_in1k (46.8 MB), {home}/torch/hub/checkpoints/vgg.pth (1.5 MB), "
        "weights/own\\x1b.safetensors (2.0 MB)"
    )


def test_nothing_is_a_note_that_says_where_was_looked(home: Path):
    finding = check_weights()
    assert finding.status == "note"
    assert finding.found == f"none in {home}/hub, {torch_checkpoints()} and ./weights"
    assert "crl doctor --backbone NAME" in finding.repair


def test_many_are_counted(home: Path):
    for number in range(LISTED + 3):
        put(home / f"weights/{number:02}.pth", 1)
    assert check_weights().found.endswith(f"{LISTED - 1:02}.pth (0.0 MB) and 3 more")


def test_torch_is_not_needed():
    code = "import sys, apps.doctor.weight_files as w; w.check_weights(); print('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True).stdout == "False\n"
