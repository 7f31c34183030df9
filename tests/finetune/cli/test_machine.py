from __future__ import annotations

import os
import sys
from pathlib import Path

import pytest

from finetune.cli.machine import TOOLKIT, core_count, module_command, module_environment, user_cache


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


def test_a_child_is_a_module_that_the_working_directory_cannot_replace():
    assert module_command("agecls", "cv", "--folds=1") == [
        sys.executable,
        "-P",
        "-m",
        "agecls",
        "cv",
        "--folds=1",
    ]


def test_a_child_finds_the_toolkit_where_its_parent_found_it(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("PYTHONPATH", "/others")
    monkeypatch.setattr(sys, "path", ["", "/somewhere/else"])
    monkeypatch.chdir(TOOLKIT)
    assert module_environment()["PYTHONPATH"] == os.pathsep.join([str(TOOLKIT), "/others"])
    monkeypatch.delenv("PYTHONPATH")
    assert module_environment()["PYTHONPATH"] == str(TOOLKIT)


def test_an_installed_toolkit_needs_no_import_path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("PYTHONPATH", "/others")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", ["", "/somewhere/else"])  # found by the installation's own finder
    assert module_environment()["PYTHONPATH"] == "/others"
    monkeypatch.setattr("finetune.cli.machine.TOOLKIT", tmp_path / "site-packages")
    monkeypatch.setattr(sys, "path", [str(tmp_path / "site-packages")])
    assert module_environment() == dict(os.environ)
