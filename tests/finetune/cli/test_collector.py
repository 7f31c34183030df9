"""The garbage collector is slowed down while a program starts, and only then."""

from __future__ import annotations

import gc

from finetune.cli.collector import STARTING, collect_as_usual, collect_rarely


def test_the_collector_is_slow_until_work_begins():
    usual, frozen = gc.get_threshold(), gc.get_freeze_count()
    collect_as_usual()
    assert gc.get_threshold() == usual
    try:
        collect_rarely()
        collect_rarely()
        assert gc.get_threshold() == (STARTING, *usual[1:])
    finally:
        collect_as_usual()
    assert (gc.get_threshold(), gc.get_freeze_count()) == (usual, frozen)
