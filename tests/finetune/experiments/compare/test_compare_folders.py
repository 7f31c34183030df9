"""Result folders of either task, compared: what is written, where, and which folders are refused."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest

from finetune.errors import DataError, UsageError
from finetune.experiments.compare.compare import compare_folders
from finetune.experiments.config import CompareConfig
from tests.finetune.experiments.made_tasks import CRL, MadeTask

CONFIG = CompareConfig(resamples=50, pictures=False)


def two_folders(made: MadeTask, place: Path) -> tuple[list[Path], list[Path]]:
    """Write the results of two losses and return both sides."""
    a = made.write(place / "a", made.answers(0.5))
    return [a], [made.write(place / "b", made.answers(0.9), loss=CRL)]


def test_the_comparison_lies_beside_the_second(made: MadeTask, tmp_path: Path, capsys):
    sides = two_folders(made, tmp_path)
    found = compare_folders(made.task, *sides, CONFIG)
    out = tmp_path / "b-against-a"
    assert found["page"] == str((out / "compare.md").resolve())
    assert json.loads((out / "comparison.json").read_text(encoding="utf-8")) == found
    assert found["mcnemar"]["c"] > found["mcnemar"]["b"]
    assert found["conclusion"] in capsys.readouterr().out
    assert sorted(path.name for path in sides[1][0].iterdir()) == ["predictions.parquet", "run.json"]


def test_a_comparison_goes_where_it_is_told(made: MadeTask, tmp_path: Path):
    place = tmp_path / "new" / "place"
    compare_folders(made.task, *two_folders(made, tmp_path), replace(CONFIG, out=str(place)))
    assert sorted(path.name for path in place.iterdir()) == ["compare.md", "comparison.json"]


def test_folders_of_several_seeds_show_their_spread(made: MadeTask, tmp_path: Path):
    sides = [
        [made.write(tmp_path / f"{side}{k}", made.answers(share, k), seed=k) for k in range(2)]
        for side, share in (("a", 0.5), ("b", 0.6))
    ]
    found = compare_folders(made.task, *sides, replace(CONFIG, out=str(tmp_path / "out")))
    assert len(found["per_seed"]) == 2
    assert "mean ± sd" in (tmp_path / "out" / "compare.md").read_text(encoding="utf-8")


def test_a_runs_own_folder_is_no_place_for_a_comparison(made: MadeTask, tmp_path: Path):
    sides = two_folders(made, tmp_path)
    before = sorted(sides[1][0].iterdir())
    with pytest.raises(UsageError, match="is a run's own folder"):
        compare_folders(made.task, *sides, replace(CONFIG, out=str(sides[1][0])))
    assert sorted(sides[1][0].iterdir()) == before


TOLD = "device: asked auto, using cpu (A CPU); {}, channels last: measured: float32 {} s a step"


def test_unlike_number_formats_are_refused_unless_allowed(made: MadeTask, tmp_path: Path):
    sides = [
        [made.write(tmp_path / name, made.answers(share), precision=TOLD.format(name, share))]
        for name, share in (("float32", 0.5), ("bfloat16", 0.9))
    ]
    told = r"(?s)different number formats.*bfloat16: .*float32: .*--run.precision bfloat16.*--allow_precision"
    with pytest.raises(DataError, match=told):
        compare_folders(made.task, *sides, CONFIG)
    found = compare_folders(made.task, *sides, replace(CONFIG, allow_precision=True))
    assert found["settings"] == [{"field": "precision", "a": "float32", "b": "bfloat16"}]
    assert not found["controlled"]


def test_measured_times_are_no_difference_of_settings(made: MadeTask, tmp_path: Path):
    sides = [
        [made.write(tmp_path / name, made.answers(0.5), precision=TOLD.format("bfloat16", seconds))]
        for name, seconds in (("a", 0.5), ("b", 0.6))
    ]
    assert compare_folders(made.task, *sides, CONFIG)["settings"] == []


def test_the_cells_of_a_study_are_told_apart_by_their_arms(made: MadeTask, tmp_path: Path):
    cells = tmp_path / "study" / "cells"
    for number, arm in enumerate(("cel", "focal", "crl")):
        made.write(cells / arm / "seed-0", made.answers(0.5, number), loss={"name": arm})
    crl = cells / "crl" / "seed-0"
    for arm in ("cel", "focal"):
        compare_folders(made.task, [cells / arm / "seed-0"], [crl], CONFIG)
    written = sorted(file.parent.name for file in (cells / "crl").rglob("comparison.json"))
    assert written == ["crl-seed-0-against-cel-seed-0", "crl-seed-0-against-focal-seed-0"]
    for folder, named in ((tmp_path / "study", "cel.seed-0"), (crl.parent, "seed-0")):
        told = rf"whose cells are the results; name one of them:\n  .*{named}"
        with pytest.raises(DataError, match=told):
            compare_folders(made.task, [folder], [crl], CONFIG)


def test_several_seeds_do_not_take_the_place_of_one(made: MadeTask, tmp_path: Path):
    cells = tmp_path / "cells"
    cel, crl = (
        [made.write(cells / arm / f"seed-{k}", made.answers(share, k), loss=loss, seed=k) for k in range(2)]
        for arm, share, loss in (("cel", 0.5, {"name": "cel"}), ("crl", 0.9, CRL))
    )
    compare_folders(made.task, cel[:1], crl[:1], CONFIG)
    found = compare_folders(made.task, cel[::-1], crl, CONFIG)
    written = sorted(file.parent.name for file in cells.rglob("comparison.json"))
    assert written == ["crl-seed-0-against-cel-seed-0", "crl-seed-0-against-cel-seed-0-2-seeds"]
    assert found["folders"]["b"] == ["../seed-0", "../seed-1"]
    with pytest.raises(UsageError, match="holds the comparison of other results"):
        compare_folders(made.task, crl, cel, replace(CONFIG, out=str(Path(found["page"]).parent)))
