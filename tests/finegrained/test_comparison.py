"""Paired comparisons: what may be compared, what differs, by how much, and sentences that claim no more."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from finegrained.task import TASK
from finetune.errors import DataError, UsageError
from finetune.experiments.compare.compare import compare_folders, compare_results, compare_seeds
from finetune.experiments.config import CompareConfig
from finetune.experiments.records.predictions import Predictions
from finetune.experiments.records.record import RunRecord
from finetune.experiments.result import Result
from finetune.metrics.bootstrap import mcnemar, paired_cluster_bootstrap, student_interval
from finetune.metrics.classification import balanced_accuracy, top_k_accuracy
from finetune.metrics.intervals import unmoved_difference
from tests.finegrained.made_results import class_names, make_result

NAMES = class_names(8)
RUN = {
    "class_names": list(NAMES),
    "manifest": "1f",
    "policy": "cub",
    "split": "2e",
    "backbone": "resnet18",
    "head": "linear",
    "loss": {"name": "cel"},
    "seed": 0,
}
CRL = {"name": "crl", "alpha": 1.5}


def predictions(hits: np.ndarray, seed: int = 0) -> Predictions:
    """Return predictions of 8 classes of unequal size, right where `hits` (N,), the rest at random."""
    generator = np.random.default_rng(seed)
    index = np.arange(len(hits))
    target = np.minimum(index % 11, 7)
    said = np.where(hits, target, (target + 1 + generator.integers(0, 7, len(hits))) % 8)
    probs = 0.6 * np.eye(8)[said] + 0.4 * generator.dirichlet(np.ones(8), len(hits))
    return Predictions(NAMES, np.array([f"{row:05}.jpg" for row in index]), target, probs)


def result(hits: np.ndarray, name: str = "run", config: dict[str, Any] | None = None, **run: Any) -> Result:
    """Return a result in memory; `run` replaces values of its run.json."""
    return Result(Path(name), RunRecord.from_dict(RUN | run), config or {}, predictions(hits))


def answers(share: float, images: int = 400, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).random(images) < share


def test_a_difference_is_second_minus_first_on_the_same_images():
    first, second = answers(0.5, seed=1), answers(0.8, seed=2)
    a, b = result(first, "a"), result(second, "b", loss=CRL)
    found = compare_results(TASK, a, b, resamples=300, seed=4)
    images = np.arange(400)
    expected = paired_cluster_bootstrap(100.0 * first, 100.0 * second, images, resamples=300, seed=4)
    assert found["top1"]["difference"] == pytest.approx(expected.difference)
    assert found["top1"]["interval"] == pytest.approx([expected.low, expected.high])
    assert found["top1"]["p"] == expected.p
    assert found["top1"]["a"] == pytest.approx(100 * first.mean())
    assert found["mcnemar"] == mcnemar(first, second)._asdict()
    for key, score in (
        ("top5", lambda p: top_k_accuracy(p.probs, p.target, 5)),
        ("per_class", lambda p: balanced_accuracy(p.probs, p.target, 8)),
    ):
        left, right = (100 * score(side.predictions) for side in (a, b))
        assert [found[key]["a"], found[key]["b"]] == pytest.approx([left, right])
        assert found[key]["difference"] == pytest.approx(right - left)
    assert (found["n"], found["classes"], found["changed"]) == (400, 8, "loss")
    assert found["conclusion"].startswith("crl (alpha 1.5) is higher than cel in top-1 accuracy by +")


def test_the_order_of_rows_does_not_matter():
    a, b = result(answers(0.5, seed=1)), result(answers(0.7, seed=2))
    order = np.random.default_rng(0).permutation(400)
    mixed_a, mixed_b = (replace(x, predictions=x.predictions.select(order)) for x in (a, b))
    expected = compare_results(TASK, a, b, resamples=50)
    assert compare_results(TASK, a, mixed_b, resamples=50) == expected
    assert compare_results(TASK, mixed_a, b, resamples=50) == expected


def test_identical_results_differ_by_nothing():
    found = compare_results(TASK, result(answers(0.6)), result(answers(0.6)), resamples=100)
    for measure in ("top1", "top5", "per_class"):
        cells = found[measure]
        assert (cells["difference"], cells["p"], cells["method"]) == (0, 1, "Wilson")
        assert cells["interval"] == pytest.approx([-0.951, 0.951], abs=1e-3)
        assert "predict the same images correctly" in cells["reason"]
    assert found["mcnemar"] == {"b": 0, "c": 0, "p": 1.0}
    assert found["changed"] == "nothing"
    assert found["conclusion"].startswith("No difference in top-1 accuracy was shown")


def test_resampling_that_never_moves_gives_wilsons_interval():
    """The second gets two classes whole that the first has wholly wrong: within classes nothing varies."""
    target = predictions(answers(0.5)).target
    first, second = target < 4, target < 6
    found = compare_results(TASK, result(first), result(second, loss=CRL), resamples=300)
    assert found["per_class"]["difference"] == pytest.approx(25)
    draws = [(1 / 8, count) for count in np.bincount(target).tolist()]
    assert found["per_class"]["interval"] == pytest.approx(unmoved_difference(25.0, draws))
    assert found["per_class"]["p"] is None
    assert "resampling shows no spread" in found["per_class"]["reason"]
    assert found["top1"]["interval"] is not None
    every = compare_results(TASK, result(target < 0), result(target < 8, loss=CRL), resamples=50)
    assert every["top1"]["interval"] == pytest.approx([98.1, 100], abs=0.01)
    assert "is higher than cel in top-1 accuracy by +100.00 points" in every["conclusion"]
    assert "95 % Wilson interval over images +98.10 to +100.00, p < 0.0001" in every["conclusion"]


def test_whole_pictures_against_boxes_are_not_only_another_loss():
    crops = [{"kind": "image", "margin": 0.0}, {"kind": "box", "margin": 0.1}]
    a, b = result(answers(0.5), crop=crops[0]), result(answers(0.6), crop=crops[1], loss=CRL)
    found = compare_results(TASK, a, b, resamples=20)
    assert found["changed"] == "more"
    assert {"field": "data.crop", "a": "image", "b": "box"} in found["settings"]


def test_seeds_that_all_differ_by_the_same_have_no_interval_over_seeds():
    sides = [
        [result(answers(share, seed=0), f"{loss}{seed}", seed=seed, loss={"name": loss}) for seed in range(2)]
        for share, loss in ((0.5, "cel"), (0.7, "crl"))
    ]
    found = compare_seeds(TASK, *sides, resamples=50)
    assert found["seed_difference"]["top1"]["interval"] is None
    assert "there is no interval over seeds" in found["conclusion"]


def test_a_difference_within_the_noise_is_not_claimed():
    found = compare_results(
        TASK, result(answers(0.6, seed=3)), result(answers(0.62, seed=4), loss=CRL), resamples=300
    )
    low, high = found["top1"]["interval"]
    assert low < 0 < high
    assert "No difference in top-1 accuracy was shown: crl (alpha 1.5) minus cel is" in found["conclusion"]
    assert "the interval over images contains zero and McNemar's exact p is" in found["conclusion"]
    assert "One seed a side" in found["conclusion"]


def test_a_difference_that_one_of_the_tests_does_not_show_is_not_claimed():
    """Five images only the second has right: the bootstrap shows it, McNemar's exact p is 0.06."""
    first = np.zeros(400, dtype=bool)
    second = first.copy()
    second[:5] = True
    found = compare_results(TASK, result(first), result(second, loss=CRL), resamples=300)
    assert found["top1"]["interval"][0] > 0
    assert found["mcnemar"]["p"] == pytest.approx(0.0625)
    assert "No difference in top-1 accuracy was shown" in found["conclusion"]


