"""Confusion matrix and bars per group: drawn for whole, thin and empty data, showing what the data say."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from agecls.report.figures import draw_confusion, draw_group_bars
from finetune.figures import canvas
from tests.agecls.drawing import NAMES
from tests.finetune.drawing import has_colour, pixels_of


def texts_of(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Collect every text that matplotlib puts on axes from now on."""
    from matplotlib.axes import Axes

    seen: list[str] = []
    original = Axes.text

    def record(self, x, y, s, *arguments, **keywords):
        seen.append(s)
        return original(self, x, y, s, *arguments, **keywords)

    monkeypatch.setattr(Axes, "text", record)
    return seen


def test_confusion_writes_counts_and_shares_of_rows(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    seen = texts_of(monkeypatch)
    counts = np.array([[3, 1, 0], [0, 0, 0], [0, 1, 1999]])
    out = draw_confusion(counts, ["young", "middle", "old"], tmp_path / "c.png")
    assert out == tmp_path / "c.png"
    assert has_colour(pixels_of(out), canvas.VERMILION)
    assert {"75 %", "25 %", "3", "1,999", "< 1 %", "no images"} <= set(seen)
    assert seen.count("no images") == 1


def test_confusion_title_counts_exact_and_one_off_over_all_images(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    titles: list[str] = []
    original = canvas.new_figure

    def record(out, height, title, *arguments, **keywords):
        titles.append(title)
        return original(out, height, title, *arguments, **keywords)

    monkeypatch.setattr(canvas, "new_figure", record)
    draw_confusion(np.array([[2, 1, 1], [0, 4, 0], [1, 0, 1]]), ["a", "b", "c"], tmp_path / "c.png")
    assert titles == ["Confusion matrix: 70.0 % exact, 80.0 % within one group"]


@pytest.mark.parametrize("groups", [2, 8, 16])
def test_confusion_of_any_number_of_groups_and_of_nothing(tmp_path: Path, groups: int):
    names = [f"{5 * k}-{5 * k + 4}" for k in range(groups)]
    pixels_of(draw_confusion(np.zeros((groups, groups), dtype=int), names, tmp_path / "empty.png"))
    pixels_of(draw_confusion(np.full((groups, groups), 7), names, tmp_path / "full.png"))


def test_confusion_of_another_size_is_refused(tmp_path: Path):
    with pytest.raises(ValueError, match=r"\(3, 3\) for 3 class names, got \(2, 2\)"):
        draw_confusion(np.eye(2, dtype=int), ["a", "b", "c"], tmp_path / "c.png")


def test_the_band_encloses_the_cells_within_one_group_and_no_others():
    from matplotlib.figure import Figure
    from matplotlib.path import Path as Outline

    from agecls.report.figures import _outline_band

    axes = Figure().add_subplot()
    _outline_band(axes, 4)
    upper, lower = (line.get_xydata() for line in axes.lines[:2])
    outline = Outline(np.concatenate([upper, lower[::-1]]))
    inside = [[bool(outline.contains_point((x, y))) for x in range(4)] for y in range(4)]
    assert inside == [[abs(x - y) <= 1 for x in range(4)] for y in range(4)]


def test_group_bars_mark_groups_without_images(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    seen = texts_of(monkeypatch)
    counts = np.array([10, 20, 0, 5, 5, 5, 5, 0])
    exact = np.where(counts > 0, 50.0, np.nan)
    pixels = pixels_of(
        draw_group_bars(NAMES, counts, exact, np.where(counts > 0, 87.5, np.nan), tmp_path / "g.png")
    )
    assert has_colour(pixels, canvas.BLUE)
    assert has_colour(pixels, canvas.SKY)
    assert (seen.count("no images"), seen.count("50"), seen.count("88")) == (2, 6, 6)


def test_group_bars_draw_the_intervals_that_are_known(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    from matplotlib.axes import Axes

    drawn = []
    monkeypatch.setattr(
        Axes, "vlines", lambda self, x, low, high, **style: drawn.append((list(low), list(high)))
    )
    interval = np.array([[25.0, 75.0], [np.nan, np.nan]])
    draw_group_bars(
        ["a", "b"],
        np.array([4, 4]),
        np.full(2, 50.0),
        np.full(2, 100.0),
        tmp_path / "g.png",
        exact_interval=interval,
    )
    assert drawn == [([25.0], [75.0])]


def test_importing_the_pictures_imports_no_matplotlib():
    modules = (
        "agecls.report.figures, finetune.figures.learning_curves, finetune.figures.selection, "
        "finetune.figures.gallery, agecls.report.report"
    )
    code = f"import sys, {modules}; sys.exit('matplotlib' in sys.modules or 'torch' in sys.modules)"
    root = Path(__file__).resolve().parents[3]
    assert subprocess.run([sys.executable, "-c", code], cwd=root, check=False).returncode == 0
