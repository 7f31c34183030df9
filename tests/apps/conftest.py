"""What tests of several programs share: packages that stand for what is installed."""

from __future__ import annotations

import platform
from collections.abc import Iterator
from importlib import metadata

import pytest

from finetune.images.streams import guard

REQUIRES = [
    "torch>=2.10",
    "opencv-python-headless<6,>=4.10",
    "albumentations==2.0.8",
    'onnxruntime-gpu>=1.22; platform_machine == "x86_64"',
    'ruff>=0.9; extra == "dev"',
]


@pytest.fixture
def installed(monkeypatch: pytest.MonkeyPatch) -> dict[str, str]:
    """Packages that stand for what is installed: name -> version."""
    packages = {"crl-toolkit": "0.1.0", "torch": "2.12.1", "opencv-python-headless": "5.0.0"}
    packages |= {"albumentations": "2.0.8", "onnxruntime-gpu": "1.31.1"}

    def version(name: str) -> str:
        if name not in packages:
            raise metadata.PackageNotFoundError(name)
        return packages[name]

    monkeypatch.setattr(metadata, "version", version)
    monkeypatch.setattr(metadata, "requires", lambda name: REQUIRES)
    monkeypatch.setattr(platform, "machine", lambda: "x86_64")
    monkeypatch.setattr(platform, "system", lambda: "Linux")
    return packages


@pytest.fixture
def decoders(monkeypatch: pytest.MonkeyPatch) -> Iterator[guard.DecodeProcesses]:
    """The processes that decode costly images, none started yet."""
    made = guard.DecodeProcesses(2)
    monkeypatch.setattr(guard, "_pool", lambda: made)
    yield made
    made.close()
