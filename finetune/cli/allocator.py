"""How freed memory is kept: a trainer's large tensors get the same pages again instead of new ones.

glibc gives every large block back to the system when it is freed. The system must then fill new pages with
zeros at the next step, which takes up to a third of a training step's time on a CPU. Here the C library is
told to keep what was freed. Other systems and C libraries are left as they are.
"""

from __future__ import annotations

import ctypes
import os
import platform
import sys
from functools import cache

SWITCH = "CRL_KEEP_MEMORY"  # 0: memory is given back, as is usual
OWN_SETTINGS = ("MALLOC_MMAP_MAX_", "MALLOC_MMAP_THRESHOLD_", "MALLOC_TRIM_THRESHOLD_", "MALLOC_TOP_PAD_")
TUNABLES = "GLIBC_TUNABLES"

# mallopt's numbers, of malloc.h; values are C ints.
_M_TRIM_THRESHOLD, _M_TOP_PAD, _M_MMAP_MAX = -1, -2, -4
_NEVER, _TOP_PAD = 2**31 - 1, 256 << 20


@cache
def keep_freed_memory() -> bool:
    """Let this process, and those it forks, keep the memory that it frees; return whether it does.

    Nothing is done outside Linux with glibc, with CRL_KEEP_MEMORY=0, and where the environment already
    sets glibc's own variables for it. No number that is computed changes.

    Source: the manual of mallopt(3).
    """
    if os.environ.get(SWITCH) == "0" or _set_by_the_user() or not _has_glibc():
        return False
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (OSError, AttributeError):
        return False
    wishes = ((_M_MMAP_MAX, 0), (_M_TRIM_THRESHOLD, _NEVER), (_M_TOP_PAD, _TOP_PAD))
    return all([mallopt(name, value) == 1 for name, value in wishes])


def memory_is_kept() -> bool:
    """Return whether `keep_freed_memory` was called, and acted."""
    return keep_freed_memory.cache_info().currsize > 0 and keep_freed_memory()


def _set_by_the_user() -> bool:
    tunables = os.environ.get(TUNABLES, "")
    return "glibc.malloc." in tunables or any(name in os.environ for name in OWN_SETTINGS)


def _has_glibc() -> bool:
    return sys.platform == "linux" and platform.libc_ver()[0] == "glibc"
