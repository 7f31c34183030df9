"""What this machine gives the program: cores, the user's cache folder, and processes of the toolkit's own."""

from __future__ import annotations

import os
import sys
from pathlib import Path

TOOLKIT = Path(__file__).resolve().parents[2]


def core_count() -> int:
    """Return how many CPU cores this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def memory_bytes() -> int:
    """Return the memory of this machine, or of the container where that is less."""
    whole = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    limit = Path("/sys/fs/cgroup/memory.max")  # absent outside Linux and with older control groups
    text = limit.read_text().strip() if limit.is_file() else "max"
    return whole if text == "max" else min(whole, int(text))


def user_cache() -> Path:
    """Return the toolkit's folder in the user's cache: under CRL_CACHE, XDG_CACHE_HOME or ~/.cache."""
    home = os.environ.get("CRL_CACHE") or os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(home) / "crl-toolkit"


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
