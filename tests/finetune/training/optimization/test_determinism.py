"""What keeps a run from being repeated: avoided, or noted where it is read again."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

import finetune.training.optimization.torch_settings as torch_settings
from finetune.training.data import TrainingData
from finetune.training.optimization.determinism import NOTE, inexact_operations, noted_inexactness
from finetune.training.optimization.precision import Precision
from finetune.training.optimization.torch_settings import prepare_torch
from tests.finetune.quick import STEPS, at_call, break_off, disturb_loss, last, quick, train

POOLING = (
    "adaptive_avg_pool2d_backward_cuda does not have a deterministic implementation, but you set "
    "'torch.use_deterministic_algorithms(True, warn_only=True)'. You can file an issue"
)
ATTENTION = "Flash Attention defaults to a non-deterministic algorithm. To explicitly enable determinism call"


@pytest.fixture
def _as_before() -> Iterator[None]:
    """Torch's switches as they were."""
    backends = torch.backends.cuda
    switches = [
        (backends.enable_flash_sdp, backends.flash_sdp_enabled()),
        (backends.enable_mem_efficient_sdp, backends.mem_efficient_sdp_enabled()),
        (backends.enable_cudnn_sdp, backends.cudnn_sdp_enabled()),
    ]
    benchmark, fill = torch.backends.cudnn.benchmark, torch.utils.deterministic.fill_uninitialized_memory
    yield
    for enable, value in switches:
        enable(value)
    torch.use_deterministic_algorithms(False)
    torch.backends.cudnn.benchmark = benchmark
    torch.utils.deterministic.fill_uninitialized_memory = fill


@pytest.mark.usefixtures("_as_before")
def test_attention_is_computed_by_plain_products_where_a_gpu_must_repeat_itself(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(Precision, "set_products", lambda precision: None)
    monkeypatch.setattr(torch_settings.os, "environ", {})
    gpu = Precision(torch.device("cuda"), torch.bfloat16, True, False, "cuda", "without one")
    backends = torch.backends.cuda

    def faster() -> list[bool]:
        return [
            backends.flash_sdp_enabled(),
            backends.mem_efficient_sdp_enabled(),
            backends.cudnn_sdp_enabled(),
        ]

    prepare_torch(gpu, deterministic=True)
    assert (faster(), backends.math_sdp_enabled()) == ([False] * 3, True)
    prepare_torch(gpu, deterministic=False)
    assert faster() == [True] * 3


def test_each_operation_without_a_deterministic_way_is_noted_once(capsys: pytest.CaptureFixture[str]) -> None:
    notes = ["of the weights"]
    with noted_inexactness(notes):
        for text in (POOLING, POOLING, ATTENTION):
            warnings.warn(text, UserWarning, stacklevel=1)
        with pytest.warns(UserWarning, match="another matter"):
            warnings.warn("another matter", UserWarning, stacklevel=1)
    found = [f"{NOTE}adaptive_avg_pool2d_backward_cuda", f"{NOTE}Flash Attention"]
    assert notes == ["of the weights", *found]
    assert inexact_operations(notes) == found
    assert capsys.readouterr().out.count("cannot be repeated bit for bit") == 2


@pytest.mark.usefixtures("one_thread")
def test_a_resumed_run_says_what_made_it_inexact(
    task: TrainingData, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    config = quick(train_epochs=1)
    with monkeypatch.context() as patch:
        warn = at_call(2, lambda: warnings.warn(POOLING, UserWarning, stacklevel=1))
        disturb_loss(patch, warn)
        break_off(task, tmp_path, config, call=STEPS - 1)
    note = f"{NOTE}adaptive_avg_pool2d_backward_cuda"
    assert last(tmp_path)["learner"]["notes"][-1] == note
    capsys.readouterr()
    fitted = train(task, tmp_path, config)
    assert f"{note}: the resumed run is statistically equivalent, no longer bit-exact" in (
        capsys.readouterr().out
    )
    assert fitted.learner.notes[-1] == note
