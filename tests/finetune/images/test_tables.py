from __future__ import annotations

from pathlib import Path

import pytest

from finetune.errors import DataError
from finetune.images.tables import paths_under


def test_paths_within_the_root_stay_as_they_are(tmp_path: Path):
    assert paths_under(tmp_path, ["a/b.png", "./c.png"], follow=False) == (tmp_path, ["a/b.png", "c.png"])


def test_a_path_that_leaves_the_root_is_refused_with_its_row(tmp_path: Path):
    paths = ["a.png", "../b.png", "/c.png"]
    with pytest.raises(DataError, match=r"2 paths leave the data root .*\n  \.\./b\.png\n  /c\.png$"):
        paths_under(tmp_path, paths, follow=False)
    with pytest.raises(DataError, match=r"t\.csv:3: \.\./b\.png\n  t\.csv:4: /c\.png$"):
        paths_under(tmp_path, paths, follow=False, rows=["t.csv:2", "t.csv:3", "t.csv:4"])


def test_followed_paths_move_the_root_up_to_hold_every_file(tmp_path: Path):
    root = tmp_path / "data"
    assert paths_under(root, ["a.png", "../other/b.png"], follow=True) == (
        tmp_path,
        ["data/a.png", "other/b.png"],
    )
