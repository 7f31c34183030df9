"""Where a session runs, and what it says when that is not where it was asked to."""

from __future__ import annotations

import os
import sys
import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

import apps.runtime.batching
import apps.runtime.session
from apps.runtime.cuda_driver import Problem, driver_problem, library_problem
from apps.runtime.session import OnnxClassifier, cuda_problem, load_runtime
from finetune.cli import machine
from finetune.errors import ResourceError, UsageError
from tests.apps.tiny_onnx import write_tiny

NO_DRIVER = driver_problem() is not None


# Devices.


@pytest.mark.parametrize("word", ["gpu", "CUDA", "cuda:", "cuda:x", "cuda:-1", "", "cpu:0", "auto "])
def test_other_words_are_no_device(tmp_path: Path, word: str):
    with pytest.raises(UsageError, match="is not offered; choose auto, cpu, cuda or cuda:1"):
        OnnxClassifier(write_tiny(tmp_path / "tiny.onnx"), device=word)


@pytest.mark.alone
@pytest.mark.skipif(not NO_DRIVER, reason="this machine has a GPU")
@pytest.mark.parametrize("word", ["cuda", "cuda:1"])
def test_cuda_without_a_driver_names_the_library(
    tmp_path: Path, word: str, capfd: pytest.CaptureFixture[str]
):
    file, start = write_tiny(tmp_path / "tiny.onnx"), time.monotonic()
    with pytest.raises(
        ResourceError, match=rf"device {word} cannot be used: libcuda\.so\.1.*install the driver"
    ):
        OnnxClassifier(file, device=word)
    assert time.monotonic() - start < 3
    assert capfd.readouterr() == ("", "")


@pytest.mark.skipif(not NO_DRIVER, reason="this machine has a GPU")
def test_auto_without_a_driver_takes_the_processor_and_says_so(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
):
    model = OnnxClassifier(write_tiny(tmp_path / "tiny.onnx"))
    assert model.device == "cpu"
    assert model.device_note == (
        "device: asked auto, using cpu (ONNX Runtime; libcuda.so.1, the NVIDIA driver's library, cannot be "
        "loaded)"
    )
    assert capfd.readouterr() == ("", "")


@pytest.mark.skipif(not NO_DRIVER, reason="this machine has a GPU")
def test_the_runtime_s_silent_fall_back_is_noticed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
):
    """Nothing speaks against CUDA, the runtime is offered it, and comes up on the CPU."""
    monkeypatch.setattr(apps.runtime.session, "cuda_problem", lambda index: None)
    file = write_tiny(tmp_path / "tiny.onnx")
    with pytest.raises(ResourceError, match=r"device cuda cannot be used: the runtime .*--device cpu"):
        OnnxClassifier(file, device="cuda")
    model = OnnxClassifier(file)
    assert model.device == "cpu"
    assert "using cpu (ONNX Runtime; the runtime " in model.device_note
    assert capfd.readouterr() == ("", "")


@pytest.mark.parametrize(("asked", "given"), [(3, 3), (0, 4), (4, 4), (100_000, 4)])
def test_threads_are_as_asked_but_no_more_than_cores(tmp_path: Path, monkeypatch, asked, given):
    monkeypatch.setattr(apps.runtime.session, "core_count", lambda: 4)
    model = OnnxClassifier(write_tiny(tmp_path / "tiny.onnx"), device="cpu", threads=asked)
    options = model._session.get_session_options()
    assert (options.intra_op_num_threads, options.inter_op_num_threads) == (given, 1)
    assert options.get_session_config_entry("session.intra_op.allow_spinning") == "0"


@pytest.mark.parametrize(
    ("alone", "threads", "load", "spins"),
    [(True, 2, 0.9, "1"), (True, 2, 1.1, "0"), (True, 1, 0.0, "0"), (False, 4, 0.0, "0")],
)
def test_threads_wait_without_sleeping_where_a_program_has_idle_cores_to_itself(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, alone: bool, threads: int, load: float, spins: str
):
    for module in (apps.runtime.session, machine):
        monkeypatch.setattr(module, "core_count", lambda: 4)
    monkeypatch.setattr(os, "getloadavg", lambda: (load, 9.0, 9.0))
    model = OnnxClassifier(write_tiny(tmp_path / "tiny.onnx"), device="cpu", threads=threads, alone=alone)
    options = model._session.get_session_options()
    assert options.get_session_config_entry("session.intra_op.allow_spinning") == spins


def fake_runtime(**changes: Any) -> SimpleNamespace:
    return SimpleNamespace(
        **{
            "__version__": "1.30",
            "cuda_version": "13.0",
            "get_available_providers": lambda: ["CUDAExecutionProvider", "CPUExecutionProvider"],
            "preload_dlls": lambda: print("Failed to load libcurand.so.10"),
            **changes,
        }
    )


def test_a_runtime_without_cuda(monkeypatch: pytest.MonkeyPatch):
    runtime = fake_runtime(get_available_providers=lambda: ["CPUExecutionProvider"])
    monkeypatch.setattr(apps.runtime.session, "load_runtime", lambda: runtime)
    assert "pip install onnxruntime-gpu" in str(cuda_problem())


def test_a_driver_without_cuda_s_libraries(
    monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
):
    monkeypatch.setattr(apps.runtime.session, "load_runtime", fake_runtime)
    monkeypatch.setattr(apps.runtime.session, "driver_problem", lambda index: None)
    monkeypatch.setattr("apps.runtime.cuda_driver._loads", lambda name: "curand" not in name)
    problem = cuda_problem()
    assert problem == Problem(
        "libcurand.so.10 (of CUDA 13 and cuDNN 9) cannot be loaded",
        'pip install "onnxruntime-gpu[cuda,cudnn]", or install CUDA and cuDNN with the system',
    )
    assert capfd.readouterr() == ("", "")
    monkeypatch.setattr("apps.runtime.cuda_driver._loads", lambda name: True)
    assert cuda_problem() is None
    assert library_problem("") is None


# The runtime itself.


def test_both_runtimes_at_once_are_refused_at_first_use(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("apps.runtime.installed.installed_version", lambda name: "1.0")
    monkeypatch.delitem(sys.modules, "onnxruntime")
    with pytest.raises(ResourceError, match=r"onnxruntime-gpu and onnxruntime .*\n.*pip uninstall -y"):
        load_runtime()


def test_a_missing_runtime_is_told(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    with pytest.raises(ResourceError, match=r"onnxruntime cannot be loaded .*pip install onnxruntime"):
        load_runtime()
