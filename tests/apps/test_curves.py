"""The image and the table of `crl curves`."""

from __future__ import annotations

import csv
from pathlib import Path
from typing import Any

import pytest

from apps.curves import draw_curves
from finetune.errors import UsageError


def _rows(file: Path) -> list[dict[str, str]]:
    with file.open(encoding="utf-8", newline="") as stream:
        return list(csv.DictReader(stream))


def test_picture_and_table_are_written_into_a_new_folder(tmp_path: Path) -> None:
    written = draw_curves(tmp_path / "new" / "folder", points=9)
    assert written["png"].read_bytes().startswith(b"\x89PNG")
    assert written["png"].stat().st_size > 10_000
    assert list(written["labels"]) == ["cel", "nllr", "crl", "focal", "tce"]
    assert len(_rows(written["csv"])) == 5 * 9


def test_table_holds_the_corrected_gradient(tmp_path: Path) -> None:
    written = draw_curves(tmp_path, options={"alpha": 1.5, "beta": 1.0}, points=3)
    middle = next(row for row in _rows(written["csv"]) if row["loss"] == "crl" and row["p_c"] == "0.5")
    assert float(middle["gradient_dL_dz_c"]) == pytest.approx(-0.5 * (1 + 0.5 / 2.0))
    assert float(middle["step_relative_to_ce"]) == pytest.approx(1.25)


def test_settings_change_the_curve_and_its_label(tmp_path: Path) -> None:
    default = draw_curves(tmp_path / "a", points=3)
    other = draw_curves(tmp_path / "b", points=3, options={"gamma": 5.0})
    assert other["labels"]["focal"] == "focal (gamma 5)"
    assert _rows(default["csv"]) != _rows(other["csv"])


def test_words_choose_the_losses_and_their_settings(tmp_path: Path) -> None:
    written = draw_curves(tmp_path, losses=("CRL:alpha=1", "crl", "focal"), points=3, options={"beta": 2})
    assert written["labels"] == {
        "CRL (alpha 1, beta 2)": "CRL (alpha 1, beta 2)",
        "CRL (alpha 1.5, beta 2)": "CRL (alpha 1.5, beta 2)",
        "focal": "focal (gamma 2)",
    }


@pytest.mark.parametrize(
    ("wrong", "told"),
    [
        ({"options": {"alpha": -1.0}}, "alpha"),
        ({"options": {"gamma": float("nan")}}, "gamma"),
        ({"options": {"alhpa": 1.0}}, "no loss that is drawn takes alhpa"),
        ({"points": 0}, "points"),
        ({"losses": ("clr",)}, "no loss 'clr'; did you mean"),
        ({"losses": ("crl:gamma=1",)}, "crl takes alpha, beta, clamp, not gamma"),
        ({"losses": ("cce",)}, "cce reads every competitor's posterior"),
    ],
)
def test_impossible_settings_are_a_usage_error(tmp_path: Path, wrong: dict[str, Any], told: str) -> None:
    with pytest.raises(UsageError, match=told):
        draw_curves(tmp_path, **wrong)
    assert not list(tmp_path.iterdir())