def test_a_higher_accuracy_below_the_majority_class_is_said_as_such():
    """The most frequent class has 144 of 400 images: 30 % is higher than 5 %, and both are below guessing."""
    images = np.arange(400)
    found = compare_results(TASK, result(images % 20 == 0), result(images % 10 < 3, loss=CRL), resamples=300)
    assert found["majority"] == 36
    lead = "Neither does better than always predicting the most frequent class (30.00 against 36.00 %)"
    assert found["conclusion"].startswith(lead)
    assert "is higher, below the majority-class baseline, than cel in top-1" in found["conclusion"]
    good = compare_results(TASK, result(images % 20 == 0), result(images % 10 < 4, loss=CRL), resamples=300)
    assert good["conclusion"].startswith("crl (alpha 1.5) is higher than cel")


def test_a_lower_second_is_called_lower():
    found = compare_results(
        TASK, result(answers(0.9, seed=1)), result(answers(0.4, seed=2), loss=CRL), resamples=50
    )
    assert "crl (alpha 1.5) is lower than cel in top-1 accuracy by -" in found["conclusion"]


def test_five_classes_or_fewer_have_no_top_5(tmp_path: Path):
    a, b = (make_result(tmp_path / name, 5, answers=seed) for seed, name in enumerate("ab"))
    assert compare_results(TASK, a, b, resamples=20)["top5"] is None


