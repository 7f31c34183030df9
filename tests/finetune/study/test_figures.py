"""The pictures of studies of three and fourteen arms and of a grid; they draw what the cells say."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from finetune import canvas
from finetune.study.arms import build_arms
from finetune.study.cells import Cell
from finetune.study.curve_figures import _reach, read_curves
from finetune.study.figures import (
    draw_differences,
    draw_error_curves,
    draw_factor_curves,
    draw_grid,
    draw_study,
)
from finetune.study.grid_figure import find_grid
from finetune.study.table import Measure, summarise_study
from tests.finetune.drawing import has_colour, pixels_of
from tests.finetune.study.made_up import cell_of, cells_of, study_of

MEASURES = [Measure("accuracy", "accuracy (%)")]
THREE = build_arms(["nllr", "crl"], controls=False)
GRID = build_arms(["crl"], controls=False, grid=True, grid_alphas=(0, 1, 1.5), grid_betas=(0.5, 1))
FOURTEEN = (*build_arms(("nllr", "crl", "focal", "cce", "dualce", "tce")), *GRID[2:7])


def test_three_arms_share_the_axes_and_fourteen_have_a_panel_each(tmp_path: Path):
    assert len(FOURTEEN) == 14
    few = draw_error_curves(study_of(THREE, epochs=8), THREE, tmp_path / "three.png")
    many = draw_error_curves(study_of(FOURTEEN, seeds=2, epochs=8), FOURTEEN, tmp_path / "fourteen.png")
    assert few is not None
    assert many is not None
    assert has_colour(pixels_of(few), canvas.BLUE)
    assert len(pixels_of(many)) > 1.5 * len(pixels_of(few))


def test_a_curve_is_the_mean_over_seeds_of_epochs_that_all_measured():
    cells = [
        cell_of("crl", 0, 80.0, history=[{"epoch": 0, "test_error": 40.0}, {"epoch": 1, "test_error": 22.0}]),
        cell_of("crl", 1, 80.0, history=[{"epoch": 0}, {"epoch": 1, "test_error": 20.0}]),
        cell_of("crl", 2, 80.0, history=[]),
    ]
    (curve,) = read_curves(cells, THREE, "test_error")
    assert (curve.epochs.tolist(), curve.mean.tolist(), curve.seeds) == ([2], [21.0], 2)
    assert curve.sd[0] == pytest.approx(np.std([22, 20], ddof=1))
    assert draw_error_curves(cells_of({"cel": [80.0]}), THREE, Path("none.png")) is None


def test_an_arm_that_failed_does_not_flatten_the_error_curves():
    cells = [cell for cell in study_of(THREE, seeds=2, epochs=30) if cell.arm != "nllr"]
    failed = [cell_of("nllr", 0, 10.0, history=[{"epoch": epoch, "test_error": 90.0} for epoch in range(30)])]
    (low, high), cut = _reach(read_curves([*cells, *failed], THREE, "test_error"))
    assert cut
    assert 5 < low < 15 < high < 40


def test_factors_far_apart_are_on_a_logarithmic_axis_and_cross_entropy_is_one(tmp_path: Path):
    cells = study_of(THREE, seeds=2, epochs=6)
    file = draw_factor_curves(cells, THREE, tmp_path / "factors.png")
    assert file is not None
    assert has_colour(pixels_of(file), canvas.INK)
    assert draw_factor_curves(cells, THREE[:1], tmp_path / "none.png") is None


def test_differences_are_blue_where_shown_and_one_failure_does_not_flatten_the_rest(tmp_path: Path):
    rng = np.random.default_rng(0)
    base = 84 + rng.normal(0, 0.1, 6)
    scores = {"cel": base, "nllr": base - 60 + rng.normal(0, 1, 6), "crl": base + 0.02 * rng.normal(0, 1, 6)}
    summary = summarise_study(cells_of({k: v.tolist() for k, v in scores.items()}), THREE, MEASURES)
    file = draw_differences(summary, tmp_path / "differences.png")
    assert file is not None
    pixels = pixels_of(file)
    assert has_colour(pixels, canvas.BLUE)
    assert has_colour(pixels, canvas.MUTED)
    one = summarise_study(cells_of({"cel": [84.0], "crl": [85.0]}), THREE, MEASURES)
    assert draw_differences(one, tmp_path / "none.png") is None


def test_the_grid_is_found_and_drawn_with_holes(tmp_path: Path):
    assert find_grid(THREE) is None
    assert find_grid(build_arms(["crl", "crl:alpha=1", "crl:beta=0.5"], controls=False)) is None
    grid = find_grid(GRID)
    assert grid is not None
    assert (grid.alphas, grid.betas) == ((0.0, 1.0, 1.5), (0.5, 1.0))
    cells = [cell for cell in study_of(GRID, seeds=2, epochs=2) if cell.arm != "crl-alpha0-beta1"]
    file = draw_grid(summarise_study(cells, GRID, MEASURES), GRID, tmp_path / "grid.png")
    assert file is not None
    assert has_colour(pixels_of(file), canvas.VERMILION)
    bare = [cell for cell in cells if cell.arm == "cel"]
    assert draw_grid(summarise_study(bare, GRID, MEASURES), GRID, tmp_path / "none.png") is None


def test_a_single_seed_of_one_epoch_is_drawn_without_bands(tmp_path: Path):
    cells = study_of(THREE, seeds=1, epochs=1)
    drawn = draw_study(tmp_path, summarise_study(cells, THREE, MEASURES), cells, THREE)
    assert list(drawn) == ["error_curves", "factor_curves"]
    assert {path.name for path in (tmp_path / "pictures").iterdir()} == {
        "error_curves.png",
        "factor_curves.png",
    }


def test_a_factor_without_bound_is_left_out_and_told(tmp_path, monkeypatch):
    drawn: list[str] = []
    real = canvas.new_figure

    def spy(out, height, title, subtitle="", *more, **options):
        drawn.append(subtitle)
        return real(out, height, title, subtitle, *more, **options)

    monkeypatch.setattr(canvas, "new_figure", spy)
    arms = build_arms(["crl", "nllr"], controls=False)
    rows = {"crl": 1.3, "nllr": 1e30}
    cells = [
        Cell(
            name,
            0,
            {"accuracy": 50.0},
            [{"epoch": 0, "gradient_factor": factor}],
            factor,
            2.0,
            1.0,
            1.0,
            "cpu",
        )
        for name, factor in rows.items()
    ]
    assert draw_factor_curves(cells, arms, tmp_path / "factors.png") is not None
    assert "left out, beyond 100: NLLR" in drawn[0]
    assert draw_factor_curves(cells[1:], arms, tmp_path / "none.png") is None


def test_runs_without_test_curves_show_their_validation_images(tmp_path):
    arms = build_arms(["crl"], controls=False)
    history = [{"epoch": epoch, "validation_error": 40.0 - epoch} for epoch in range(3)]
    cells = [Cell(arm.name, 0, {"accuracy": 50.0}, history, None, None, 1.0, 1.0, "cpu") for arm in arms]
    assert draw_error_curves(cells, arms, tmp_path / "no.png") is None
    assert draw_error_curves(cells, arms, tmp_path / "yes.png", part="validation") is not None
