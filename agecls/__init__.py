"""Facial age groups: readers, subject-exclusive folds, ordinal scores, cross-validation and its report.

The commands of `crl age` as functions; each is imported when it is asked for:

>>> import agecls
>>> " ".join(agecls.__all__)
'audit_ages calibrate compare cross_validate evaluate load_result study train tune verify'
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from finetune.cli.lazy import lazy_names

if TYPE_CHECKING:
    from agecls.door import (
        audit_ages,
        calibrate,
        compare,
        cross_validate,
        evaluate,
        load_result,
        study,
        train,
        tune,
        verify,
    )

__all__ = [
    "audit_ages",
    "calibrate",
    "compare",
    "cross_validate",
    "evaluate",
    "load_result",
    "study",
    "train",
    "tune",
    "verify",
]

if not TYPE_CHECKING:
    __getattr__, __dir__ = lazy_names(__name__, __all__)
