"""The clamp of the posteriors that a loss is published with, and what tables say of it; needs no torch."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

PUBLISHED_CLAMP = 1e-7  # of NLLR's posteriors: in Keras, and in the code of the competing ratio loss paper


def exact_title(title: str, options: Mapping[str, Any]) -> tuple[str, dict[str, Any]]:
    """Return a loss's title and the options told beside it: a clamp that is turned off is told in words.

    >>> exact_title("NLLR", {"clamp": 0.0}), exact_title("NLLR", {"clamp": 0.001})
    (('NLLR, exact', {}), ('NLLR', {'clamp': 0.001}))
    """
    told = dict(options)
    if told.get("clamp") == 0:
        del told["clamp"]
        return f"{title}, exact", told
    return title, told
