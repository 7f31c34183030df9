from __future__ import annotations

import json
from pathlib import Path

import pytest

from apps.doctor import probes as doctor_probes
from apps.doctor.probes import main, probe_pictures, probe_runtime, probe_torch, probe_weights
from apps.runtime.cuda_driver import Problem
from finetune.models.weights import Published


def test_the_tiny_model_is_a_valid_one():
    import onnx

    model = onnx.load_from_string(doctor_probes.TINY_MODEL)
    onnx.checker.check_model(model, full_check=True)


def test_the_processors_provider_really_computes():
    (finding,) = probe_runtime()
    assert finding.name == "serving device"
    assert finding.status in ("ok", "note")
    assert "cpu" in finding.found


def test_a_runtime_that_cannot_be_loaded_is_wrong(monkeypatch: pytest.MonkeyPatch):
    from finetune.errors import ResourceError

    def broken() -> object:
        raise ResourceError("onnxruntime cannot be loaded")

    monkeypatch.setattr("apps.runtime.session.load_runtime", broken)
    assert [finding.status for finding in probe_runtime()] == ["wrong"]


def test_fault_28_a_card_that_cannot_be_used_names_the_library(monkeypatch: pytest.MonkeyPatch):
    problem = Problem("libcudnn.so.9 cannot be loaded", "pip install nvidia-cudnn-cu13")
    monkeypatch.setattr("apps.runtime.session.cuda_problem", lambda: problem)
    (finding,) = probe_runtime()
    assert (finding.status, finding.repair) == ("note", "pip install nvidia-cudnn-cu13")
    assert "cpu loads; cuda: libcudnn.so.9 cannot be loaded" in finding.found


def test_a_provider_that_is_silently_replaced_is_found_out(monkeypatch: pytest.MonkeyPatch):
    from apps.runtime.session import CUDA, load_runtime

    if CUDA in load_runtime().get_available_providers() and Path("/dev/nvidia0").exists():
        pytest.skip("the GPU really works here")
    monkeypatch.setattr("apps.runtime.session.cuda_problem", lambda: None)
    (finding,) = probe_runtime()
    assert finding.status == "note"
    assert "cuda fails: " in finding.found


def test_torch_tells_its_device():
    (finding,) = probe_torch()
    assert finding.name == "training device"
    assert finding.found.startswith("torch 2.")


@pytest.mark.parametrize("reason", [None, "it needs a build for an earlier CUDA version"])
def test_a_gpu_on_which_computing_fails_names_what_to_install(monkeypatch: pytest.MonkeyPatch, reason):
    import torch

    def broken(*given: object, **named: object) -> object:
        raise RuntimeError("CUDA error: no kernel image is available for execution on the device")

    for name, value in (("is_available", True), ("device_count", 1), ("get_device_name", "Tesla V100")):
        monkeypatch.setattr(torch.cuda, name, lambda *given, value=value: value)
    monkeypatch.setattr(torch, "ones", broken)
    monkeypatch.setattr("finetune.training.optimization.precision.unserved_gpu", lambda device: reason)
    (finding,) = probe_torch()
    assert finding.status == "wrong"
    assert "Tesla V100, but computing fails: CUDA error: no kernel image" in finding.found
    assert finding.repair.startswith(reason or "crl doctor --gpu looks further")


def test_opencv_and_the_detector(real_data: Path):
    (file,) = (real_data / "face_detection").glob("*.onnx")
    opencv, detector = probe_pictures(str(file))
    assert (opencv.status, detector.status) == ("ok", "ok")
    assert str(file) in detector.found


def test_no_detector_is_a_note_and_a_named_one_that_is_absent_wrong(tmp_path: Path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("CRL_CACHE", str(tmp_path))
    monkeypatch.delenv("CRL_FACE_DETECTOR", raising=False)
    monkeypatch.setattr("agecls.faces.detector.build_detector", lambda path: None)
    assert probe_pictures()[1].status == "note"
    assert "OpenCV Zoo" in probe_pictures()[1].repair
    monkeypatch.undo()
    assert probe_pictures(str(tmp_path / "absent.onnx"))[1].status == "wrong"
    (tmp_path / "no.onnx").write_bytes(b"no model")
    assert probe_pictures(str(tmp_path / "no.onnx"))[1].status == "wrong"


@pytest.fixture
def empty_caches(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr("finetune.models.weights.find_cached", lambda published: None)
    monkeypatch.setattr("finetune.models.weights.forbidden_to_connect", lambda: False)
    monkeypatch.setattr(
        "finetune.models.weights._download", lambda published: pytest.fail("a doctor fetches nothing")
    )
    return tmp_path


def test_fault_30_offline_it_says_what_to_fetch_and_where_to_put_it(empty_caches: Path, monkeypatch):
    monkeypatch.setattr("finetune.models.weights.can_reach", lambda address: False)
    (finding,) = probe_weights("resnet18")
    assert finding.status == "wrong"
    assert finding.found.endswith("are not on this machine, and there is no connection to fetch them.")
    fetch, place, other = finding.repair.splitlines()
    assert fetch.startswith("fetch    model.safetensors of timm/resnet18.")
    assert place.startswith("put it   at ")
    assert place.endswith(".safetensors")
    assert "--model.weights PATH" in other


def test_weights_that_can_be_fetched_are_a_note_and_are_not_fetched(empty_caches: Path, monkeypatch):
    monkeypatch.setattr("finetune.models.weights.can_reach", lambda address: True)
    (finding,) = probe_weights("resnet18")
    assert (finding.status, finding.found) == ("note", "resnet18.a1_in1k is not on this machine yet")


def test_a_switched_off_hub_is_named(empty_caches: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("finetune.models.weights.forbidden_to_connect", lambda: True)
    monkeypatch.setattr(
        "finetune.models.weights.can_reach", lambda address: pytest.fail("it asked the network")
    )
    assert "HF_HUB_OFFLINE is set" in probe_weights("resnet18")[0].found


def test_weights_that_nobody_publishes_are_a_note(empty_caches: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(
        "finetune.models.backbone.published_weights", lambda name: Published(name, "", None, None, "unknown")
    )
    assert probe_weights("mine")[0].found == "nobody publishes weights for mine"


def test_an_unknown_backbone_and_a_broken_file_are_wrong(tmp_path: Path):
    assert "no timm model is called 'resnet81'" in probe_weights("resnet81")[0].found
    (tmp_path / "w.safetensors").write_bytes(b"broken")
    assert probe_weights("", str(tmp_path / "w.safetensors"))[0].status == "wrong"
    assert probe_weights("", str(tmp_path / "absent.pth"))[0].status == "wrong"


def test_a_weights_file_is_read_and_must_fit_the_backbone(real_data: Path):
    file = str(real_data / "weights" / "tf_efficientnet_lite0_imagenet.pth")
    assert probe_weights("", file)[0].status == "ok"
    assert probe_weights("tf_efficientnet_lite0", file)[0].status == "ok"
    assert probe_weights("resnet18", file)[0].status == "wrong"


def test_a_probe_prints_json_on_its_last_line(capsys: pytest.CaptureFixture[str]):
    main(["runtime"])
    (finding,) = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert set(finding) == {"name", "status", "found", "repair"}
