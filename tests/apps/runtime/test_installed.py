from __future__ import annotations

import platform
import time

import pytest

from apps.runtime.installed import families, find_twins, refuse_twins
from finetune.errors import ResourceError


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
    monkeypatch.setattr(platform, "machine", lambda: machine)
    monkeypatch.setattr(platform, "system", lambda: system)
    assert families()[1].packages[0] == wanted


@pytest.mark.alone
def test_looking_for_twins_is_quick():
    refuse_twins()
    start = time.perf_counter()
    refuse_twins()
    assert time.perf_counter() - start < 0.05
