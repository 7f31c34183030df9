"""What every test may lean on: one thread, no network, the real data where it is."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ["HF_HUB_OFFLINE"] = "1"
os.environ["NO_ALBUMENTATIONS_UPDATE"] = "1"
os.environ["ORT_DISABLE_TELEMETRY"] = "1"

SHARED = Path(__file__).resolve().parents[2] / "shared"


@pytest.fixture(scope="session")
def real_data() -> Path:
    """The folder of real images, fold files and weights; the test is skipped where it is absent."""
    folder = SHARED / "data"
    if not folder.is_dir():
        pytest.skip(f"needs the real data folder {folder.name!r} beside the repository")
    return folder


@pytest.fixture(scope="session")
def real_counts() -> Path:
    """The published counts of Adience's fold files."""
    file = SHARED / "specs" / "adience_counts.json"
    if not file.is_file():
        pytest.skip("needs adience_counts.json beside the repository")
    return file
