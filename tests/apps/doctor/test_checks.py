from __future__ import annotations

import subprocess
import sys
from importlib import metadata
from pathlib import Path

import pytest

from apps.doctor import checks as doctor_checks
from apps.doctor.checks import (
    LISTED,
    check_cache,
    check_disk,
    check_environment,
    check_packages,
    check_threads,
    check_weights,
    torch_checkpoints,
)
from apps.runtime.installed import requirement


def test_missing_and_old_packages_are_wrong_with_their_repair(installed: dict[str, str]):
    installed["torch"] = "2.9.1"
    del installed["onnxruntime-gpu"]
    found = {finding.name: finding for finding in check_packages()}
    assert found["package torch"].status == "wrong"
    assert found["package torch"].found == "needs torch>=2.10, found 2.9.1"
    assert found["package torch"].repair == 'pip install "torch>=2.10"'
    assert found["package onnxruntime-gpu"].found.endswith("it is not installed")
    assert "package ruff" not in found
    assert "albumentations 2.0.8" in found["packages"].found


def test_a_local_or_preview_version_counts(installed: dict[str, str]):
    installed["torch"] = "2.13.0.dev1+cu132"
    assert all(finding.status == "ok" for finding in check_packages())


def test_this_installation_has_what_it_needs():
    assert [finding for finding in check_packages() if finding.status == "wrong"] == []


def test_a_source_folder_is_noted(installed: dict[str, str], monkeypatch: pytest.MonkeyPatch):
    def absent(name: str) -> list[str]:
        raise metadata.PackageNotFoundError(name)

    del installed["crl-toolkit"]
    monkeypatch.setattr(metadata, "requires", absent)
    assert {finding.name: finding.status for finding in check_packages()}["toolkit"] == "note"
    assert requirement("torch") == "torch"


@pytest.mark.parametrize(("free", "status"), [(10**12, "ok"), (10**9, "note"), (10**8, "wrong")])
def test_disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, free: int, status: str):
    monkeypatch.setattr(doctor_checks, "free_bytes", lambda folder: free)
    (finding,) = check_disk({"image cache": tmp_path / "not" / "yet"})
    assert finding.status == status
    assert f"{free / 1e9:.1f} GB free" in finding.found


def test_a_folder_that_cannot_be_written_to_is_wrong(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(doctor_checks.os, "access", lambda place, mode: False)
    (finding,) = check_disk({"run folder": tmp_path})
    assert (finding.status, finding.found) == ("wrong", f"{tmp_path} cannot be written to")


@pytest.mark.parametrize(
    ("cores", "asked", "quota", "status"),
    [
        (8, "", None, "ok"),
        (8, "8", None, "ok"),
        (8, "1", None, "note"),
        (8, "16", None, "note"),
        (8, "many", None, "note"),
        (8, "²", None, "note"),
        (8, "", 2.0, "note"),
        (2, "", 8.0, "ok"),
    ],
)
def test_threads(cores: int, asked: str, quota: float | None, status: str):
    finding = check_threads(cores, {"OMP_NUM_THREADS": asked} if asked else {}, quota)
    assert finding.status == status
    assert bool(finding.repair) == (status != "ok")


def test_variables_that_are_ignored_or_switch_downloads_off_are_noted():
    assert check_environment({"PATH": "/bin"}) == []
    gradio, hub = check_environment(
        {"GRADIO_SHARE": "True", "GRADIO_SERVER_NAME": "0", "HF_HUB_OFFLINE": "1"}
    )
    assert gradio.found.startswith("GRADIO_SERVER_NAME, GRADIO_SHARE: set, and ignored by crl demo")
    assert hub.status == "note"


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
    code = "import sys, apps.doctor.checks as w; w.check_weights(); print('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True).stdout == "False\n"


def test_a_user_without_a_home_folder_is_told_that_nothing_is_cached():
    finding = check_cache(None)
    assert (finding.status, finding.found) == ("note", "no folder to keep one in")
