"""What this machine gives the program: cores, the user's cache folder, and processes of the toolkit's own."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import torch

TOOLKIT = Path(__file__).resolve().parents[2]
SIDE_BY_SIDE = "CRL_SIDE_BY_SIDE"  # how many processes of one run share this machine
IDLE_LOAD = 0.25  # of the cores, at work in the last minute
OWN_GPU = "CRL_OWN_GPU"  # what the run calls the one GPU that this process sees
CONTROL_GROUPS, OWN_GROUPS = Path("/sys/fs/cgroup"), Path("/proc/self/cgroup")


def core_count() -> int:
    """Return how many CPU cores this process may use: those granted to it, within the container's quota."""
    quota = cpu_quota()
    return granted_cores() if quota is None else max(1, min(granted_cores(), int(quota)))


def core_share() -> int:
    """Return this process's share of the cores, at least one: processes of one run divide them.

    torchrun says how many it started on this machine; a cross-validation tells each of its folds.
    """
    asked = [os.environ.get(name, "") for name in (SIDE_BY_SIDE, "LOCAL_WORLD_SIZE")]
    return max(1, core_count() // max([int(number) for number in asked if number.isdecimal()] + [1]))


def cores_are_idle() -> bool:
    """Return whether other programs leave the cores free, so that threads may wait without sleeping.

    ONNX Runtime's next layer then begins sooner. Beside other programs it costs more than it gains.
    """
    return hasattr(os, "getloadavg") and os.getloadavg()[0] < IDLE_LOAD * core_count()


def sees_alone(device: str) -> dict[str, str]:
    """Return the environment in which a process of this run sees one GPU, cuda:1 say, and no other.

    CUDA then opens no context, of half a gigabyte, on the first one. Empty for another kind of device.
    """
    kind, _, number = device.partition(":")
    if kind != "cuda":
        return {}
    index, visible = int(number or 0), os.environ.get("CUDA_VISIBLE_DEVICES")
    names = visible.split(",") if visible else []
    return {"CUDA_VISIBLE_DEVICES": names[index] if index < len(names) else str(index), OWN_GPU: device}


def seen_as(device: str) -> str:
    """Return what this process calls a device of its run: cuda where it sees that GPU alone."""
    return "cuda" if device == os.environ.get(OWN_GPU) else device


def granted_cores() -> int:
    """Return how many cores this process may run on (taskset, cpuset, Slurm), whatever its quota of time."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def cpu_quota(root: Path = CONTROL_GROUPS, table: Path = OWN_GROUPS) -> float | None:
    """Return the cores' worth of time that control groups allow; None where they set no limit.

    Both versions of control groups are read, in this process's own group and in all above it: the smallest
    limit counts.

    Args:
        root: where control groups are mounted.
        table: the kernel's list of the groups that this process is in.
    """
    found = []
    for controllers, path in _own_groups(table):
        mounts = (root / controllers, root / "cpu") if controllers else (root,)
        for mount in mounts:
            group = mount / path.strip("/")
            for folder in (group, *group.parents):
                found += [quota for quota in (_quota_2(folder), _quota_1(folder)) if quota is not None]
                if folder == mount:
                    break
    return min(found, default=None)


def _own_groups(table: Path) -> Iterator[tuple[str, str]]:
    """Yield (controllers, path) of the groups that may limit time: "" stands for version 2."""
    yield "", ""  # in a container the group's own folder is the root, whatever the table says
    try:
        lines = table.read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        lines = []
    for line in lines:
        _, _, rest = line.partition(":")
        controllers, _, path = rest.partition(":")
        if not controllers or "cpu" in controllers.split(","):
            yield controllers, path
    yield "cpu", ""


def _quota_2(folder: Path) -> float | None:
    try:
        limit, period = (folder / "cpu.max").read_text(encoding="ascii").split()
        return int(limit) / int(period)
    except (OSError, ValueError, ZeroDivisionError):  # no such file, or "max"
        return None


def _quota_1(folder: Path) -> float | None:
    try:
        limit, period = (
            int((folder / f"cpu.cfs_{name}_us").read_text(encoding="ascii")) for name in ("quota", "period")
        )
        return limit / period if limit > 0 else None  # -1 is no limit
    except (OSError, ValueError, ZeroDivisionError):
        return None


def memory_bytes() -> int:
    """Return the memory of this machine, or of the container where that is less."""
    whole = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    limit = CONTROL_GROUPS / "memory.max"  # absent outside Linux and with older control groups
    text = limit.read_text().strip() if limit.is_file() else "max"
    return whole if text == "max" else min(whole, int(text))


def free_gpu_bytes(device: torch.device) -> int:
    """Return the bytes that an NVIDIA GPU has free for this process; 0 for another kind of device.

    What torch holds there without use is free as well. Whatever asks how much may be put on a GPU asks here.
    """
    if device.type != "cuda":
        return 0
    import torch

    unused = torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
    return int(torch.cuda.mem_get_info(device)[0] + unused)


def home_folder() -> Path | None:
    """Return the user's home; None where there is none: no HOME, and a user id without a name."""
    try:
        return Path.home()
    except RuntimeError:
        return None


def user_cache() -> Path | None:
    """Return the toolkit's folder in the user's cache: under CRL_CACHE, XDG_CACHE_HOME or ~/.cache.

    None where none of them is known.
    """
    if named := os.environ.get("CRL_CACHE") or os.environ.get("XDG_CACHE_HOME"):
        return Path(named) / "crl-toolkit"
    home = home_folder()
    return None if home is None else home / ".cache" / "crl-toolkit"


def module_command(module: str, *words: str) -> list[str]:
    """Return the command that runs a module of the toolkit in a process of its own.

    `-P` keeps the working directory out of the child's import path: a folder there that is named like one of
    our packages is then not imported instead of it. Start it with `module_environment()`.
    """
    return [sys.executable, "-P", "-m", module, *words]


def module_environment() -> dict[str, str]:
    """Return this process's environment for a child started by `module_command`.

    Where this process found the toolkit in a plain folder of its import path (a checkout that is not
    installed), that folder is named to the child too: both run the same code.
    """
    plain = TOOLKIT.name not in ("site-packages", "dist-packages")
    if not plain or TOOLKIT not in {Path(entry or ".").resolve() for entry in sys.path}:
        return dict(os.environ)
    others = os.environ.get("PYTHONPATH")
    return {**os.environ, "PYTHONPATH": os.pathsep.join([str(TOOLKIT), *([others] if others else [])])}
