from __future__ import annotations

import os
from pathlib import Path

import pytest

from finetune.cli.machine import core_count, user_cache


def test_cores_are_those_this_process_may_use(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: {1, 4, 5}, raising=False)
    assert core_count() == 3
    monkeypatch.delattr(os, "sched_getaffinity")
    monkeypatch.setattr(os, "cpu_count", lambda: 7)
    assert core_count() == 7


def test_the_cache_follows_the_environment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "xdg"))
    monkeypatch.setenv("CRL_CACHE", str(tmp_path / "own"))
    assert user_cache() == tmp_path / "own" / "crl-toolkit"
    monkeypatch.delenv("CRL_CACHE")
    assert user_cache() == tmp_path / "xdg" / "crl-toolkit"
