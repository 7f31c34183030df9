from __future__ import annotations

import io
import os
import pickle
from collections import OrderedDict

import pytest
import torch

from finetune.models.pickle_scan import forbidden_globals


class Evil:
    def __reduce__(self) -> tuple[object, tuple[str]]:
        return os.system, ("true",)


@pytest.mark.parametrize("protocol", range(pickle.HIGHEST_PROTOCOL + 1))
def test_the_import_of_a_plain_pickle_is_found_in_every_protocol(protocol: int) -> None:
    found = forbidden_globals(io.BytesIO(pickle.dumps({"a": [Evil()]}, protocol)))
    assert found == ["posix.system"]


def test_a_name_that_reaches_the_stack_from_the_memo_is_found() -> None:
    found = forbidden_globals(io.BytesIO(pickle.dumps(["posix", "system", Evil()], 4)))
    assert found == ["posix.system"]


def test_only_what_torch_does_not_hold_safe_is_listed() -> None:
    content = io.BytesIO()
    torch.save({"w": torch.ones(2), "order": OrderedDict(a=1), "evil": Evil()}, content)
    assert forbidden_globals(content) == ["posix.system"]


@pytest.mark.parametrize(
    "content", [b"", b"PK\x03\x04 broken", b"\x80\x04 no pickle", b"\xff\xd8\xff picture"]
)
def test_what_is_no_pickle_imports_nothing(content: bytes) -> None:
    assert forbidden_globals(io.BytesIO(content)) == []


def test_an_import_before_the_damage_still_counts() -> None:
    assert forbidden_globals(io.BytesIO(pickle.dumps(Evil(), 2)[:-1] + b"\xff\xff")) == ["posix.system"]
