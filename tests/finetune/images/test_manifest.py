"""The table of images: what it refuses, what its fingerprint covers, and that it comes back whole."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from finetune.errors import DataError
from finetune.images.manifest import Manifest

NAMES = ("child", "adult")


def manifest(**columns: Any) -> Manifest:
    """Return three images of two classes, with other columns."""
    return Manifest(
        Path("faces"), NAMES, {"path": ["a.jpg", "b/c.jpg", "d.jpg"], "label": [0, 1, 1], **columns}
    )


def test_columns_are_typed_and_counted():
    table = manifest(fold=["0", "1", "4"], age=[None, "31.5", 40], subject=[7, 8, 9])
    assert (len(table), table.num_classes, table.class_counts().tolist()) == (3, 2, [1, 2])
    assert table["fold"].dtype == np.int64
    assert np.isnan(table["age"][0])
    assert table["age"][1:].tolist() == [31.5, 40.0]
    assert table["subject"].tolist() == ["7", "8", "9"]
    assert table.file(1) == Path("faces/b/c.jpg")
    assert "user" not in table
    with pytest.raises(KeyError, match="path, label, fold"):
        table["user"]


@pytest.mark.parametrize(
    ("label", "told"),
    [
        ([0, 2, 1], r"\[0, 1\] for 2 classes:\n  row 1: label 2"),
        ([0, 1, -1], "row 2: label -1"),
        (["0", "adult", "1"], "row 1: 'adult' is not a whole number"),
        ([0.0, 1.0, 0.5], "row 2: 0.5"),
        ([0, float("nan"), 1], "row 1: nan"),
        ([0, None, 1], "row 1: None is not a whole number"),
    ],
)
def test_a_label_that_is_no_class_index_is_refused_with_its_row(label: list[Any], told: str):
    with pytest.raises(DataError, match=told):
        manifest(label=label)


def test_an_age_that_is_no_number_is_refused_with_its_row():
    with pytest.raises(DataError, match="column 'age', row 2: 'old' is not a number"):
        manifest(age=["3", "4", "old"])


def test_many_bad_rows_are_counted_not_poured_out():
    with pytest.raises(DataError, match="and 15 more"):
        Manifest(Path(), NAMES, {"path": [f"{row}.jpg" for row in range(25)], "label": [9] * 25})


@pytest.mark.parametrize("path", ["/etc/passwd", "../b.jpg", "x/../../b.jpg"])
def test_a_path_outside_the_root_is_refused(path: str):
    with pytest.raises(DataError, match="stay under the data root"):
        manifest(path=["a.jpg", path, "c.jpg"])


def test_one_file_with_two_labels_is_refused_and_with_one_label_kept():
    assert len(manifest(path=["a.jpg", "b.jpg", "b.jpg"])) == 3
    with pytest.raises(DataError, match=r"a\.jpg: 0 and 1"):
        manifest(path=["a.jpg", "a.jpg", "b.jpg"])


def test_missing_columns_unequal_lengths_and_twin_classes_are_refused():
    with pytest.raises(DataError, match="missing: label"):
        Manifest(Path(), NAMES, {"path": ["a.jpg"]})
    with pytest.raises(DataError, match="'fold': 2"):
        manifest(fold=[0, 1])
    with pytest.raises(DataError, match="class names must differ"):
        Manifest(Path(), ("x", "x"), {"path": ["a.jpg"], "label": [0]})


def test_the_fingerprint_knows_what_is_learned_and_not_where_it_lies():
    base = manifest(fold=[0, 1, 2], age=[1, 2, 3])
    elsewhere = Manifest(Path("other"), NAMES, base.columns)
    assert elsewhere.fingerprint == base.fingerprint
    assert manifest(fold=[0, 1, 2], age=[9, 9, 9]).fingerprint == base.fingerprint
    changes: list[dict[str, Any]] = [
        {"fold": [0, 1, 3]},
        {"label": [0, 1, 0]},
        {"path": ["a.jpg", "x.jpg", "d.jpg"]},
        {"subject": [1, 2, 3]},
    ]
    changed = {manifest(**{"fold": [0, 1, 2], **change}).fingerprint for change in changes}
    renamed = Manifest(Path("faces"), ("young", "old"), base.columns).fingerprint
    assert len({base.fingerprint, renamed, *changed}) == 6


def test_selecting_rows_keeps_the_class_list():
    part = manifest(fold=[0, 1, 2]).select(np.array([False, True, False]))
    assert (part["path"].tolist(), part["fold"].tolist()) == (["b/c.jpg"], [1])
    assert part.class_counts().tolist() == [0, 1]
    assert manifest().with_column("fold", np.array([3, 3, 3]))["fold"].tolist() == [3, 3, 3]


@pytest.mark.parametrize("name", ["table.parquet", "table.csv"])
def test_a_saved_table_comes_back_equal(tmp_path: Path, name: str):
    table = manifest(
        path=["a,b.jpg", 'q"\n.jpg', "ä.jpg"], age=[None, 2.5, 3], fold=[0, 1, -1], note=["", "x", "y"]
    )
    table.save(tmp_path / name)
    again = Manifest.load(tmp_path / name, Path("faces"))
    assert again.class_names == table.class_names
    assert again.fingerprint == table.fingerprint
    assert again.columns.keys() == table.columns.keys()
    for column, values in table.columns.items():
        assert again[column].dtype.kind == values.dtype.kind
        np.testing.assert_array_equal(again[column], values)


def test_a_table_without_rows_comes_back_too(tmp_path: Path):
    table = manifest().select(np.zeros(3, bool))
    for name in ("t.csv", "t.parquet"):
        table.save(tmp_path / name)
        assert len(Manifest.load(tmp_path / name, Path())) == 0


def test_a_table_that_cannot_be_read_is_named(tmp_path: Path):
    table = manifest()
    table.save(tmp_path / "t.csv")
    table.save(tmp_path / "t.parquet")
    (tmp_path / "t.csv").write_text("path,label\na.jpg\n")
    with pytest.raises(DataError, match=r"t\.csv has 2 columns, but:\n  row 0: 1 cells"):
        Manifest.load(tmp_path / "t.csv", Path())
    os.truncate(tmp_path / "t.parquet", 100)
    for name in ("t.parquet", "absent.csv", "absent.parquet"):
        with pytest.raises(DataError, match=name):
            Manifest.load(tmp_path / name, Path())


def test_a_parquet_file_of_others_is_no_manifest(tmp_path: Path):
    import pyarrow as pa
    import pyarrow.parquet as pq

    pq.write_table(pa.table({"path": ["a.jpg"], "label": [0]}), tmp_path / "t.parquet")
    with pytest.raises(DataError, match="no class_names"):
        Manifest.load(tmp_path / "t.parquet", Path())


def test_a_file_name_that_is_no_utf_8_is_named_and_refused(tmp_path: Path):
    paths = np.array(["a.jpg", "\udce9t\u00e9.jpg"])
    with pytest.raises(
        DataError, match=r"file names that are not UTF-8 text: 1(.|\n)*rename(.|\n)*\\xe9té\.jpg$"
    ):
        Manifest(tmp_path, ("a",), {"path": paths, "label": np.zeros(2, dtype=np.int64)})
