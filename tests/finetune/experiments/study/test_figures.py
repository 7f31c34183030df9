"""The images of studies of three and fourteen arms and of a grid; they draw what the cells say."""

from __future__ import annotations

from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from finetune.experiments.study.arms import build_arms
from finetune.experiments.study.cells import Cell
from finetune.experiments.study.curve_figures import (
    _reach,
    draw_error_curves,
    draw_factor_curves,
    read_curves,
    short_titles,
)
from finetune.experiments.study.figures import draw_differences, draw_grid, draw_study, find_grid
from finetune.experiments.study.statistics import Measure, summarise_study
from finetune.figures import canvas
from tests.finetune.drawing import has_colour, pixels_of
from tests.finetune.experiments.study.made_up import cell_of, cells_of, study_of

MEASURES = [Measure("accuracy", "accuracy (%)")]
THREE = build_arms(["nllr", "crl"], controls=False)
GRID = build_arms(["crl"], controls=False, grid=True, grid_alphas=(0, 1, 1.5), grid_betas=(0.5, 1))
FIVE = build_arms(["nllr", "crl", "focal", "cce"], controls=False)
FOURTEEN = (*build_arms(("nllr", "crl", "focal", "cce", "dualce", "tce")), *GRID[2:7])


@pytest.fixture
def drawn(monkeypatch) -> list[Any]:
    """The figures that are drawn, as matplotlib has them."""
    figures: list[Any] = []
    real = canvas.new_figure

    @contextmanager
    def spy(*given, **options):
        with real(*given, **options) as figure:
            figures.append(figure)
            yield figure

    monkeypatch.setattr(canvas, "new_figure", spy)
    return figures


def test_three_arms_share_the_axes_and_fourteen_have_a_panel_each(tmp_path: Path):
    assert len(FOURTEEN) == 14
    few = draw_error_curves(study_of(THREE, epochs=8), THREE, tmp_path / "three.png")
    many = draw_error_curves(study_of(FOURTEEN, seeds=2, epochs=8), FOURTEEN, tmp_path / "fourteen.png")
    assert few is not None
    assert many is not None
    assert has_colour(pixels_of(few), canvas.BLUE)
    assert len(pixels_of(many)) > 1.5 * len(pixels_of(few))


def test_differences_that_are_the_same_for_all_seeds_are_told_so(drawn: list[Any], tmp_path: Path):
    scores = {"cel": [84.0, 84.2], "nllr": [84.0, 84.2], "crl": [85.0, 85.2]}
    draw_differences(summarise_study(cells_of(scores), THREE, MEASURES), tmp_path / "differences.png")
    told = [text.get_text() for axes in drawn[0].axes for text in axes.texts]
    assert told == ["0.00, all seeds are equal", "+1.00, all seeds differ by the same"]


def test_a_curve_is_the_mean_over_seeds_of_epochs_that_all_measured():
    cells = [
        cell_of("crl", 0, 80.0, history=[{"epoch": 1, "test_error": 40.0}, {"epoch": 2, "test_error": 22.0}]),
        cell_of("crl", 1, 80.0, history=[{"epoch": 1}, {"epoch": 2, "test_error": 20.0}]),
        cell_of("crl", 2, 80.0, history=[]),
    ]
    (curve,) = read_curves(cells, THREE, "test_error")
    assert (curve.epochs.tolist(), curve.mean.tolist(), curve.seeds) == ([2], [21.0], 2)
    assert curve.sd[0] == pytest.approx(np.std([22, 20], ddof=1))
    assert draw_error_curves(cells_of({"cel": [80.0]}), THREE, Path("none.png")) is None


def test_an_arm_that_failed_does_not_flatten_the_error_curves_and_is_told(tmp_path: Path, drawn):
    cells = [cell for cell in study_of(FIVE, seeds=2, epochs=30) if cell.arm != "nllr"]
    history = [{"epoch": epoch + 1, "test_error": 90.0} for epoch in range(30)]
    cells = [*cells, cell_of("nllr", 0, 10.0, history=history)]
    curves = read_curves(cells, FIVE, "test_error")
    (low, high), cut = _reach(curves)
    assert cut
    assert 5 < low < 15 < high < 40
    draw_error_curves(cells, FIVE, tmp_path / "panels.png")
    panels = {axes.get_title(): [text.get_text() for text in axes.texts] for axes in drawn[-1].axes}
    assert panels["NLLR"] == ["off the scale: 90 %"]
    assert panels["CRL (alpha 1.5, beta 1)"] == [""]
    draw_error_curves(cells, FIVE[:3], tmp_path / "together.png")
    (legend,) = (axes.get_legend() for axes in drawn[-1].axes)
    assert [text.get_text() for text in legend.get_texts()][1] == "NLLR\noff the scale: 90 %"


def test_one_arm_alone_is_drawn_whole():
    (low, high), cut = _reach(read_curves(study_of(THREE, seeds=2, epochs=30), THREE[:1], "test_error"))
    assert not cut
    assert low < 15
    assert high > 84


def test_a_band_ends_where_errors_do():
    cells = [
        cell_of("cel", seed, 99.0, history=[{"epoch": 1, "test_error": error, "gradient_factor": 9.0 * seed}])
        for seed, error in enumerate((0.1, 3.0))
    ]
    (curve,) = read_curves(cells, THREE, "test_error")
    assert curve.band[0].tolist() == [0.0]
    assert curve.band[1][0] == pytest.approx(np.mean([0.1, 3.0]) + np.std([0.1, 3.0], ddof=1))
    (factor,) = read_curves(cells, THREE, "gradient_factor")
    assert factor.band[0][0] < 0


