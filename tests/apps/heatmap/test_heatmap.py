"""The heat map's numbers: which classes get a column, what the rest sums to, what the CSV holds."""

from __future__ import annotations

import csv
import io
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from apps.heatmap.heatmap import (
    LEAST_COLUMNS,
    MAX_COLUMNS,
    HeatMap,
    heat_map,
    names_for_people,
    short_names,
    to_csv,
)
from finegrained.data.class_names import CARS, CUB, class_table
from finetune.errors import DataError, UsageError

AGES = ("0-2", "4-6", "8-12", "15-20", "25-32", "38-43", "48-53", "60+")

ROOT = Path(__file__).resolve().parents[3]


def softmax(pictures: int, classes: int, seed: int = 0, scale: float = 2.0) -> np.ndarray:
    """Return made-up probabilities (N, K)."""
    powers = np.exp(scale * np.random.default_rng(seed).normal(size=(pictures, classes)))
    return np.asarray(powers / powers.sum(axis=1, keepdims=True))


def test_few_classes_all_have_a_column_in_the_models_order():
    table = softmax(3, 8)
    found = heat_map(["a", "b", "c"], AGES, {"CRL": table}, [0, None, 7])
    assert found.column_names == AGES
    assert found.hidden == 0
    np.testing.assert_array_equal(found.shown("CRL"), table)
    assert found.predicted("CRL") == tuple(table.argmax(axis=1))
    assert found.truths == (0, None, 7)


def test_twenty_five_classes_are_shown_and_the_twenty_sixth_starts_the_sum():
    names = [str(number) for number in range(26)]
    assert heat_map(["a"], names[:25], {"m": softmax(1, 25)}).column_names == tuple(names[:25])
    found = heat_map(["a"], names, {"m": softmax(1, 26)})
    assert found.hidden == 2
    assert found.column_names[-1] == "other (2)"
    assert len(found.column_names) == MAX_COLUMNS


def test_columns_are_the_union_of_every_models_best_and_the_truth():
    """Worked by hand: 30 classes, each model sure of other ones."""
    first, second = np.full((1, 30), 0.001), np.full((1, 30), 0.001)
    first[0, 20], second[0, 4] = 1 - 0.029, 1 - 0.029
    found = heat_map(["a"], [f"c{index}" for index in range(30)], {"A": first, "B": second}, [17])
    assert {4, 17, 20} <= set(found.columns)
    assert list(found.columns) == sorted(found.columns)
    assert len(found.columns) <= MAX_COLUMNS - 1
    for title, table in (("A", first), ("B", second)):
        assert found.shown(title).sum() == pytest.approx(1)
        assert found.shown(title)[0, -1] == pytest.approx(1 - table[0, list(found.columns)].sum())
    assert found.columns[found.predicted("A")[0]] == 20
    assert found.columns[found.predicted("B")[0]] == 4
    assert found.truths == (found.columns.index(17),)


def test_the_truth_counts_and_leaves_room_for_other():
    """Two images whose best classes differ, and a truth that is least probable: 1 + 2 k columns."""
    falling = 0.8 ** np.arange(40)
    table = np.full((2, 80), 1e-9)
    table[0, :40], table[1, 40:79] = falling, falling[:39]
    table[0, 79] = table[1, 79] = 1e-12
    table /= table.sum(axis=1, keepdims=True)
    found = heat_map(["a", "b"], [str(index) for index in range(80)], {"m": table}, [79, None])
    assert found.columns == (*range(11), *range(40, 51), 79)
    assert len(found.column_names) == 24
    assert found.truths == (22, None)


def test_k_is_the_largest_that_fits():
    table = softmax(2, 200, seed=1)
    found = heat_map(["a", "b"], [str(index) for index in range(200)], {"m": table})
    orders = np.argsort(-table, axis=1)
    best = next(k for k in range(1, 99) if len(set(orders[:, : k + 1].ravel().tolist())) > MAX_COLUMNS - 1)
    assert set(found.columns) == set(orders[:, :best].ravel().tolist())


