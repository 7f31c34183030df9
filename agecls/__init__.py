"""Facial age groups: readers, subject-exclusive folds, ordinal scores, cross-validation and its report.

The commands of `crl age` as functions; each is imported when it is asked for:

>>> import agecls
>>> agecls.__all__
['compare', 'cross_validate', 'evaluate', 'load_result', 'study', 'train', 'verify']
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from agecls.door import compare, cross_validate, evaluate, load_result, study, train, verify

__all__ = ["compare", "cross_validate", "evaluate", "load_result", "study", "train", "verify"]


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})


if not TYPE_CHECKING:

    def __getattr__(name: str) -> Any:
        if name not in __all__:
            raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
        globals()[name] = found = vars(importlib.import_module(f"{__name__}.door"))[name]
        return found
