"""Fixtures of the tests that ask the same of every task."""

from __future__ import annotations

import pytest

from tests.finetune.experiments.made_tasks import MADE, MadeTask
from tests.finetune.experiments.tiny_tasks import NAMES, TinyTask, make_tiny


@pytest.fixture(scope="session", params=NAMES)
def tiny(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> TinyTask:
    """Each task with a small data set of its own; tests leave the data as they are."""
    return make_tiny(request.param, tmp_path_factory.mktemp(f"tiny_{request.param}"))


@pytest.fixture(scope="session", params=NAMES)
def made(request: pytest.FixtureRequest) -> MadeTask:
    """Each task with predictions that no training made."""
    return MADE[request.param]
