"""Where, how finely and how many at once a study computes."""

from __future__ import annotations

import pytest
import torch

import finetune.training.optimization.precision
from finetune.errors import UsageError
from generalcls.config import GeneralConfig, GeneralRunConfig
from generalcls.parallel.dispatch import choose_numbers, computes_side_by_side, study_device
from tests.generalcls.small_study import network

CPU, CUDA = torch.device("cpu"), torch.device("cuda")


def asked(precision: str, device: str = "auto") -> GeneralConfig:
    return GeneralConfig(run=GeneralRunConfig(precision=precision), device=device)


def test_numbers_on_a_processor():
    assert choose_numbers(asked("auto", "cpu"))[0].dtype == torch.float32
    assert choose_numbers(asked("float64", "cpu"))[1] == torch.float64
    half, dtype = choose_numbers(asked("bfloat16", "cpu"))
    assert (half.dtype, dtype, half.asked) == (torch.bfloat16, torch.float32, "cpu")


def test_apples_gpus_are_left_to_others(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(finetune.training.optimization.precision, "_has_mps", lambda: True)
    assert study_device("auto") == "cpu"
    for precision in ("auto", "float32", "float64", "bfloat16"):
        found, _ = choose_numbers(asked(precision))
        assert (found.device.type, found.asked) == ("cpu", "auto")
        assert "mps has no float64" in found.describe()
    with pytest.raises(UsageError, match="--device cpu"):
        choose_numbers(asked("auto", "mps"))


def test_who_trains_together():
    assert computes_side_by_side(network("mlp", 0), CPU, 2)
    assert not computes_side_by_side(network("mlp", 0), CPU, 1)
    assert not computes_side_by_side(network("mnist_cnn", 0), CPU, 2)
    assert computes_side_by_side(network("mnist_cnn", 0), CUDA, 1)
