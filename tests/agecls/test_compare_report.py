"""compare.md repeats the comparison's numbers and conclusion, and makes no claim of its own."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from agecls.task import TASK
from finetune.experiments.compare.compare import compare_results, compare_seeds
from finetune.experiments.compare.page import per_seed, what_differs, write_comparison
from finetune.experiments.result import Result
from finetune.figures.markdown import escape, points
from tests.agecls.results_by_hand import make_result
from tests.finetune.drawing import pixels_of

Compared = tuple[Result, Result, dict[str, Any]]


@pytest.fixture(scope="module")
def compared(tmp_path_factory: pytest.TempPathFactory) -> Compared:
    """Two results that differ in the loss, and their comparison."""
    folder = tmp_path_factory.mktemp("results")
    a, b = make_result(folder / "a", answers=1, loss={"name": "cel"}), make_result(folder / "b", answers=2)
    return a, b, compare_results(TASK, a, b, resamples=50)


def test_page_repeats_conclusion_and_numbers(compared: Compared, tmp_path: Path):
    a, b, comparison = compared
    page = write_comparison(TASK, a, b, comparison, tmp_path / "new" / "folder", pictures=False).read_text(
        encoding="utf-8"
    )
    assert escape(comparison["conclusion"]) in page
    for measure in ("exact", "one_off"):
        found = comparison[measure]
        low, high = found["interval"]
        row = [f"{found['a']:.2f}", f"{found['b']:.2f}", f"{found['difference']:+.2f}"]
        assert " | ".join([*row, points((low, high))]) in page
    assert f"{comparison['mcnemar']['b']} images only the first has correct" in page
    assert "Only the loss differs." in page
    assert not (tmp_path / "new" / "folder" / "pictures").exists()


def test_no_word_of_better_beyond_the_conclusion(compared: Compared, tmp_path: Path):
    a, b, comparison = compared
    page = write_comparison(TASK, a, b, {**comparison, "conclusion": ""}, tmp_path, pictures=False).read_text(
        encoding="utf-8"
    )
    assert not any(word in page for word in ("better", "worse", "outperform", "beats", "improve"))


def test_gallery_and_heat_maps_are_drawn_even_without_the_image_files(compared: Compared, tmp_path: Path):
    page = write_comparison(TASK, *compared, tmp_path).read_text(encoding="utf-8")
    for name in ("disagreements", "heat_maps"):
        assert f"](pictures/{name}.png)" in page
        pixels_of(tmp_path / "pictures" / f"{name}.png")


def test_more_than_the_loss_is_not_a_controlled_comparison():
    item = {"field": "train.lr", "a": 0.1, "b": None}
    comparison = {"names": ["a|1", "b"], "changed": "more", "settings": [item], "environment": []}
    text = what_differs(comparison)
    assert "**Not a controlled comparison**" in text
    assert "| train.lr | 0.1 | n/a |" in text
    assert r"a\|1" in text


def test_two_equal_runs_differ_in_nothing():
    assert what_differs({"names": ["a", "b"], "changed": "nothing", "settings": [], "environment": []}) == (
        "No setting differs."
    )


def test_seeds_are_listed_with_their_spread(compared: Compared, tmp_path: Path):
    assert per_seed(compared[2], TASK) is None
    sides = [
        [
            make_result(tmp_path / f"{name}{seed}", answers=seed + shift, seed=seed, loss={"name": name})
            for seed in range(2)
        ]
        for shift, name in enumerate(("cel", "crl"))
    ]
    comparison = compare_seeds(TASK, *sides, resamples=50)
    text = per_seed(comparison, TASK)
    assert text is not None
    for row in comparison["per_seed"]:
        for found in (row["exact"], row["one_off"]):
            cells = f"{found['a']:.2f} | {found['b']:.2f} | {found['difference']:+.2f}"
            assert f"| seed {row['seed']} | {cells} |" in text
    assert "over 2 seeds" in text
    page = write_comparison(TASK, sides[0][0], sides[1][0], comparison, tmp_path / "out", pictures=False)
    assert "McNemar" not in page.read_text(encoding="utf-8")


def test_albums_are_a_row_of_their_own(tmp_path: Path):
    a, b = (make_result(tmp_path / name, answers=seed, albums=True) for seed, name in enumerate("ab"))
    comparison = compare_results(TASK, a, b, resamples=50)
    page = write_comparison(TASK, a, b, comparison, tmp_path / "out", pictures=False).read_text(
        encoding="utf-8"
    )
    low, high = comparison["exact"]["by_user"]["interval"]
    row = next(line for line in page.splitlines() if f", {comparison['users']} users" in line)
    assert f"| {points((low, high))}" in row