def test_every_prediction_keeps_its_column_where_twenty_five_are_too_few():
    table = np.full((40, 100), 0.1 / 99)
    table[np.arange(40), np.arange(40)] = 0.9
    found = heat_map([f"p{row}" for row in range(40)], [str(i) for i in range(100)], {"m": table})
    assert found.columns == tuple(range(40))
    assert found.hidden == 60


@pytest.mark.parametrize("bad", [np.nan, np.inf, -0.2, 1.4])
def test_what_is_no_probability_is_refused_by_name(bad: float):
    table = softmax(2, 8)
    table[1, 3] = bad
    with pytest.raises(DataError, match=r"CRL gives no probabilities for b\.jpg"):
        heat_map(["a.jpg", "b.jpg"], AGES, {"CRL": table})
    with pytest.raises(DataError, match="sum"):
        heat_map(["a", "b"], AGES, {"CRL": softmax(2, 8) / 2})


def test_sizes_must_agree():
    table = softmax(2, 8)
    with pytest.raises(UsageError, match=r"\(2, 7\)"):
        heat_map(["a", "b"], AGES[:7], {"CRL": table})
    with pytest.raises(UsageError, match="one per image"):
        heat_map(["a", "b"], AGES, {"CRL": table}, [1])
    with pytest.raises(UsageError, match=r"0\.\.7"):
        heat_map(["a", "b"], AGES, {"CRL": table}, [1, 8])
    with pytest.raises(UsageError, match="an image and a model"):
        HeatMap((), AGES, {"CRL": np.zeros((0, 8))})
    with pytest.raises(UsageError, match="an image and a model"):
        HeatMap(("a",), AGES, {})


def test_nothing_known_is_the_same_as_no_truth_given():
    assert heat_map(["a"], AGES, {"CRL": softmax(1, 8)}, [None]).targets is None
    assert heat_map(["a"], AGES, {"CRL": softmax(1, 8)}, None, [None]).thumbnails is None


def test_csv_holds_the_full_matrix_and_reads_back():
    names = [f"class {index}" for index in range(60)]
    tables = {"CE": softmax(3, 60, 1).astype("f4"), "CRL": softmax(3, 60, 2).astype("f4")}
    text = to_csv(heat_map(["a", "b, c", 'd "e"\nf'], names, tables, [5, None, 0]))
    rows = list(csv.reader(io.StringIO(text, newline="")))
    assert rows[0] == ["image", "model", "true class", "predicted class", *names]
    assert len(rows) == 1 + 3 * 2
    assert [row[:3] for row in rows[1:]] == [
        ["a", "CE", "class 5"],
        ["a", "CRL", "class 5"],
        ["b, c", "CE", ""],
        ["b, c", "CRL", ""],
        ['d "e"\nf', "CE", "class 0"],
        ['d "e"\nf', "CRL", "class 0"],
    ]
    read = np.array([row[4:] for row in rows[1:]], dtype="f4")
    np.testing.assert_array_equal(read[0::2], tables["CE"])
    np.testing.assert_array_equal(read[1::2], tables["CRL"])
    assert rows[4][3] == names[int(tables["CRL"][1].argmax())]
    assert text.endswith("\r\n")


@pytest.mark.parametrize("start", ["=", "+", "-", "@", "\t", "\r", "\uff1d", " =", "\n="])
def test_no_name_is_a_formula(start: str):
    name = f"{start}HYPERLINK(1)"

    text = to_csv(heat_map([name], [name, "dog"], {name: np.array([[0.25, 0.75]])}, [0]))
    rows = list(csv.reader(io.StringIO(text, newline="")))
    cells = [cell for row in rows for cell in row if "HYPER" in cell]
    assert len(cells) == 4
    assert all(cell.startswith("'") for cell in cells)


