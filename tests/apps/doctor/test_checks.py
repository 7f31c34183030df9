from __future__ import annotations

import time
from importlib import metadata
from pathlib import Path

import pytest

from apps.doctor import checks as doctor_checks
from apps.doctor.checks import (
    check_disk,
    check_environment,
    check_packages,
    check_threads,
    cpu_quota,
    families,
    find_twins,
    refuse_twins,
    requirement,
)
from finetune.errors import ResourceError

REQUIRES = [
    "torch>=2.10",
    "opencv-python-headless<6,>=4.10",
    "albumentations==2.0.8",
    'onnxruntime-gpu>=1.22; platform_machine == "x86_64"',
    'ruff>=0.9; extra == "dev"',
]


@pytest.fixture
def installed(monkeypatch: pytest.MonkeyPatch) -> dict[str, str]:
    """Packages that stand for what is installed: name -> version."""
    packages = {"crl-toolkit": "0.1.0", "torch": "2.12.1", "opencv-python-headless": "5.0.0"}
    packages |= {"albumentations": "2.0.8", "onnxruntime-gpu": "1.31.1"}

    def version(name: str) -> str:
        if name not in packages:
            raise metadata.PackageNotFoundError(name)
        return packages[name]

    monkeypatch.setattr(doctor_checks.metadata, "version", version)
    monkeypatch.setattr(doctor_checks.metadata, "requires", lambda name: REQUIRES)
    monkeypatch.setattr(doctor_checks.platform, "machine", lambda: "x86_64")
    monkeypatch.setattr(doctor_checks.platform, "system", lambda: "Linux")
    return packages


def test_one_of_each_family_is_fine(installed: dict[str, str]):
    assert find_twins() == []
    refuse_twins()


@pytest.mark.parametrize(
    ("other", "repair"),
    [
        (
            "opencv-python",
            "pip uninstall -y opencv-python-headless opencv-python "
            '&& pip install "opencv-python-headless<6,>=4.10"',
        ),
        (
            "opencv-contrib-python",
            "pip uninstall -y opencv-python-headless opencv-contrib-python "
            '&& pip install "opencv-python-headless<6,>=4.10"',
        ),
        (
            "onnxruntime",
            'pip uninstall -y onnxruntime-gpu onnxruntime && pip install "onnxruntime-gpu>=1.22"',
        ),
        (
            "albumentationsx",
            'pip uninstall -y albumentations albumentationsx && pip install "albumentations==2.0.8"',
        ),
    ],
)
def test_fault_29_twins_are_told_with_the_commands_that_mend_it(
    installed: dict[str, str], other: str, repair: str
):
    installed[other] = "1.0"
    (finding,) = find_twins()
    assert finding.status == "wrong"
    assert finding.repair == repair
    assert "are both installed and overwrite each other" in finding.found
    with pytest.raises(ResourceError) as error:
        refuse_twins()
    assert repair in str(error.value)
    assert error.value.exit_code == 5


def test_fault_29_albumentationsx_is_wrong_even_alone(installed: dict[str, str]):
    del installed["albumentations"]
    installed["albumentationsx"] = "2.1"
    (finding,) = find_twins()
    assert finding.found == "albumentationsx stands in the place of albumentations"
    assert finding.repair == 'pip uninstall -y albumentationsx && pip install "albumentations==2.0.8"'


def test_another_opencv_alone_is_not_a_twin(installed: dict[str, str]):
    installed["opencv-python"] = installed.pop("opencv-python-headless")
    assert find_twins() == []


def test_several_families_are_told_at_once(installed: dict[str, str]):
    installed |= {"opencv-python": "5.0.0", "onnxruntime": "1.31.1"}
    with pytest.raises(ResourceError) as error:
        refuse_twins()
    assert str(error.value).count("pip uninstall") == 2


@pytest.mark.parametrize(
    ("machine", "system", "wanted"),
    [
        ("x86_64", "Linux", "onnxruntime-gpu"),
        ("AMD64", "Windows", "onnxruntime-gpu"),
        ("x86_64", "Darwin", "onnxruntime"),
        ("aarch64", "Linux", "onnxruntime"),
    ],
)
def test_the_runtime_that_is_kept_fits_the_machine(monkeypatch, machine: str, system: str, wanted: str):
    monkeypatch.setattr(doctor_checks.platform, "machine", lambda: machine)
    monkeypatch.setattr(doctor_checks.platform, "system", lambda: system)
    assert families()[1].packages[0] == wanted


@pytest.mark.alone
def test_looking_for_twins_is_quick():
    refuse_twins()
    start = time.perf_counter()
    refuse_twins()
    assert time.perf_counter() - start < 0.05


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
    monkeypatch.setattr(doctor_checks.metadata, "requires", absent)
    assert {finding.name: finding.status for finding in check_packages()}["toolkit"] == "note"
    assert requirement("torch") == "torch"


@pytest.mark.parametrize(("free", "status"), [(10**12, "ok"), (10**9, "note"), (10**8, "wrong")])
def test_disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, free: int, status: str):
    monkeypatch.setattr(doctor_checks, "free_bytes", lambda folder: free)
    (finding,) = check_disk({"picture cache": tmp_path / "not" / "yet"})
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


@pytest.mark.parametrize(("text", "quota"), [("max 100000", None), ("150000 100000", 1.5), ("", None)])
def test_a_containers_limit_is_read(tmp_path: Path, text: str, quota: float | None):
    (tmp_path / "cpu.max").write_text(text)
    assert cpu_quota(tmp_path / "cpu.max") == quota
    assert cpu_quota(tmp_path / "absent") is None


def test_variables_that_are_ignored_or_switch_downloads_off_are_noted():
    assert check_environment({"PATH": "/bin"}) == []
    gradio, hub = check_environment(
        {"GRADIO_SHARE": "True", "GRADIO_SERVER_NAME": "0", "HF_HUB_OFFLINE": "1"}
    )
    assert gradio.found.startswith("GRADIO_SERVER_NAME, GRADIO_SHARE: set, and ignored by crl demo")
    assert hub.status == "note"
