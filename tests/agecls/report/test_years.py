"""Ages in years from their scores to the report, the comparison, the card and the figures."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import numpy as np
import pytest

from agecls.data.years import years_of
from agecls.exported.card_text import age_text
from agecls.measures import MEASURES
from agecls.report.card import age_card
from agecls.report.year_figures import draw_answers, draw_decades, draw_year_curves
from agecls.task import TASK
from agecls.year_scores import decade_rows, score_years, year_errors
from finetune.experiments.compare.compare import compare_results
from finetune.experiments.measures import shown_in
from finetune.experiments.report import report_result
from finetune.experiments.result import Result
from tests.agecls.results_by_hand import make_result
from tests.finetune.drawing import pixels_of
from tests.finetune.experiments.tiny_tasks import leave_out_pictures

NAMES = (*(str(year) for year in range(40)), "40+")


@pytest.fixture(scope="module")
def results(tmp_path_factory: pytest.TempPathFactory) -> tuple[Result, Result]:
    """Two results of the same images in years; their losses differ."""
    place = tmp_path_factory.mktemp("years")
    second = make_result(place / "b", names=NAMES, answers=1, loss={"name": "cel"}, counts={})
    return make_result(place / "a", names=NAMES, counts={}), second


@pytest.fixture(scope="module")
def record(results: tuple[Result, Result]) -> dict[str, Any]:
    """The report of the first result."""
    with pytest.MonkeyPatch.context() as patch:
        leave_out_pictures(patch)
        return report_result(TASK, results[0], resamples=30)


def test_the_report_tells_years_and_no_groups(results: tuple[Result, Result], record: dict[str, Any]):
    page = (results[0].folder / "report.md").read_text(encoding="utf-8")
    assert page.startswith("# Ages in years: ")
    years = record["years"]
    assert years["mae"] == pytest.approx(float(np.abs(year_errors(results[0].predictions)).mean()))
    assert f"| mean absolute error (years) | **{years['mae_mean']:.2f} ± {years['mae_sd']:.2f}** |" in page
    assert "| 30-39 years |" in page
    assert "one-off" not in page
    assert "Images per decade: 0-9: " in page
    assert (record["mae_years_mean"], record["cs5_mean"]) == (years["mae_mean"], years["cs5_mean"])


def test_folds_are_averaged_and_their_interval_is_of_that_mean(results: tuple[Result, Result]):
    scores = score_years(results[0].predictions, resamples=200)
    assert scores is not None
    assert scores["mae_mean"] == pytest.approx(np.mean(scores["mae_per_fold"]))
    assert scores["mae_mean"] != pytest.approx(scores["mae"], abs=1e-4)  # folds differ in size
    low, high = scores["mae_interval"]
    assert low < scores["mae_mean"] < high


def test_two_results_are_compared_in_years_and_in_cs5(results: tuple[Result, Result]):
    found = compare_results(TASK, *results, resamples=200)
    a, b = (float(np.abs(year_errors(one.predictions)).mean()) for one in results)
    pooled = found["mae_years"]["pooled"]
    assert (pooled["a"], pooled["b"], pooled["difference"]) == pytest.approx((a, b, b - a))
    assert found["exact"] is None
    assert found["one_off"] is None
    assert "mcnemar" not in found
    assert " years (95 % " in found["conclusion"]
    assert "mean absolute error" in found["conclusion"]
    assert "most frequent class" not in found["conclusion"]


def test_groups_have_no_measure_in_years():
    keys = {one.key for one in shown_in(MEASURES, "compare", ("0-2", "4-6", "8+"))}
    assert keys == {"exact", "one_off"}
    assert {one.key for one in shown_in(MEASURES, "study", NAMES)} == {"cs5", "mae_years"}


@pytest.mark.parametrize("fold", [0, None])
def test_the_card_tells_years(results: tuple[Result, Result], record: dict[str, Any], fold: int | None):
    card = age_card(results[0].folder, fold)
    metrics = card["metrics"]
    key = "mae_years_mean" if fold is None else "mae_years"
    own = results[0].predictions.select(results[0].predictions.fold == 0)
    expected = record["years"]["mae_mean"] if fold is None else float(np.abs(year_errors(own)).mean())
    assert metrics[key] == pytest.approx(expected)
    assert "exact" not in metrics
    assert card["card"]["groups"] == []
    assert card["card"]["decades"][0]["name"] == "0-9"

    facts = SimpleNamespace(
        class_names=NAMES,
        metrics=metrics,
        card=card["card"],
        data={},
        crop=None,
        precision="fp32",
        test_crops="center",
    )
    text = age_text(cast(Any, facts), MEASURES)
    assert "says how old the person *appears* to be, in years from 0 to 40+" in text.does
    assert f"the mean absolute error is {expected:.1f} years" in text.scored
    assert "### By decade of age" in text.measured
    assert "one-off" not in text.measured


def test_figures_are_drawn(results: tuple[Result, Result], tmp_path: Path):
    found, years = results[0].predictions, years_of(NAMES)
    assert years is not None
    curves = {"a": found.probs, "b": results[1].predictions.probs}
    for file in (
        draw_answers(found, years, tmp_path / "answers.png"),
        draw_year_curves([Path("x.jpg")], found.select(np.arange(1)), curves, years, tmp_path / "curves.png"),
        draw_decades(decade_rows(found, years, resamples=20), "subject", tmp_path / "decades.png"),
    ):
        assert pixels_of(file).std() > 10
