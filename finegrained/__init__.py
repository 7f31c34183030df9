"""Fine-grained recognition: readers of birds and cars, heads for visually similar classes, a report.

The commands of `crl fine` as functions; each is imported when it is asked for:

>>> import finegrained
>>> finegrained.__all__
['calibrate', 'compare', 'evaluate', 'load_result', 'measure_costs', 'study', 'train', 'tune', 'verify']
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from finetune.cli.lazy import lazy_names

if TYPE_CHECKING:
    from finegrained.door import (
        calibrate,
        compare,
        evaluate,
        load_result,
        measure_costs,
        study,
        train,
        tune,
        verify,
    )

__all__ = [
    "calibrate",
    "compare",
    "evaluate",
    "load_result",
    "measure_costs",
    "study",
    "train",
    "tune",
    "verify",
]

if not TYPE_CHECKING:
    __getattr__, __dir__ = lazy_names(__name__, __all__)
