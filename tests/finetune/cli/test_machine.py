from __future__ import annotations

import os
import sys
from pathlib import Path

import pytest
import torch

from finetune.cli import machine
from finetune.cli.machine import (
    TOOLKIT,
    core_count,
    cpu_quota,
    free_gpu_bytes,
    granted_cores,
    module_command,
    module_environment,
    seen_as,
    sees_alone,
    user_cache,
)


def test_cores_are_those_this_process_may_use(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(machine, "cpu_quota", lambda: None)
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: {1, 4, 5}, raising=False)
    assert core_count() == granted_cores() == 3
    monkeypatch.delattr(os, "sched_getaffinity")
    monkeypatch.setattr(os, "cpu_count", lambda: 7)
    assert core_count() == 7


@pytest.mark.parametrize(("quota", "cores"), [(2.0, 2), (1.5, 1), (0.25, 1), (64.0, 3)])
def test_a_containers_share_of_time_counts_as_cores(
    monkeypatch: pytest.MonkeyPatch, quota: float, cores: int
):
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: {1, 4, 5}, raising=False)
    monkeypatch.setattr(machine, "cpu_quota", lambda: quota)
    assert (core_count(), granted_cores()) == (cores, 3)


@pytest.mark.parametrize(
    ("groups", "files", "quota"),
    [
        ("", {}, None),
        ("0::/\n", {"cpu.max": "max 100000"}, None),
        ("0::/\n", {"cpu.max": "150000 100000"}, 1.5),
        ("", {"cpu.max": "150000 100000"}, 1.5),
        ("0::/job/step\n", {"job/cpu.max": "300000 100000", "job/step/cpu.max": "max 100000"}, 3.0),
        ("0::/job/step\n", {"job/cpu.max": "300000 100000", "job/step/cpu.max": "50000 100000"}, 0.5),
        (
            "3:cpu,cpuacct:/docker/a\n1:memory:/docker/a\n",
            {
                "cpu,cpuacct/docker/a/cpu.cfs_quota_us": "200000",
                "cpu,cpuacct/docker/a/cpu.cfs_period_us": "100000",
            },
            2.0,
        ),
        (
            "3:cpu,cpuacct:/\n",
            {"cpu,cpuacct/cpu.cfs_quota_us": "400000", "cpu,cpuacct/cpu.cfs_period_us": "100000"},
            4.0,
        ),
        ("3:cpu,cpuacct:/\n", {"cpu/cpu.cfs_quota_us": "-1", "cpu/cpu.cfs_period_us": "100000"}, None),
        ("4:cpuset:/x\n", {"cpuset/x/cpu.cfs_quota_us": "1", "cpuset/x/cpu.cfs_period_us": "1"}, None),
    ],
)
def test_the_quota_of_both_versions_of_control_groups_is_read(
    tmp_path: Path, groups: str, files: dict[str, str], quota: float | None
):
    table = tmp_path / "cgroup"
    table.write_text(groups)
    for name, text in files.items():
        file = tmp_path / "mounted" / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(text)
    assert cpu_quota(tmp_path / "mounted", table) == quota


def test_a_user_without_a_home_has_no_cache(monkeypatch: pytest.MonkeyPatch):
    def nobody() -> Path:
        raise RuntimeError("Could not determine home directory.")

    for name in ("CRL_CACHE", "XDG_CACHE_HOME"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(Path, "home", nobody)
    assert user_cache() is None


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


@pytest.mark.parametrize(
    ("environment", "share"),
    [
        ({}, 8),
        ({"LOCAL_WORLD_SIZE": "2"}, 4),
        ({machine.SIDE_BY_SIDE: "4"}, 2),
        ({machine.SIDE_BY_SIDE: "3"}, 2),
        ({"LOCAL_WORLD_SIZE": "16"}, 1),
        ({"LOCAL_WORLD_SIZE": "many"}, 8),
    ],
)
def test_processes_of_one_run_divide_the_cores(monkeypatch, environment, share):
    monkeypatch.setattr(machine, "core_count", lambda: 8)
    for name in ("LOCAL_WORLD_SIZE", machine.SIDE_BY_SIDE):
        monkeypatch.delenv(name, raising=False)
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    assert machine.core_share() == share


@pytest.mark.parametrize(
    ("device", "visible", "alone"),
    [
        ("cuda:1", None, "1"),
        ("cuda", None, "0"),
        ("cuda:1", "5,7", "7"),
        ("cuda:1", "GPU-a,GPU-b", "GPU-b"),
        ("cpu", None, None),
        ("mps", "0", None),
    ],
)
def test_a_process_of_one_gpu_sees_it_alone_under_the_name_of_its_run(
    monkeypatch: pytest.MonkeyPatch, device: str, visible: str | None, alone: str | None
):
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES")
    if visible is not None:
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", visible)
    environment = sees_alone(device)
    assert environment.get("CUDA_VISIBLE_DEVICES") == alone
    assert seen_as(device) == device
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    assert seen_as(device) == ("cuda" if alone else device)
    assert seen_as("cuda:9") == "cuda:9"


def test_what_torch_holds_on_a_gpu_without_use_is_free_too(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda device: (100 * (1 + device.index), 900))
    monkeypatch.setattr(torch.cuda, "memory_reserved", lambda device: 50)
    monkeypatch.setattr(torch.cuda, "memory_allocated", lambda device: 20)
    assert [free_gpu_bytes(torch.device(name)) for name in ("cuda:0", "cuda:1", "cpu", "mps")] == [
        130,
        230,
        0,
        0,
    ]
