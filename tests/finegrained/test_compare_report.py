"""compare.md repeats the comparison's numbers and conclusion, and makes no claim of its own."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from finegrained.figures.disagreements import telling_columns
from finegrained.task import TASK
from finetune.experiments.compare.compare import compare_results, compare_seeds
from finetune.experiments.compare.page import (
    differences,
    per_seed,
    what_differs,
    write_comparison,
)
from finetune.experiments.result import Result
from finetune.figures.markdown import escape, points
from tests.finegrained.made_results import make_result
from tests.finetune.drawing import pixels_of

Compared = tuple[Result, Result, dict[str, Any]]


@pytest.fixture(scope="module")
def compared(tmp_path_factory: pytest.TempPathFactory) -> Compared:
    """Two results that differ in the loss, and their comparison."""
    folder = tmp_path_factory.mktemp("results")
    a = make_result(folder / "a", 12, answers=1, loss={"name": "cel"})
    b = make_result(folder / "b", 12, answers=2)
    return a, b, compare_results(TASK, a, b, resamples=50)


def test_page_repeats_conclusion_and_numbers(compared: Compared, tmp_path: Path):
    a, b, comparison = compared
    place = tmp_path / "new" / "folder"
    page = write_comparison(TASK, a, b, comparison, place, pictures=False).read_text(encoding="utf-8")
    assert escape(comparison["conclusion"]) in page
    for measure in ("top1", "top5", "per_class"):
        found = comparison[measure]
        low, high = found["interval"]
        row = [f"{found['a']:.2f}", f"{found['b']:.2f}", f"{found['difference']:+.2f}"]
        assert " | ".join([*row, points((low, high))]) in page
    assert f"{comparison['mcnemar']['b']} images only the first has correct" in page
    assert "Only the loss differs." in page
    assert not (place / "pictures").exists()


def test_what_resampling_cannot_tell_has_wilsons_interval_with_the_reason(compared: Compared):
    found = {
        "a": 50.0,
        "b": 75.0,
        "difference": 25.0,
        "interval": [16.08, 30.36],
        "p": None,
        "method": "Wilson",
        "reason": "nothing varies",
    }
    text = differences({**compared[2], "per_class": found}, TASK)
    assert "| 50.00 | 75.00 | +25.00 | +16.08 to +30.36 (Wilson) | n/a |" in text
    assert "Wilson interval for the mean of the per-class accuracies: nothing varies." in text


def test_no_word_of_better_beyond_the_conclusion(compared: Compared, tmp_path: Path):
    a, b, comparison = compared
    page = write_comparison(TASK, a, b, {**comparison, "conclusion": ""}, tmp_path, pictures=False)
    words = page.read_text(encoding="utf-8").replace("not which result is better", "")
    assert not any(word in words for word in ("better", "worse", "outperform", "beats", "improve", "higher"))


def test_gallery_and_heat_maps_are_drawn_even_without_the_image_files(compared: Compared, tmp_path: Path):
    page = write_comparison(TASK, *compared, tmp_path).read_text(encoding="utf-8")
    for name in ("disagreements", "heat_maps"):
        assert f"](pictures/{name}.png)" in page
    pixels_of(tmp_path / "pictures" / "disagreements.png")
    assert (tmp_path / "pictures" / "heat_maps.png").stat().st_size > 10_000


def test_two_results_that_are_right_alike_have_no_heat_map(tmp_path: Path):
    a, b = (make_result(tmp_path / name, 12, hit=0.0) for name in "ab")
    page = write_comparison(TASK, a, b, compare_results(TASK, a, b, resamples=20), tmp_path / "out")
    text = page.read_text(encoding="utf-8")
    assert "disagreements.png" in text
    assert "heat_maps.png" not in text


def test_columns_hold_truth_and_both_answers(compared: Compared):
    first, second = (side.predictions.in_order() for side in compared[:2])
    rows = [3, 40]
    second.preds[rows] = [11, 10]
    columns = telling_columns(first, second, rows)
    said = {int(side[row]) for row in rows for side in (first.target, first.preds, second.preds)}
    assert {10, 11} <= said
    assert set(columns) == said
    assert len(columns) == len(said)


def test_more_than_the_loss_or_the_head_is_not_controlled():
    item = {"field": "train.lr", "a": 0.1, "b": None}
    comparison = {"names": ["a|1", "b"], "changed": "more", "settings": [item], "environment": []}
    text = what_differs(comparison)
    assert "**Not a controlled comparison**" in text
    assert "| train.lr | 0.1 | n/a |" in text
    assert r"a\|1" in text


@pytest.mark.parametrize(
    ("changed", "words"),
    [("nothing", "No setting differs."), ("head", "Only the head differs.")],
)
def test_what_is_controlled_is_said(changed: str, words: str):
    assert what_differs({"names": ["a", "b"], "changed": changed, "settings": [], "environment": []}) == words


def test_seeds_are_listed_with_mean_sd_and_interval(compared: Compared, tmp_path: Path):
    assert per_seed(compared[2], TASK) is None
    sides = [
        [
            make_result(tmp_path / f"{name}{seed}", 6, answers=seed + shift, seed=seed, loss={"name": name})
            for seed in range(3)
        ]
        for shift, name in ((1, "cel"), (9, "crl"))
    ]
    comparison = compare_seeds(TASK, *sides, resamples=50)
    text = per_seed(comparison, TASK)
    assert text is not None
    for row in comparison["per_seed"]:
        found = row["top1"]
        assert (
            f"| seed {row['seed']} | {found['a']:.2f} | {found['b']:.2f} | {found['difference']:+.2f} |"
            in text
        )
    spread = comparison["seed_difference"]["top1"]
    assert f"{spread['mean']:.2f} ± {spread['sd']:.2f}" in text
    assert "{:.2f} to {:.2f}".format(*comparison["seed_scores"]["top1"]["b"]["interval"]) in text
