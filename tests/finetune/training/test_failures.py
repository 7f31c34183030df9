"""What a run says when it cannot go on."""

from __future__ import annotations

import sys

import numpy as np
import pytest
import torch

from finetune.errors import DataError, DivergedError, ResourceError, UsageError
from finetune.training.data import TrainingData
from finetune.training.failures import (
    check_batch_norm,
    check_finite_weights,
    resume_line,
    says_out_of_memory,
    told_failures,
)
from finetune.training.learner import build_learner
from finetune.training.loop import NotFiniteLossError
from finetune.training.optimization.distributed import World
from tests.finetune.quick import QUICK, quick


def test_a_loss_that_is_not_finite_names_files_and_remedies(task: TrainingData):
    error = NotFiniteLossError(1, 4, float("nan"), np.arange(20, 32), 0.02)
    with pytest.raises(DivergedError) as told, told_failures(task, QUICK):
        raise error
    assert told.value.exit_code == DataError.exit_code
    message = str(told.value)
    assert message.startswith("the loss is nan at step 5 of epoch 2 (learning rate 0.02)")
    assert "20.png, 21.png" in message
    assert "28.png" not in message
    assert "--train.clip_grad" in message


@pytest.mark.parametrize(
    "error",
    [
        torch.OutOfMemoryError("CUDA out of memory."),
        RuntimeError(
            "[enforce fail] DefaultCPUAllocator: can't allocate memory: you tried to allocate 9 bytes"
        ),
        RuntimeError("MPS backend out of memory"),
        MemoryError(),
    ],
)
def test_every_kind_of_exhausted_memory_gets_two_remedies(task: TrainingData, error: Exception):
    rule = r"--train\.batch_size 8 at 32 px.*halve.*or lower"
    with pytest.raises(ResourceError, match=rule) as told, told_failures(task, QUICK):
        raise error
    assert told.value.exit_code == 5
    assert told.value.__cause__ is error


@pytest.mark.parametrize("error", [RuntimeError("mat1 and mat2"), KeyError("x"), UsageError("no")])
def test_other_errors_pass_unchanged(task: TrainingData, error: Exception):
    with pytest.raises(type(error)) as told, told_failures(task, QUICK):
        raise error
    assert told.value is error


def test_memory_words_are_recognised():
    assert says_out_of_memory(RuntimeError("CUDA error: out of memory"))
    assert not says_out_of_memory(RuntimeError("out of range"))


def test_one_picture_is_refused_only_for_batch_norm(task: TrainingData):
    norm = build_learner(task, QUICK, World()).core
    check_batch_norm(norm, 2)
    with pytest.raises(UsageError, match="batch normalisation cannot learn from one image"):
        check_batch_norm(norm, 1)
    check_batch_norm(build_learner(task, quick(model_backbone="test_vit"), World()).core, 1)


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
def test_a_weight_that_is_not_finite_is_found(task: TrainingData, value: float):
    core = build_learner(task, QUICK, World()).core
    check_finite_weights(core, 0, 3)
    with torch.no_grad():
        core.head.classifier.weight[1, 2] = value
    with pytest.raises(DataError, match="after step 3 of epoch 1"):
        check_finite_weights(core, 0, 3)


def test_the_resume_line_asks_for_it_exactly_once(monkeypatch: pytest.MonkeyPatch):
    for typed in (["--run.resume", "never"], ["--run.resume=auto"], []):
        monkeypatch.setattr(sys, "argv", ["crl", "age", "train", *typed, "--run.dir", "my runs/a"])
        expected = "go on with:\n  crl age train --run.dir 'my runs/a' --run.resume auto"
        assert resume_line() == expected
