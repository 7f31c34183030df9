"""Paired comparisons: what may be compared, what differs, by how much, and sentences that claim no more."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from agecls.task import TASK
from finetune.errors import DataError, UsageError
from finetune.experiments.compare.compare import compare_folders, compare_results, compare_seeds
from finetune.experiments.config import CompareConfig
from finetune.experiments.records.predictions import Predictions
from finetune.experiments.records.record import RunRecord
from finetune.experiments.result import Result
from finetune.metrics.bootstrap import mcnemar, paired_cluster_bootstrap
from tests.agecls.age_predictions import age_predictions, with_columns

GROUPS = ("0-2", "4-6", "8-12", "15-20")
RUN = {
    "class_names": list(GROUPS),
    "manifest": "1f",
    "policy": "core8",
    "split": "2e",
    "backbone": "resnet18",
    "loss": {"name": "cel"},
    "seed": 0,
}
CRL = {"name": "crl", "alpha": 1.5}


def predictions(hits: np.ndarray, target: np.ndarray | None = None) -> Predictions:
    """Return predictions right where `hits` (N,): two images a subject, two subjects an album, 3 folds."""
    index = np.arange(len(hits))
    target = index % 4 if target is None else target
    preds = np.where(hits, target, (target + 2) % 4)
    return age_predictions(
        GROUPS,
        path=np.array([f"{row:05}.jpg" for row in index]),
        subject=np.array([f"s{row // 2}" for row in index]),
        user=np.array([f"u{row // 4}" for row in index]),
        gender=np.full(len(index), ""),
        age=np.full(len(index), np.nan),
        fold=index // 4 % 3,
        target=target,
        probs=0.9 * np.eye(4)[preds] + 0.025,
    )


def result(hits: np.ndarray, name: str = "run", config: dict[str, Any] | None = None, **run: Any) -> Result:
    """Return a result in memory; `run` replaces values of its run.json."""
    return Result(Path(name), RunRecord.from_dict(RUN | run), config or {}, predictions(hits))


def answers(share: float, images: int = 240, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).random(images) < share


def test_a_difference_is_second_minus_first_on_the_same_images():
    first, second = answers(0.5, seed=1), answers(0.9, seed=2)
    a, b = result(first, "a"), result(second, "b", loss=CRL)
    found = compare_results(TASK, a, b, resamples=500, seed=4)
    frame = a.predictions
    expected = paired_cluster_bootstrap(
        100.0 * first,
        100.0 * second,
        frame["subject"],
        frame.fold,
        statistic="mean_of_strata",
        resamples=500,
        seed=4,
    )
    assert found["exact"]["difference"] == pytest.approx(expected.difference)
    assert found["exact"]["interval"] == pytest.approx([expected.low, expected.high])
    assert found["exact"]["p"] == expected.p == pytest.approx(2 / 501)
    by_fold = [100 * (second[frame.fold == f].mean() - first[frame.fold == f].mean()) for f in range(3)]
    assert found["exact"]["per_fold"] == pytest.approx(by_fold)
    assert found["exact"]["pooled"]["difference"] == pytest.approx(100 * (second.mean() - first.mean()))
    assert found["exact"]["pooled"]["a"] == pytest.approx(100 * first.mean())
    assert found["exact"]["b"] - found["exact"]["a"] == pytest.approx(found["exact"]["difference"])
    assert found["exact"]["by_user"]["clusters"] == found["users"] == 60
    assert (found["n"], found["subjects"], found["folds"]) == (240, 120, [0, 1, 2])
    assert found["mcnemar"] == mcnemar(first, second)._asdict()
    assert found["controlled"]
    assert found["conclusion"].startswith("crl (alpha 1.5) is higher than cel in exact accuracy by +")


def test_the_order_of_rows_does_not_matter():
    first, second = answers(0.5, seed=1), answers(0.7, seed=2)
    a, b = result(first), result(second)
    shuffled = replace(b, predictions=b.predictions.select(np.random.default_rng(0).permutation(240)))
    assert compare_results(TASK, a, shuffled, resamples=50) == compare_results(TASK, a, b, resamples=50)


def test_identical_results_differ_by_nothing():
    found = compare_results(TASK, result(answers(0.6)), result(answers(0.6)), resamples=200)
    for measure in ("exact", "one_off"):
        cells = found[measure]
        assert (cells["difference"], cells["p"], cells["method"]) == (0, 1, "Wilson")
        assert cells["interval"][1] == -cells["interval"][0] > 1
        assert found[measure]["reason"] == "both predict the same images correctly"
    assert found["mcnemar"] == {"b": 0, "c": 0, "p": 1.0}
    assert found["settings"] == []
    assert found["conclusion"].startswith("No difference in exact accuracy was shown")


def test_a_difference_within_the_noise_is_not_claimed():
    found = compare_results(
        TASK, result(answers(0.6, seed=3)), result(answers(0.62, seed=4), loss=CRL), resamples=500
    )
    low, high = found["exact"]["interval"]
    assert low < 0 < high
    assert "No difference in exact accuracy was shown: crl (alpha 1.5) minus cel is" in found["conclusion"]
    assert "240 images of 120 subjects" in found["conclusion"]
    assert "One seed a side" in found["conclusion"]


def test_a_difference_that_vanishes_when_albums_are_resampled_is_not_claimed():
    """All the gain lies in one album of many subjects: subjects agree, albums do not."""
    base = predictions(np.zeros(240, dtype=bool))
    user = np.where(np.arange(240) // 2 < 40, "big album", base["user"])
    before = with_columns(base, user=user, fold=np.zeros(240, dtype=int))
    after = replace(
        before, probs=np.where((user == "big album")[:, None], np.eye(4)[base.target], before.probs)
    )
    sides = [
        Result(Path(name), RunRecord.from_dict(RUN), {}, rows) for name, rows in (("a", before), ("b", after))
    ]
    found = compare_results(TASK, *sides, resamples=500)
    assert found["exact"]["interval"][0] > 0
    assert found["exact"]["by_user"]["interval"][0] == 0
    assert found["conclusion"].startswith("No difference in exact accuracy was shown: b minus a is +")
    albums = len(np.unique(user))
    assert f"; the interval over {albums} users contains zero." in found["conclusion"]


@pytest.mark.parametrize(("field", "value"), [("manifest", "99"), ("policy", "gillevi"), ("split", "77")])
def test_results_of_other_data_are_refused_with_both_values(field, value):
    with pytest.raises(DataError, match=rf"cannot be compared.*\n  {field}: {RUN[field]} and {value}\n"):
        compare_results(TASK, result(answers(0.5)), result(answers(0.5), **{field: value}))


def test_a_result_that_does_not_tell_its_split_is_refused():
    with pytest.raises(DataError, match="split: missing and missing"):
        compare_results(TASK, result(answers(0.5), split=None), result(answers(0.5), split=None))


def test_every_refusal_is_listed_at_once():
    with pytest.raises(DataError, match=r"(?s)manifest: 1f and 9.*policy: core8 and mivolo"):
        compare_results(TASK, result(answers(0.5)), result(answers(0.5), manifest="9", policy="mivolo"))


def test_other_test_images_or_labels_are_refused_by_name():
    a = result(answers(0.5), "a")
    rows = predictions(answers(0.5))
    fewer = replace(a, folder=Path("b"), predictions=rows.select(np.arange(239)))
    with pytest.raises(DataError, match=r"240 and 239 rows\n  00239.jpg \(fold 2\) only in a"):
        compare_results(TASK, a, fewer)
    other = np.where(np.arange(240) == 5, 0, rows.target)
    relabelled = replace(a, folder=Path("b"), predictions=replace(rows, target=other))
    with pytest.raises(DataError, match=r"differ in the true class:\n  00005.jpg: 4-6 and 0-2"):
        compare_results(TASK, a, relabelled)
    for column in ("subject", "user"):
        renamed = np.where(np.arange(240) == 5, "x", a.predictions["user"])
        regrouped = replace(a, folder=Path("b"), predictions=with_columns(rows, **{column: renamed}))
        with pytest.raises(DataError, match=rf"differ in {column}:\n"):
            compare_results(TASK, a, regrouped)


def test_settings_beside_the_loss_make_a_comparison_uncontrolled():
    a = result(
        answers(0.5), config={"train": {"lr": 0.1, "seed": 0}, "loss": {"name": "cel"}, "run": {"dir": "x"}}
    )
    config = {"train": {"lr": 0.01, "seed": 1}, "loss": {"name": "crl"}, "run": {"dir": "y"}}
    b = result(answers(0.5, seed=2), config=config, loss=CRL, seed=1, backbone="resnet34")
    found = compare_results(TASK, a, b, resamples=50)
    assert [item["field"] for item in found["settings"]] == [
        "backbone",
        "loss.alpha",
        "loss.name",
        "train.lr",
        "train.seed",
    ]
    assert {"field": "train.lr", "a": 0.1, "b": 0.01} in found["settings"]
    assert not found["controlled"]
    assert (
        "Not a controlled comparison: besides the loss these differ: backbone, train.lr"
        in found["conclusion"]
    )


def test_another_machine_is_told_and_is_no_setting():
    a = result(answers(0.5), device={"asked": "auto", "used": "cpu"}, versions={"torch": "2.10"})
    b = result(answers(0.6), device={"asked": "cuda", "used": "cuda:0"}, versions={"torch": "2.15"})
    found = compare_results(TASK, a, b, resamples=50)
    assert [item["field"] for item in found["environment"]] == ["device.used", "versions.torch"]
    assert found["controlled"]


def test_a_missing_configuration_is_told():
    found = compare_results(
        TASK, result(answers(0.5), "bare"), result(answers(0.6), config={"a": 1}), resamples=50
    )
    assert found["notes"] == ["no config.yaml in bare: only the settings in run.json were compared"]


def seeds_of(share: float, first: int, **run: Any) -> list[Result]:
    return [result(answers(share, seed=first + k), f"s{first}-{k}", seed=k, **run) for k in (2, 0, 1)]


def test_seeds_average_correctness_per_image_and_pair_by_seed():
    side_a, side_b = seeds_of(0.5, 10), seeds_of(0.8, 20, loss=CRL)
    found = compare_seeds(TASK, side_a, side_b, resamples=300, seed=1)
    first = np.mean([answers(0.5, seed=10 + k) for k in range(3)], axis=0)
    second = np.mean([answers(0.8, seed=20 + k) for k in range(3)], axis=0)
    frame = side_a[0].predictions
    expected = paired_cluster_bootstrap(
        100 * first,
        100 * second,
        frame["subject"],
        frame.fold,
        statistic="mean_of_strata",
        resamples=300,
        seed=1,
    )
    assert found["exact"]["interval"] == pytest.approx([expected.low, expected.high])
    assert [row["seed"] for row in found["per_seed"]] == found["seeds"] == [0, 1, 2]
    alone = compare_results(TASK, side_a[1], side_b[1], resamples=50)
    assert found["per_seed"][0]["exact"]["difference"] == pytest.approx(alone["exact"]["difference"])
    assert found["per_seed"][0]["mcnemar"] == alone["mcnemar"]
    assert found["seed_difference"]["exact"]["mean"] == pytest.approx(found["exact"]["difference"])
    assert found["controlled"]
    assert "One seed a side" not in found["conclusion"]


def test_seeds_that_disagree_among_themselves_prove_nothing():
    base = answers(0.5, seed=1)
    gains = [np.ones(240, dtype=bool), base, base]
    side_a = [result(base, f"a{k}", seed=k) for k in range(3)]
    side_b = [result(gain, f"b{k}", seed=k, loss=CRL) for k, gain in enumerate(gains)]
    found = compare_seeds(TASK, side_a, side_b, resamples=300)
    assert found["exact"]["interval"][0] > 0
    assert found["conclusion"].startswith("No difference in exact accuracy was shown: crl")
    assert "the interval over 3 seeds, -" in found["conclusion"]


def test_unpaired_seeds_are_refused():
    side = seeds_of(0.5, 10)
    with pytest.raises(UsageError, match=r"\[0, 1, 2\] and \[0, 2\]"):
        compare_seeds(TASK, side, side[:2])
    with pytest.raises(UsageError, match="each once"):
        compare_seeds(TASK, [side[0], side[0]], [side[0], side[0]])
    with pytest.raises(DataError, match="has no seed"):
        compare_seeds(TASK, [result(answers(0.5), seed=None)], [side[0]])


def test_seeds_of_different_settings_on_one_side_are_told():
    side_b = seeds_of(0.5, 10)
    side_b[0] = replace(side_b[0], record=replace(side_b[0].record, epochs=3))
    notes = compare_seeds(TASK, seeds_of(0.5, 20), side_b, resamples=50)["notes"]
    assert any(note.startswith("not seeds of one setting: epochs differ among") for note in notes)


def test_folders_are_compared_and_the_result_is_written(tmp_path, capsys):
    for name, share, run in (("a", 0.5, {}), ("b", 0.9, {"loss": CRL})):
        folder = tmp_path / name
        folder.mkdir()
        (folder / "run.json").write_text(json.dumps({"kind": "age_cv", **RUN, **run}), encoding="utf-8")
        predictions(answers(share)).write(folder / "predictions.parquet")
    config = CompareConfig(resamples=100, pictures=False)
    found = compare_folders(TASK, [tmp_path / "a"], [tmp_path / "b"], config)
    out = tmp_path / "b-against-a"
    written = json.loads((out / "comparison.json").read_text(encoding="utf-8"))
    assert written["exact"]["difference"] == pytest.approx(found["exact"]["difference"])
    assert written["mcnemar"]["c"] > written["mcnemar"]["b"]
    assert found["page"] == str(out / "compare.md")
    assert found["conclusion"] in capsys.readouterr().out
    elsewhere = replace(config, out=str(tmp_path / "new" / "place"))
    compare_folders(TASK, [tmp_path / "a"], [tmp_path / "b"], elsewhere)
    assert sorted(path.name for path in (tmp_path / "new" / "place").iterdir()) == [
        "compare.md",
        "comparison.json",
    ]
    assert sorted(path.name for path in (tmp_path / "b").iterdir()) == ["predictions.parquet", "run.json"]


def test_the_folder_of_a_study_is_answered_with_its_cells(tmp_path):
    cell = tmp_path / "study" / "cells" / "crl" / "seed-0"
    cell.mkdir(parents=True)
    (cell / "run.json").touch()
    for folder in (tmp_path / "study", cell.parent):
        with pytest.raises(DataError, match=r"whose cells are the results; name one of them:\n  .*seed-0"):
            compare_folders(TASK, [folder], [cell], CompareConfig(pictures=False))


def test_several_seeds_do_not_take_the_place_of_one(tmp_path):
    cells = tmp_path / "cells"
    for arm, share, loss in (("cel", 0.5, {"name": "cel"}), ("crl", 0.9, CRL)):
        for seed in range(2):
            folder = cells / arm / f"seed-{seed}"
            folder.mkdir(parents=True)
            run = {"kind": "age_cv", **RUN, "loss": loss, "seed": seed}
            (folder / "run.json").write_text(json.dumps(run), encoding="utf-8")
            predictions(answers(share, seed=seed)).write(folder / "predictions.parquet")
    config = CompareConfig(resamples=50, pictures=False)
    cel, crl = ([cells / arm / f"seed-{seed}" for seed in range(2)] for arm in ("cel", "crl"))
    compare_folders(TASK, cel[:1], crl[:1], config)
    found = compare_folders(TASK, cel[::-1], crl, config)
    made = sorted(file.parent.name for file in cells.rglob("comparison.json"))
    assert made == ["crl-seed-0-against-cel-seed-0", "crl-seed-0-against-cel-seed-0-2-seeds"]
    assert found["folders"]["b"] == ["../seed-0", "../seed-1"]
    with pytest.raises(UsageError, match="holds the comparison of other results"):
        compare_folders(TASK, crl, cel, replace(config, out=str(Path(found["page"]).parent)))