def test_many_gradient_factors_have_a_panel_each_and_run_off_no_page(tmp_path: Path, drawn):
    arms = build_arms([f"crl:alpha={number}" for number in range(2, 20)], controls=False)
    cells = study_of(arms, seeds=1, epochs=2)
    file = draw_factor_curves(cells, arms, tmp_path / "factors.png")
    assert file is not None
    pixels_of(file)
    titles = [axes.get_title() for axes in drawn[-1].axes if axes.get_title()]
    assert titles == [arm.title for arm in arms[1:]]
    assert all(axes.get_legend() is None for axes in drawn[-1].axes)
    draw_factor_curves(cells, arms[:9], tmp_path / "together.png")
    assert len(drawn[-1].axes) == 1


def test_differences_name_every_arm_apart(tmp_path: Path, drawn):
    words = ["crl:alpha=1.17654321:beta=1.87654321", "crl:alpha=1.27654321:beta=1.87654321"]
    arms = build_arms(words, smoothing=0)
    draw_differences(summarise_study(study_of(arms, seeds=3), arms, MEASURES), tmp_path / "differences.png")
    labels = [label.get_text() for label in drawn[-1].axes[0].get_yticklabels()]
    assert len(set(labels)) == len(labels) == len(arms) - 1
    assert "1.17654321" in labels[-2]


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
            [{"epoch": 1, "gradient_factor": factor}],
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
    history = [{"epoch": epoch + 1, "validation_error": 40.0 - epoch} for epoch in range(3)]
    cells = [Cell(arm.name, 0, {"accuracy": 50.0}, history, None, None, 1.0, 1.0, "cpu") for arm in arms]
    assert draw_error_curves(cells, arms, tmp_path / "no.png") is None
    assert draw_error_curves(cells, arms, tmp_path / "yes.png", part="validation") is not None


def subtitle_of(figure: Any) -> str:
    return " ".join(text.get_text() for text in figure.texts)


def shapes_of(axes: Any) -> list[tuple[str, float, float]]:
    """Marker and place of every marked point."""
    marked = [line for line in axes.lines if line.get_marker() in ("o", "<", ">")]
    return [(line.get_marker(), float(line.get_xdata()[0]), float(line.get_ydata()[0])) for line in marked]


def test_an_arm_beyond_the_axis_is_one_triangle_that_is_explained(tmp_path: Path, drawn):
    rng = np.random.default_rng(0)
    base = 84 + rng.normal(0, 0.1, 6)
    arms = build_arms(["nllr", "crl", "tce", "cce", "dualce"], controls=False)
    near = {name: base + 0.05 * rng.normal(0, 1, 6) for name in ("crl", "tce", "cce")}
    far = {"nllr": base + 60 + rng.normal(0, 1, 6), "dualce": base + np.array([-9, 9, -9, 9, -9, 9.0])}
    scores = {"cel": base, **near, **far}
    summary = summarise_study(cells_of({k: v.tolist() for k, v in scores.items()}), arms, MEASURES)
    draw_differences(summary, tmp_path / "far.png")
    assert "triangles: beyond the axis" in subtitle_of(drawn[-1])
    shapes = shapes_of(drawn[-1].axes[0])
    assert [mark for mark, _, y in shapes if y == 0] == [">"]
    assert sorted(mark for mark, _, y in shapes if y == 4) == ["<", ">", "o"]
    draw_differences(summarise_study(study_of(THREE, seeds=3), THREE, MEASURES), tmp_path / "near.png")
    assert "triangles" not in subtitle_of(drawn[-1])


def test_a_picture_of_one_epoch_counts_in_whole_epochs(tmp_path: Path, drawn):
    cells = study_of(FIVE, seeds=2, epochs=1)
    draw_factor_curves(cells, THREE, tmp_path / "factors.png")
    draw_error_curves(cells, FIVE, tmp_path / "errors.png")
    for figure in drawn:
        ticks = figure.axes[0].get_xticks()
        assert len(ticks)
        assert all(float(tick).is_integer() for tick in ticks)


def test_all_cells_that_share_the_lowest_error_are_outlined_and_clipped_colours_told(tmp_path: Path, drawn):
    scores = {arm.name: [85.0, 84.0] for arm in GRID}
    draw_grid(summarise_study(cells_of(scores), GRID, MEASURES), GRID, tmp_path / "ties.png")
    outlines = [patch for patch in drawn[-1].axes[0].patches if not patch.get_fill()]
    assert len(outlines) == 6
    assert "the 6 lowest, all equal, of 6 CRL cells" in subtitle_of(drawn[-1])
    assert "darker" not in subtitle_of(drawn[-1])
    scores = {arm.name: [85.0 - 0.1 * place] * 2 for place, arm in enumerate(GRID)} | {"crl": [10.0, 10.0]}
    draw_grid(summarise_study(cells_of(scores), GRID, MEASURES), GRID, tmp_path / "clipped.png")
    assert sum(not patch.get_fill() for patch in drawn[-1].axes[0].patches) == 1
    assert "outlined: the lowest of 6 CRL cells" in subtitle_of(drawn[-1])
    assert "no darker colour above" in subtitle_of(drawn[-1])


@pytest.mark.parametrize("width", [1.8, 2.4, 2.9])
def test_titles_fit_and_stay_different(width):
    words = [f"crl:alpha=1.{digit}7654321:beta={beta}" for digit in (1, 2, 8) for beta in ("1", "0.87654321")]
    arms = build_arms([*words, "crl:label_smoothing=0.1", "lsoftmax:margin=2:blend_start=100"])
    titles = [arm.title for arm in arms]
    short = short_titles(titles, width, canvas.SMALL)
    assert len(set(short)) == len(set(titles)) == len(titles)
    assert all(canvas.text_width(title, canvas.SMALL) <= width for title in short)
    assert all(title.count("\n") < 2 for title in short)
    assert short[0] == "CE"
