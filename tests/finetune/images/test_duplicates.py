"""Equal pictures under different names are found by their bytes, whatever their dates say."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from finetune.errors import DataError
from finetune.images.duplicates import equal_files
from finetune.images.manifest import Manifest


def test_rows_of_equal_bytes_come_together_and_equal_sizes_do_not_suffice(tmp_path: Path):
    for name, content in {"a": b"one", "b": b"two", "c": b"one", "d": b"three"}.items():
        (tmp_path / name).write_bytes(content)
    columns = {"path": np.array(list("abcd")), "label": np.array([0, 1, 0, 1])}
    manifest = Manifest(tmp_path, ("x", "y"), columns)
    assert list(equal_files(manifest)) == [[0, 2]]
    (tmp_path / "c").unlink()
    with pytest.raises(DataError, match="cannot be read"):
        list(equal_files(manifest))
