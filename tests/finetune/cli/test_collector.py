"""The garbage collector is slowed down while a program starts, and only then."""

from __future__ import annotations

import gc
import subprocess
import sys

import pytest

from finetune.cli.collector import STARTING, collect_as_usual, collect_rarely


def test_the_collector_is_slow_until_work_begins(monkeypatch: pytest.MonkeyPatch):
    frozen = []
    monkeypatch.setattr(gc, "freeze", lambda: frozen.append(1))
    usual = gc.get_threshold()
    collect_as_usual()
    assert (gc.get_threshold(), frozen) == (usual, [])
    try:
        collect_rarely()
        collect_rarely()
        assert gc.get_threshold() == (STARTING, *usual[1:])
    finally:
        collect_as_usual()
    assert (gc.get_threshold(), frozen) == (usual, [1])


def test_the_end_of_a_program_is_quiet():
    program = (
        "from finetune.cli.collector import collect_as_usual, collect_rarely\n"
        "collect_rarely()\nimport finetune.models.backbone\ncollect_as_usual()\n"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert (done.stdout, done.stderr) == ("", "")
