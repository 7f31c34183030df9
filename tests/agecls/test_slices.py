"""Scores by the further columns of a table, and that they travel from the table to a run's predictions."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from agecls.config import AgeDataConfig
from agecls.data.read import read_data
from agecls.evaluation import evaluation_scores
from agecls.report.report import sections
from agecls.slices import column_slices
from agecls.task import TASK
from finetune.errors import DataError
from finetune.experiments.records.predictions import Predictions
from tests.agecls.age_predictions import age_predictions
from tests.apps.live_demo import picture

NAMES = ("0-2", "4-6", "8-12")


def predictions(count: int, known: bool, **slices: np.ndarray) -> Predictions:
    """Return answers that are one group too old for every second image."""
    path = np.array([f"p{row}" for row in range(count)])
    subject = np.array([f"s{row // 2}" for row in range(count)]) if known else path
    target = np.zeros(count, dtype=int)
    probs = np.eye(3)[np.arange(count) % 2]
    nothing = np.full(count, "")
    found = age_predictions(
        NAMES,
        path=path,
        target=target,
        probs=probs,
        subject=subject,
        user=subject,
        gender=nothing,
        age=np.full(count, np.nan),
        fold=np.zeros(count, dtype=int),
    )
    return Predictions(found.class_names, path, target, probs, {**found.columns, **slices})


def test_columns_travel_from_the_table_to_predictions_and_back(tmp_path: Path):
    (tmp_path / "a.png").write_bytes(picture(1))
    (tmp_path / "b.png").write_bytes(picture(2))
    table = tmp_path / "t.csv"
    table.write_text("path,age,subject,camera\na.png,1,s,x\nb.png,5,t,NA\n", encoding="utf-8")
    config = AgeDataConfig(table=str(table), slice_columns=("camera",))
    manifest = read_data(config, with_folds=False).manifest
    assert manifest["slice_camera"].tolist() == ["x", ""]
    columns = TASK.image_columns(manifest, np.array([1, 0]), 3)
    assert columns["slice_camera"].tolist() == ["", "x"]
    probs = np.full((2, len(manifest.class_names)), 1 / len(manifest.class_names))
    made = Predictions(manifest.class_names, manifest["path"][[1, 0]], manifest.label[[1, 0]], probs, columns)
    made.write(tmp_path / "p.parquet")
    again = Predictions.read(tmp_path / "p.parquet", manifest.class_names, ("subject",))
    assert again["slice_camera"].tolist() == ["x", ""]
    table.write_text("path,age,subject\na.png,1,s\n", encoding="utf-8")
    with pytest.raises(DataError, match="missing columns: camera"):
        read_data(config, with_folds=False)


def test_cells_have_scores_from_thirty_people_on():
    camera = np.array(["x"] * 60 + ["y"] * 58)
    [x, y] = column_slices(predictions(118, True, slice_camera=camera), resamples=20)["camera"]
    assert (x["images"], x["subjects"], x["exact"], x["mae"], x["bias"]) == (60, 30, 50.0, 0.5, 0.5)
    assert (y["subjects"], y["exact"], y["mae"], y["bias"]) == (29, None, None, None)


def test_without_people_a_cell_needs_200_images():
    camera = np.array(["x"] * 200 + ["y"] * 199)
    [x, y] = column_slices(predictions(399, False, slice_camera=camera), resamples=20)["camera"]
    assert x["exact"] == 50.0
    assert (y["images"], y["exact"], y["exact_interval"]) == (199, None, None)


def test_two_columns_are_crossed_and_shown():
    found = predictions(
        8, True, slice_camera=np.array(["x", ""] * 4), slice_light=np.array(["day"] * 4 + ["night"] * 4)
    )
    slices = evaluation_scores(found)["slices"]
    assert [row["name"] for row in slices["camera x light"]] == [
        "not recorded, day",
        "not recorded, night",
        "x, day",
        "x, night",
    ]
    shown = dict(part for part in _slice_sections(slices) if part[1] is not None)
    assert "| x | 4 | 4 |" in shown["Label in the column camera"]
    assert "MAE (groups)" in shown["Label in the column camera x light"]


def _slice_sections(slices: dict) -> list[tuple[str, str | None]]:
    """Return the sections of a report that are about further columns."""
    import agecls.report.report as module

    names = ("headline", "per_fold", "per_group", "calibration")
    with pytest.MonkeyPatch.context() as patch:
        for name in names:
            patch.setattr(module.report_sections, name, lambda *_: None)
        return [part for part in sections({"slices": slices}) if part[0].startswith("Label")]
