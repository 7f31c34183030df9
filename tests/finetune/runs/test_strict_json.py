from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from finetune.runs.strict_json import json_text, to_plain


def test_numpy_values_paths_and_tuples_become_plain_python() -> None:
    plain = to_plain(
        {"n": np.int64(3), "p": np.ones((2, 1), np.float32), "file": Path("a/b"), 5: (True, None)}
    )
    assert plain == {"n": 3, "p": [[1.0], [1.0]], "file": "a/b", "5": [True, None]}
    assert type(plain["n"]) is int
    assert type(to_plain(np.float64(0.5))) is float  # a subclass of float, but no plain one


def test_values_that_json_does_not_know_become_null() -> None:
    text = json_text({"a": float("nan"), "b": [np.inf, 1.5], "c": {"d": -np.inf}})
    assert json.loads(text) == {"a": None, "b": [None, 1.5], "c": {"d": None}}


def test_a_value_that_cannot_be_read_back_is_refused_with_its_type() -> None:
    with pytest.raises(TypeError, match="got set"):
        to_plain({"names": {"a"}})


def test_text_keeps_its_letters() -> None:
    assert json_text({"größe": "日本"}) == '{"größe": "日本"}'
