"""Drawn faces and two finished cross-validations of them, made once for all tests of this folder."""

from __future__ import annotations

from pathlib import Path

import pytest

from agecls.cross_validation import cross_validate
from agecls.task import TASK
from finetune.cli.console import quiet, reset
from tests.agecls.tiny_ages import drawn_faces, tiny


@pytest.fixture(scope="session")
def faces(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Ten albums of drawn people in Adience's layout; tests leave them as they are."""
    return drawn_faces(tmp_path_factory.mktemp("ages") / "faces")


@pytest.fixture(scope="session")
def other_faces(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Ten other albums of other people."""
    return drawn_faces(tmp_path_factory.mktemp("others") / "faces", images_per_subject=1, seed=1)


@pytest.fixture(scope="session")
def pair(faces: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """The finished cross-validations of cross-entropy and CRL, equal in everything else."""
    folder = tmp_path_factory.mktemp("pair")
    quiet()
    try:
        for loss in ("cel", "crl"):
            cross_validate(TASK, tiny(faces, folder / loss, loss))
    finally:
        reset()
    return folder / "cel", folder / "crl"
