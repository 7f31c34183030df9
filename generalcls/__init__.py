"""General image classification: which loss should I use? Studies with equal budgets and paired seeds.

The commands of `crl general` as functions; each is imported when it is asked for:

>>> import generalcls
>>> generalcls.__all__
['load_result', 'study', 'train', 'verify']
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from finetune.cli.lazy import lazy_names

if TYPE_CHECKING:
    from generalcls.door import load_result, study, train, verify

__all__ = ["load_result", "study", "train", "verify"]

if not TYPE_CHECKING:
    __getattr__, __dir__ = lazy_names(__name__, __all__)
