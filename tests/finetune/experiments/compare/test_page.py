"""compare.md of either task repeats the comparison's numbers and conclusion; it claims nothing of its own."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from agecls.config import AgeCompareConfig
from finetune.experiments.compare.compare import compare_results, compare_seeds
from finetune.experiments.compare.page import differences, per_seed, what_differs, write_comparison
from finetune.experiments.config import CompareConfig
from finetune.experiments.result import Result
from finetune.experiments.task import Task, measures_for
from finetune.figures.markdown import escape, points
from tests.finetune.drawing import pixels_of
from tests.finetune.experiments.made_tasks import MadeTask

SIZE: dict[str, dict[str, Any]] = {"age": {}, "fine": {"classes": 12}}
Compared = tuple[Task, Result, Result, dict[str, Any]]


@pytest.fixture(scope="module")
def compared(made: MadeTask, tmp_path_factory: pytest.TempPathFactory) -> Compared:
    """Two results of a task that differ in the loss, and their comparison."""
    folder, size = tmp_path_factory.mktemp("results"), SIZE[made.task.name]
    a = made.make(folder / "a", answers=1, loss={"name": "cel"}, **size)
    b = made.make(folder / "b", answers=2, **size)
    return made.task, a, b, compare_results(made.task, a, b, resamples=50)


def measured(found: dict[str, Any]) -> str:
    """Return the cells of a row: both scores and their difference."""
    return f"{found['a']:.2f} | {found['b']:.2f} | {found['difference']:+.2f}"


def test_page_repeats_conclusion_and_numbers(compared: Compared, tmp_path: Path):
    task, a, b, comparison = compared
    place = tmp_path / "new" / "folder"
    page = write_comparison(task, a, b, comparison, place, pictures=False).read_text(encoding="utf-8")
    assert escape(comparison["conclusion"]) in page
    for measure in measures_for(task, "compare", a.class_names):
        found = comparison[measure.key]
        assert f"{measured(found)} | {points(found['interval'])}" in page
    assert f"{comparison['mcnemar']['b']} images only the first has correct" in page
    assert "Only the loss differs." in page
    assert not (place / "pictures").exists()


def test_what_resampling_cannot_tell_has_wilsons_interval_with_the_reason(compared: Compared):
    task, a, _, comparison = compared
    measure = measures_for(task, "compare", a.class_names)[-1]
    found = {"a": 50.0, "b": 75.0, "difference": 25.0, "interval": [16.08, 30.36], "p": None}
    found |= {"method": "Wilson", "reason": "nothing varies"}
    text = differences({**comparison, measure.key: {**comparison[measure.key], **found}}, task)
    assert "| 50.00 | 75.00 | +25.00 | +16.08 to +30.36 (Wilson) | n/a |" in text
    assert f"Wilson interval for the {measure.label}: nothing varies." in text


def test_no_word_of_better_beyond_the_conclusion(compared: Compared, tmp_path: Path):
    task, a, b, comparison = compared
    page = write_comparison(task, a, b, {**comparison, "conclusion": ""}, tmp_path, pictures=False)
    words = page.read_text(encoding="utf-8").replace("not which result is better", "")
    assert not any(word in words for word in ("better", "worse", "outperform", "beats", "improve", "higher"))


def showing_people(compared: Compared) -> Compared:
    """Return the comparison with leave to show the people of the images, which the age task needs."""
    task, a, b, comparison = compared
    return task, a.showing_people(True), b.showing_people(True), comparison


def test_faces_need_leave(compared: Compared, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    task, a, b, comparison = compared
    if task.name != "age":
        assert CompareConfig().people  # images of other tasks are shown
        return
    assert not AgeCompareConfig().people
    shown: list[Path] = []
    draw = "finetune.figures.gallery.draw_thumbnail"
    monkeypatch.setattr(draw, lambda axes, file, size=0: shown.append(file))
    write_comparison(task, a, b, comparison, tmp_path, people=True)
    assert shown
    shown.clear()
    page = write_comparison(task, a, b.showing_people(True), comparison, tmp_path).read_text(encoding="utf-8")
    assert "](pictures/heat_maps.png)" in page
    assert "disagreements" not in page
    assert "No person is shown" in page
    assert shown == []


def test_gallery_and_heat_maps_are_drawn_even_without_the_image_files(compared: Compared, tmp_path: Path):
    page = write_comparison(*showing_people(compared), tmp_path).read_text(encoding="utf-8")
    for name in ("disagreements", "heat_maps"):
        assert f"](pictures/{name}.png)" in page
    pixels_of(tmp_path / "pictures" / "disagreements.png")
    heat_maps = tmp_path / "pictures" / "heat_maps.png"
    assert heat_maps.stat().st_size > 10_000
    if compared[0].ordered:  # groups have a row each; of other classes a few are shown, as wide as they need
        pixels_of(heat_maps)


def test_two_results_that_are_right_nowhere_have_no_heat_map(made: MadeTask, tmp_path: Path):
    a, b = (made.result(np.zeros(made.images, dtype=bool), name) for name in "ab")
    comparison = compare_results(made.task, a, b, resamples=20)
    shown = showing_people((made.task, a, b, comparison))
    page = write_comparison(*shown, tmp_path).read_text(encoding="utf-8")
    assert "disagreements.png" in page
    assert "heat_maps.png" not in page
    assert not (tmp_path / "pictures" / "heat_maps.png").exists()


def test_seeds_are_listed_with_mean_sd_and_interval(made: MadeTask, compared: Compared, tmp_path: Path):
    assert per_seed(compared[3], made.task) is None
    sides = [
        [
            made.make(tmp_path / f"{name}{seed}", answers=seed + shift, seed=seed, loss={"name": name})
            for seed in range(3)
        ]
        for shift, name in ((1, "cel"), (9, "crl"))
    ]
    comparison = compare_seeds(made.task, *sides, resamples=50)
    text = per_seed(comparison, made.task)
    assert text is not None
    assert "over 3 seeds" in text
    for measure in measures_for(made.task, "conclusion", sides[0][0].class_names):
        for row in comparison["per_seed"]:
            assert f"| seed {row['seed']} | {measured(row[measure.key])} |" in text
        spread, scores = (comparison[name][measure.key] for name in ("seed_difference", "seed_scores"))
        assert f"{spread['mean']:.2f} ± {spread['sd']:.2f}" in text
        assert "{:.2f} to {:.2f}".format(*scores["b"]["interval"]) in text
    place = tmp_path / "out"
    page = write_comparison(made.task, sides[0][0], sides[1][0], comparison, place, pictures=False)
    assert ("McNemar" in page.read_text(encoding="utf-8")) == (made.unit == "image")


def test_more_than_the_loss_or_the_head_is_not_controlled():
    item = {"field": "train.lr", "a": 0.1, "b": None}
    comparison = {"names": ["a|1", "b"], "changed": "more", "settings": [item], "environment": []}
    text = what_differs(comparison)
    assert "**Not a controlled comparison**" in text
    assert "| train.lr | 0.1 | n/a |" in text
    assert r"a\|1" in text


@pytest.mark.parametrize(
    ("changed", "words"),
    [
        ("nothing", "No setting differs."),
        ("loss", "Only the loss differs."),
        ("head", "Only the head differs."),
    ],
)
def test_what_is_controlled_is_said(changed: str, words: str):
    assert what_differs({"names": ["a", "b"], "changed": changed, "settings": [], "environment": []}) == words
