"""General image classification: which loss should I use? Studies with equal budgets and paired seeds.

The commands of `crl general` as functions; each is imported when it is asked for:

>>> import generalcls
>>> generalcls.__all__
['load_result', 'study', 'train', 'verify']
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from generalcls.door import load_result, study, train, verify

__all__ = ["load_result", "study", "train", "verify"]


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})


if not TYPE_CHECKING:

    def __getattr__(name: str) -> Any:
        if name not in __all__:
            raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
        globals()[name] = found = vars(importlib.import_module(f"{__name__}.door"))[name]
        return found
