"""A package's public functions, each imported when it is asked for: `import agecls` loads nothing heavy."""

from __future__ import annotations

import importlib
import sys
from collections.abc import Callable, Sequence
from typing import Any


def lazy_names(package: str, names: Sequence[str]) -> tuple[Callable[[str], Any], Callable[[], list[str]]]:
    """Return the `__getattr__` and `__dir__` of a package whose `door` module holds these names.

    >>> found, listed = lazy_names("finetune.cli", ["train"])
    >>> "train" in listed()
    True
    >>> found("trian")
    Traceback (most recent call last):
    AttributeError: module 'finetune.cli' has no attribute 'trian'
    """
    own = vars(sys.modules[package])

    def get(name: str) -> Any:
        if name not in names:
            raise AttributeError(f"module {package!r} has no attribute {name!r}")
        own[name] = found = vars(importlib.import_module(f"{package}.door"))[name]
        return found

    def listed() -> list[str]:
        return sorted({*own, *names})

    return get, listed
