"""Freed memory is kept where the C library can be told so, and nowhere else."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from finetune.cli import allocator
from finetune.cli.allocator import OWN_SETTINGS, SWITCH, TUNABLES, keep_freed_memory, memory_is_kept

ROOT = Path(__file__).resolve().parents[3]

# Large blocks are made and freed; pages that come back from the system are counted as faults.
MEASURE = """
import resource
from finetune.cli.allocator import keep_freed_memory
print(keep_freed_memory())
for _ in range(3):
    block = bytearray(64 << 20)
    del block
before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
for _ in range(4):
    block = bytearray(64 << 20)
    del block
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""


def measured(**environment: str) -> tuple[bool, int]:
    """Return whether memory is kept in a process of its own, and the page faults of four large blocks."""
    plain = {
        name: value for name, value in os.environ.items() if name not in (*OWN_SETTINGS, TUNABLES, SWITCH)
    }
    done = subprocess.run(
        [sys.executable, "-c", MEASURE],
        cwd=ROOT,
        env={**plain, **environment},
        capture_output=True,
        text=True,
        check=True,
        timeout=60,
    )
    kept, faults = done.stdout.split()
    return kept == "True", int(faults)


@pytest.mark.skipif(not allocator._has_glibc(), reason="needs Linux with glibc")
def test_large_blocks_get_their_pages_again():
    kept, faults = measured()
    assert kept
    assert faults < 500
    assert measured(**{SWITCH: "0"})[1] > 4 * 8000  # 64 MB are 16,384 pages of 4 KB


@pytest.mark.parametrize(
    ("name", "value"),
    [(SWITCH, "0"), ("MALLOC_MMAP_THRESHOLD_", "131072"), (TUNABLES, "glibc.malloc.trim_threshold=131072")],
)
def test_whoever_decides_otherwise_is_obeyed(monkeypatch: pytest.MonkeyPatch, name: str, value: str):
    monkeypatch.setenv(name, value)
    keep_freed_memory.cache_clear()
    try:
        assert not keep_freed_memory()
        assert not memory_is_kept()
    finally:
        keep_freed_memory.cache_clear()


def test_other_systems_are_left_alone(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(allocator.platform, "libc_ver", lambda: ("", ""))
    keep_freed_memory.cache_clear()
    try:
        assert not keep_freed_memory()
    finally:
        keep_freed_memory.cache_clear()


TRAIN = """
import sys
from pathlib import Path
from finetune.cli.allocator import memory_is_kept
from tests.finetune.quick import quick, task_of, train, trained_hash
root, name = Path(sys.argv[1]), sys.argv[2]
fitted = train(task_of(root), root / name, quick(train_epochs=1))
print(memory_is_kept(), trained_hash(fitted))
"""


@pytest.mark.exhaustive
@pytest.mark.skipif(not allocator._has_glibc(), reason="needs Linux with glibc")
def test_a_training_ends_with_the_same_weights(tmp_path: Path):
    told = {}
    for switch in ("0", "1"):
        run = [sys.executable, "-c", TRAIN, str(tmp_path), switch]
        environment = {**os.environ, SWITCH: switch}
        done = subprocess.run(run, cwd=ROOT, env=environment, capture_output=True, text=True, check=True)
        told[switch] = done.stdout.splitlines()[-1].split()
    assert [kept for kept, _ in told.values()] == ["False", "True"]
    assert told["0"][1] == told["1"][1]
