"""What this machine gives the program: cores, and the user's folder for what can be made again."""

from __future__ import annotations

import os
from pathlib import Path


def core_count() -> int:
    """Return how many processor cores this process may use."""
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
