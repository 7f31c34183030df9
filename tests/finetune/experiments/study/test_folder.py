"""A study's folder: who may use it, and when it is let go of."""

from __future__ import annotations

import pytest

from finetune.errors import UsageError
from finetune.experiments.study.folder import claimed, no_claim_left
from finetune.runs.lock import FolderLock


def test_a_claimed_cell_is_nobody_elses_until_it_is_let_go(tmp_path):
    cell = tmp_path / "cel" / "seed-0"
    with claimed(cell) as first, claimed(cell) as second:
        assert (first, second) == (True, False)
    with claimed(cell) as again:
        assert again
    assert not cell.exists()  # the run makes it


@pytest.mark.parametrize(("parts", "run"), [("cells", "cells/cel/seed-0"), ("fold*", "fold3")])
def test_only_a_folder_in_which_nothing_happened_is_let_go_of(tmp_path, parts, run):
    folder = tmp_path / "study"
    for touched in (False, True):
        cell = folder / run
        cell.mkdir(parents=True)
        (folder / "config.yaml").touch()
        FolderLock(cell).release()
        if touched:
            (cell / "config.yaml").touch()
        with pytest.raises(UsageError, match="wrong"), no_claim_left(folder, parts):
            raise UsageError("wrong")
        assert (folder / "config.yaml").exists() is touched
        assert cell.exists() is touched