@pytest.mark.parametrize(("field", "value"), [("manifest", "99"), ("policy", "cars-S"), ("split", "77")])
def test_results_of_other_data_are_refused_with_both_values(field: str, value: str):
    with pytest.raises(DataError, match=rf"cannot be compared.*\n  {field}: {RUN[field]} and {value}\n"):
        compare_results(TASK, result(answers(0.5)), result(answers(0.5), **{field: value}))


def test_other_test_images_or_labels_are_refused_by_name():
    a, b = result(answers(0.5), "a"), result(answers(0.5), "b")
    fewer = replace(b, predictions=b.predictions.select(np.arange(1, 400)))
    with pytest.raises(DataError, match=r"(?s)not the same test images.*00000\.jpg only in a"):
        compare_results(TASK, a, fewer)
    target = b.predictions.target.copy()
    target[7] = 0
    with pytest.raises(DataError, match=r"(?s)differ in the true class.*00007\.jpg"):
        compare_results(TASK, a, replace(b, predictions=replace(b.predictions, target=target)))


def test_results_without_a_test_image_are_refused():
    nothing = result(answers(0.5, images=0))
    with pytest.raises(DataError, match="tested no image"):
        compare_results(TASK, nothing, nothing)


@pytest.mark.parametrize(
    ("change", "changed", "controlled"),
    [
        ({"loss": CRL}, "loss", True),
        ({"head": "dfl"}, "head", True),
        ({"head": "dfl", "loss": CRL}, "more", False),
        ({"loss": CRL, "epochs": 3}, "more", False),
        ({"head": "dfl", "epochs": 3}, "more", False),
    ],
)
def test_only_the_loss_or_only_the_head_is_a_controlled_comparison(
    change: dict[str, Any], changed: str, controlled: bool
):
    a, b = result(answers(0.5), "a", epochs=2), result(answers(0.6), "b", **({"epochs": 2} | change))
    found = compare_results(TASK, a, b, resamples=20)
    assert found["changed"] == changed
    assert ("ot a controlled comparison" in found["conclusion"]) == (not controlled)


def test_options_of_the_head_in_the_configuration_count_as_the_head():
    configs = [{"head": {"name": "dfl", "options": {"detectors": k}}} for k in (5, 10)]
    a, b = (result(answers(0.5), name, config) for name, config in zip("ab", configs, strict=True))
    found = compare_results(TASK, a, b, resamples=20)
    assert [item["field"] for item in found["settings"]] == ["head.options.detectors"]
    assert found["changed"] == "head"


@pytest.mark.parametrize(
    ("first", "second", "names"),
    [
        ({}, {"loss": CRL}, ["cel", "crl (alpha 1.5)"]),
        ({}, {"head": "dfl"}, ["linear", "dfl"]),
        ({}, {"head": "dfl", "loss": CRL}, ["linear with cel", "dfl with crl (alpha 1.5)"]),
        ({}, {}, ["a", "b"]),
    ],
)
def test_names_tell_the_two_apart(first: dict[str, Any], second: dict[str, Any], names: list[str]):
    a, b = result(answers(0.5), "x/a", **first), result(answers(0.5), "x/b", **second)
    assert compare_results(TASK, a, b, resamples=20)["names"] == names


def seeds(share: float, shift: float, base: int, **run: Any) -> list[Result]:
    """Return three runs, the second side's accuracy rising by `shift` from seed to seed."""
    return [
        result(answers(share + shift * seed, seed=base + seed), f"s{seed}", seed=seed, **run)
        for seed in range(3)
    ]


