"""Fixtures of the engine's tests: drawn images and the task over them, made once."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from finetune.cli import console
from finetune.training.data import TrainingData
from tests.finetune.quick import task_of


@pytest.fixture(scope="session")
def pictures(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of sixty drawn images in three classes."""
    root = tmp_path_factory.mktemp("drawn") / "pictures"
    task_of(root)
    return root


@pytest.fixture(scope="session")
def task(pictures: Path) -> TrainingData:
    """Forty-five of them to train on and fifteen to validate."""
    return task_of(pictures)


@pytest.fixture
def one_thread() -> Iterator[None]:
    """Torch on one thread, so that bits do not depend on the machine's load."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)
    console.reset()
