"""Values as plain Python, and JSON that every reader accepts (no NaN, no Infinity)."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from pathlib import PurePath
from typing import Any

import numpy as np


def to_plain(value: Any) -> Any:
    """Return `value` built only of dict (text keys), list, str, int, float, bool and None.

    Tuples and arrays become lists, numpy scalars Python numbers, paths text. Raises TypeError, naming the
    type, for anything else: a value that cannot be read back should not be written.

    >>> to_plain({"counts": np.arange(3), "lr": np.float32(0.5), "names": ("a", "b")})
    {'counts': [0, 1, 2], 'lr': 0.5, 'names': ['a', 'b']}
    """
    if isinstance(value, np.generic | np.ndarray):
        return to_plain(value.tolist())
    if value is None or isinstance(value, str | bool | int | float):
        return value
    if isinstance(value, PurePath):
        return str(value)
    if isinstance(value, Mapping):
        return {str(key): to_plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [to_plain(item) for item in value]
    raise TypeError(
        f"a record holds numbers, text, lists and mappings, got {type(value).__name__}: {value!r}"
    )


def json_text(value: Any, indent: int | None = None) -> str:
    """Return `value` as JSON; a NaN or an infinity, which JSON does not know, becomes null.

    >>> json_text({"accuracy": float("nan"), "n": np.int64(3)})
    '{"accuracy": null, "n": 3}'
    """
    return json.dumps(_finite(to_plain(value)), indent=indent, ensure_ascii=False, allow_nan=False)


def _finite(value: Any) -> Any:
    if isinstance(value, float) and not math.isfinite(value):
        return None
    if isinstance(value, dict):
        return {key: _finite(item) for key, item in value.items()}
    if isinstance(value, list):
        return [_finite(item) for item in value]
    return value