def test_seeds_are_paired_and_their_spread_is_students():
    a, b = seeds(0.5, 0, 10), seeds(0.7, 0, 20, loss=CRL)
    found = compare_seeds(TASK, a, b[::-1], resamples=200)
    single = [
        100 * (y.predictions.correct.mean() - x.predictions.correct.mean()) for x, y in zip(a, b, strict=True)
    ]
    assert [row["top1"]["difference"] for row in found["per_seed"]] == pytest.approx(single)
    assert found["seed_difference"]["top1"]["mean"] == pytest.approx(np.mean(single))
    assert found["seed_difference"]["top1"]["sd"] == pytest.approx(np.std(single, ddof=1))
    assert found["seed_difference"]["top1"]["interval"] == pytest.approx(student_interval(single))
    scores = [100 * x.predictions.correct.mean() for x in a]
    assert found["seed_scores"]["top1"]["a"]["interval"] == pytest.approx(student_interval(scores))
    assert found["top1"]["difference"] == pytest.approx(np.mean(single))
    assert "mcnemar" not in found
    assert "over 3 seeds the 95 % interval is" in found["conclusion"]
    assert "One seed a side" not in found["conclusion"]


def test_a_difference_that_the_seeds_do_not_share_is_not_claimed():
    a, b = seeds(0.5, 0, 10), seeds(0.44, 0.16, 20, loss=CRL)
    found = compare_seeds(TASK, a, b, resamples=300)
    assert found["top1"]["interval"][0] > 0
    assert found["seed_difference"]["top1"]["interval"][0] < 0
    assert found["conclusion"].startswith("No difference in top-1 accuracy was shown")
    assert "the interval over 3 seeds" in found["conclusion"]


@pytest.mark.parametrize("broken", [slice(0, 2), slice(0, 0)])
def test_seeds_that_do_not_pair_are_refused(broken: slice):
    with pytest.raises(UsageError, match="the same two seeds or more"):
        compare_seeds(TASK, seeds(0.5, 0, 1), seeds(0.5, 0, 1)[broken])


def test_a_run_that_tells_no_seed_is_refused():
    with pytest.raises(DataError, match="has no seed"):
        compare_seeds(TASK, [result(answers(0.5), seed=None)] * 2, seeds(0.5, 0, 1))


def test_folders_are_compared_and_the_record_lies_beside_the_second(tmp_path: Path):
    make_result(tmp_path / "a", 6, answers=1, loss={"name": "cel"})
    make_result(tmp_path / "b", 6, answers=2)
    config = CompareConfig(resamples=50, pictures=False)
    found = compare_folders(TASK, [tmp_path / "a"], [tmp_path / "b"], config)
    out = tmp_path / "b-against-a"
    assert found["page"] == str((out / "compare.md").resolve())
    written = json.loads((out / "comparison.json").read_text(encoding="utf-8"))
    assert written == found


def test_folders_of_several_seeds_go_where_they_are_told(tmp_path: Path):
    for seed in range(2):
        make_result(tmp_path / f"a{seed}", 6, answers=seed, seed=seed, loss={"name": "cel"})
        make_result(tmp_path / f"b{seed}", 6, answers=seed + 5, seed=seed)
    config = CompareConfig(out=str(tmp_path / "out"), resamples=50, pictures=False)
    sides = [[tmp_path / f"{side}{seed}" for seed in range(2)] for side in "ab"]
    assert len(compare_folders(TASK, *sides, config)["per_seed"]) == 2
    assert "mean ± sd" in (tmp_path / "out" / "compare.md").read_text(encoding="utf-8")


def test_a_runs_own_folder_is_no_place_for_a_comparison(tmp_path):
    sides = [make_result(tmp_path / name, answers=at).folder for at, name in enumerate("ab")]
    before = sorted(sides[1].iterdir())
    with pytest.raises(UsageError, match="is a run's own folder"):
        compare_folders(TASK, [sides[0]], [sides[1]], CompareConfig(out=str(sides[1]), pictures=False))
    assert sorted(sides[1].iterdir()) == before


def test_the_cells_of_a_study_are_told_apart_by_their_arms(tmp_path: Path):
    cells = tmp_path / "study" / "cells"
    for number, arm in enumerate(("cel", "focal", "crl")):
        make_result(cells / arm / "seed-0", 6, answers=number, loss={"name": arm})
    config = CompareConfig(resamples=50, pictures=False)
    for arm in ("cel", "focal"):
        compare_folders(TASK, [cells / arm / "seed-0"], [cells / "crl" / "seed-0"], config)
    made = sorted(file.parent.name for file in (cells / "crl").rglob("comparison.json"))
    assert made == ["crl-seed-0-against-cel-seed-0", "crl-seed-0-against-focal-seed-0"]
    with pytest.raises(DataError, match=r"whose cells are the results; name one of them:\n  .*cel.seed-0"):
        compare_folders(TASK, [tmp_path / "study"], [cells / "crl" / "seed-0"], config)