def test_a_name_that_is_no_unicode_still_gives_a_file():
    text = to_csv(heat_map(["\udcff.jpg", "a\0b"], ["cat", "dog"], {"m": np.array([[0.5, 0.5], [0, 1.0]])}))
    assert "?.jpg" in text.encode("utf-8").decode("utf-8")
    assert "\0" not in text


def test_importing_needs_neither_torch_nor_matplotlib():
    modules = "apps.heatmap.heatmap, apps.heatmap.html, apps.heatmap.picture, apps.runtime.occlusion"
    guests = "{'torch', 'matplotlib', 'timm', 'albumentations'}"
    code = f"import sys, {modules}; sys.exit(bool({guests} & set(sys.modules)))"
    root = Path(__file__).resolve().parents[3]
    assert subprocess.run([sys.executable, "-c", code], cwd=root, check=False).returncode == 0


def test_with_a_top_columns_are_few_and_models_share_the_page():
    """Worked by hand: each of two models has its own five best; both and the truth make eleven columns."""
    falling = np.array([0.4, 0.25, 0.15, 0.1, 0.05])
    first, second = np.full((1, 200), 0.05 / 195), np.full((1, 200), 0.05 / 195)
    first[0, 10:15], second[0, 100:105] = falling, falling
    names = [str(index) for index in range(200)]
    one = heat_map(["a"], names, {"A": first}, top=5)
    assert one.columns == tuple(range(10, 15))
    both = heat_map(["a"], names, {"A": first, "B": second}, [50], top=5)
    assert both.columns == (*range(10, 15), 50, *range(100, 105))
    assert both.hidden == 189
    assert both.shown("A").sum() == pytest.approx(1)
    pictures = heat_map(["a", "b"], names, {"A": np.vstack([first, second]), "B": softmax(2, 200)}, top=5)
    assert len(pictures.columns) <= LEAST_COLUMNS - 1
    assert heat_map(["a"], AGES, {"A": softmax(1, 8)}, top=5).columns == tuple(range(8))


def test_columns_have_names_for_people_and_the_csv_the_models_own():
    names = class_table(CUB)
    found = heat_map(["a"], names, {"m": softmax(1, 200)}, [0], top=2)
    assert found.column_names[0] == "Black footed Albatross"
    header = next(csv.reader(io.StringIO(to_csv(found), newline="")))
    assert header[4:] == list(names)


@pytest.mark.parametrize("table", [CUB, CARS])
@pytest.mark.parametrize("limit", [20, 28, 60])
def test_the_official_classes_stay_different_however_short(table: str, limit: int):
    names = names_for_people(class_table(table))
    short = short_names(names, limit)
    assert len(set(short)) == len(short) == len(class_table(table))
    assert max(map(len, short)) <= limit
    assert [told for told, name in zip(short, names, strict=True) if len(name) <= limit] == [
        name for name in names if len(name) <= limit
    ]


def test_names_lose_number_and_underscores():
    assert names_for_people(class_table(CUB))[:2] == ("Black footed Albatross", "Laysan Albatross")
    assert names_for_people(class_table(CARS)) == class_table(CARS)


@pytest.mark.parametrize("names", [("001.Gull", "002.Gull"), ("a_b", "a b"), ("001.", "cat"), ("_", "cat")])
def test_names_that_would_read_alike_or_be_empty_stay_as_they_are(names: tuple[str, ...]):
    assert names_for_people(names) == names


def test_what_makes_long_names_differ_is_kept():
    names = ["Chevrolet Silverado 1500 Regular Cab 2012", "Chevrolet Silverado 2500HD Regular Cab 2012"]
    assert short_names(names, 28) == ("…erado 1500 Regular Cab 2012", "…ado 2500HD Regular Cab 2012")


def test_it_needs_no_torch():
    code = "import sys, apps.heatmap.heatmap; sys.exit(bool({'torch', 'matplotlib'} & set(sys.modules)))"
    assert subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=False).returncode == 0
