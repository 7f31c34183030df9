"""Fine-grained recognition: readers of birds and cars, heads for visually similar classes, a report.

The commands of `crl fine` as functions; each is imported when it is asked for:

>>> import finegrained
>>> finegrained.__all__
['compare', 'evaluate', 'load_result', 'measure_costs', 'study', 'train', 'verify']
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from finegrained.door import compare, evaluate, load_result, measure_costs, study, train, verify

__all__ = ["compare", "evaluate", "load_result", "measure_costs", "study", "train", "verify"]


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})


if not TYPE_CHECKING:

    def __getattr__(name: str) -> Any:
        if name not in __all__:
            raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
        globals()[name] = found = vars(importlib.import_module(f"{__name__}.door"))[name]
        return found
