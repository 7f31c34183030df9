"""What the general tests share: the console as a program finds it."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from finetune.cli import console


@pytest.fixture(autouse=True)
def fresh_console() -> Iterator[None]:
    """Let no test leave the console in another mode."""
    yield
    console.reset()
