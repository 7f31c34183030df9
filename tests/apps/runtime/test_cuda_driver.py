from __future__ import annotations

import re
from types import SimpleNamespace
from typing import Any

import pytest

from apps.runtime.cuda_driver import Problem, driver_problem, library_problem


@pytest.mark.parametrize(
    ("status", "count", "index", "told"),
    [
        (100, 0, 0, "finds no GPU .status 100.: nvidia-smi"),
        (0, 0, 0, "finds no GPU"),
        (0, 2, 2, "there is no GPU 2: the driver counts 2"),
        (0, 2, 1, None),
    ],
)
def test_the_driver_is_asked_for_cards(
    monkeypatch: pytest.MonkeyPatch, status: int, count: int, index: int, told: str | None
):
    def count_cards(place: Any) -> int:
        place._obj.value = count
        return 0

    driver = SimpleNamespace(cuInit=lambda flags: status, cuDeviceGetCount=count_cards)
    monkeypatch.setattr("apps.runtime.cuda_driver.ctypes.CDLL", lambda name: driver)
    problem = driver_problem(index)
    assert (problem is None) == (told is None)
    if told is not None:
        assert re.search(told, str(problem))


def test_missing_libraries_are_named_with_the_command_that_brings_them(monkeypatch: pytest.MonkeyPatch):
    asked: list[str] = []
    monkeypatch.setattr(
        "apps.runtime.cuda_driver._loads", lambda name: asked.append(name) or "cu" not in name[3:5]
    )
    problem = library_problem("12.8")
    assert problem == Problem(
        "libcudart.so.12, libcublasLt.so.12, libcublas.so.12, libcurand.so.10, libcudnn.so.9 (of CUDA 12 and "
        "cuDNN 9) cannot be loaded",
        'pip install "onnxruntime-gpu[cuda,cudnn]", or install CUDA and cuDNN with the system',
    )
