"""A training step asks a GPU for nothing that would make the host wait: counted without one."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.fake_gpu.step import CASES, COUNT, HALVES, LOSSES, MIXES, SIZE

HERE, ROOT = Path(__file__).parent, Path(__file__).resolve().parents[2]
IMAGES, TARGET = f"pinned {COUNT}x{SIZE}x{SIZE}x3", f"pinned {COUNT}"
PLAN = f"pinned {COUNT + COUNT * 4 * 4}"  # the target, and where DCL puts the regions of each image
PARTNERS = f"pinned {2 * COUNT}"  # the target, and which image each is mixed with


@pytest.mark.exhaustive
def test_a_step_copies_images_and_targets_from_pinned_memory_and_reads_nothing(tmp_path: Path) -> None:
    answer = answers_of("tests.fake_gpu.step", tmp_path)
    expected = {f"{case}, {name}": copies_of(case) for name in HALVES for case in CASES}
    expected |= {f"linear, {loss}": [IMAGES, TARGET] for loss in LOSSES}
    expected |= {mixed: [IMAGES, PARTNERS] for mixed in MIXES}
    expected["evaluation"] = [IMAGES]
    assert answer == expected


@pytest.mark.exhaustive
def test_a_general_step_copies_nothing_but_images_that_lie_with_the_host(tmp_path: Path) -> None:
    answer = answers_of("tests.fake_gpu.general", tmp_path)
    assert answer.pop("from the host") == ["pinned 16x8x8x1"]
    assert len(answer) == 11
    assert not any(answer.values()), answer


def answers_of(module: str, folder: Path) -> Any:
    """Return what a program of this room finds, with a library in place of the driver's."""
    compiler = shutil.which("cc")
    if compiler is None or sys.platform != "linux":
        pytest.skip("needs Linux and a C compiler")
    library, answer = folder / "devices.so", folder / "copies.json"
    command = [compiler, "-shared", "-fPIC", "-Wl,-soname,libcuda.so.1", "-o", library, HERE / "devices.c"]
    subprocess.run(command, check=True)
    environment = {**os.environ, "LD_PRELOAD": str(library), "FAKE_DEVICES": str(library)}
    run = [sys.executable, "-m", module, str(answer)]
    done = subprocess.run(
        run, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=600, check=False
    )
    assert done.returncode == 0, done.stderr[-3000:]
    return json.loads(answer.read_text())


def copies_of(case: str) -> list[str]:
    """Return the copies of a head's step."""
    if case == "DCL of the first release":  # two views of each image
        return [f"pinned {2 * COUNT}x{SIZE}x{SIZE}x3", PLAN]
    return [IMAGES, PLAN] if case.startswith("DCL") else [IMAGES, TARGET]
