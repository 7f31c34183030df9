"""Age scores: hand-worked numbers, known baselines, intervals, and what is missing stays missing."""

from __future__ import annotations

import csv
import json

import numpy as np
import pytest

from agecls.decoders import DECODERS, SERVES, decode_window
from agecls.report.report_sections import per_slice
from agecls.scores import (
    age_scores,
    constant_baseline,
    one_off_accuracy,
    ranked_probability_score,
    score_cross_validation,
    slice_scores,
)
from finetune.experiments.records.predictions import Predictions
from finetune.metrics.bootstrap import cluster_bootstrap_interval, effective_clusters
from tests.agecls.age_predictions import age_predictions, with_columns

# core8 on Adience: images per fold (rows) and group (columns).
CORE8 = np.array(
    [
        [960, 494, 213, 152, 1646, 554, 219, 139],
        [84, 480, 599, 525, 634, 468, 146, 156],
        [810, 358, 475, 270, 774, 276, 120, 202],
        [151, 238, 497, 468, 894, 493, 104, 118],
        [483, 570, 340, 227, 1056, 502, 241, 257],
    ]
)
GROUPS = ("0-2", "4-6", "8-12", "15-20", "25-32", "38-43", "48-53", "60+")


def certain(preds: np.ndarray) -> np.ndarray:
    """Return probabilities (N, 8) that put everything on the predicted group."""
    return np.eye(8)[preds]


def many(
    target: np.ndarray, probs: np.ndarray, subject: np.ndarray, fold: np.ndarray, **more: np.ndarray
) -> Predictions:
    """Return predictions with the columns that scores do not read filled in."""
    columns = {"user": subject, "gender": np.full(len(target), ""), "age": np.full(len(target), np.nan)}
    path = np.array([f"{row:06}.jpg" for row in range(len(target))])
    return age_predictions(
        GROUPS, path=path, subject=subject, fold=fold, target=target, probs=probs, **(columns | more)
    )


def simulated(seed: int = 0, subjects: int = 100) -> Predictions:
    """Five folds of subjects with one to nine images, whose errors go together; two subjects an album."""
    rng = np.random.default_rng(seed)
    subject = np.repeat(np.arange(subjects), rng.integers(1, 10, subjects))
    target = rng.integers(0, 7, subjects)[subject]
    quality = rng.normal(1.0, 1.5, subjects)[subject]
    logits = rng.normal(size=(len(subject), 8)) + quality[:, None] * certain(target)
    probs = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
    names = np.char.add("s", subject.astype(str))
    albums = np.char.add("u", (subject // 2).astype(str))
    gender = np.array(["f", "m", ""])[subject % 3]
    return many(target, probs, names, subject // 2 % 5, user=albums, gender=gender)


def test_one_off_counts_neighbours_and_does_not_wrap_around():
    target = np.array([0, 0, 7, 7, 3, 3])
    assert one_off_accuracy(np.array([1, 7, 6, 0, 2, 4]), target) == pytest.approx(100 * 4 / 6)


@pytest.mark.parametrize(
    ("shift", "exact", "one_off", "mae"), [(0, 100, 100, 0), (1, 0, 100, 1), (4, 0, 0, 4)]
)
def test_perfect_all_adjacent_and_all_far(shift, exact, one_off, mae):
    target = np.array([0, 1, 2, 3])
    scores = age_scores(certain(target + shift), target)
    assert (scores["exact"], scores["one_off"], scores["mae_argmax"], scores["mae_expected"]) == (
        exact,
        one_off,
        mae,
        mae,
    )


def test_decoders_disagree_where_they_should():
    probs = np.array([[0.4, 0.0, 0.0, 0.0, 0.0, 0.0, 0.3, 0.3], [0.5, 0.5, 0, 0, 0, 0, 0, 0]])
    decoded = {name: decode(probs).tolist() for name, decode in DECODERS.items()}
    assert decoded == {"argmax": [0, 0], "expected": [4, 1], "median": [6, 0], "window": [6, 0]}
    scores = age_scores(probs, np.array([4, 0]))
    assert scores["decoders"]["expected"] == {"exact": 50.0, "one_off": 100.0, "mae": 0.5}
    assert scores["mae_argmax"] == 2.0


def test_each_decoder_is_the_best_answer_for_the_score_it_names():
    probs = np.array([[0.35, 0.05, 0.05, 0.3, 0.25]])
    decoded = {name: int(decode(probs)[0]) for name, decode in DECODERS.items()}
    assert decoded == {"argmax": 0, "median": 3, "expected": 2, "window": 3}
    assert DECODERS.keys() == SERVES.keys()
    rng = np.random.default_rng(0)
    probs = rng.dirichlet(np.full(6, 0.5), size=300)
    apart = np.abs(np.subtract.outer(np.arange(6), np.arange(6)))
    costs = {"argmax": apart > 0, "median": apart, "expected": apart**2, "window": apart > 1}
    for name, cost in costs.items():
        expected = probs @ cost  # (N, K): the mean cost of each answer
        chosen = expected[np.arange(300), DECODERS[name](probs)]
        np.testing.assert_allclose(chosen, expected.min(axis=1), atol=1e-12)


def test_the_window_names_an_end_only_where_nothing_tells_it_from_its_neighbour():
    z = np.exp([0.5, 1, 2, 0, -1])
    assert decode_window((z / z.sum())[None]).tolist() == [1]  # 0.895772 against 0.846342
    assert decode_window(np.array([[0.9, 0.05, 0.05]])).tolist() == [1]
    assert decode_window(np.array([[0.7, 0.3, 0.0, 0.0], [0, 0, 0.1, 0.9]])).tolist() == [0, 3]
    tied = np.array([[0.2, 0.3, 0.3, 0.2], [0.25, 0.25, 0.25, 0.25]])
    assert decode_window(tied).tolist() == [1, 1]
    assert decode_window(np.array([[0.4, 0.6]])).tolist() == [1]
    assert decode_window(np.ones((2, 1))).tolist() == [0, 0]
    assert decode_window(np.zeros((0, 4))).tolist() == []


def test_one_image_one_class_and_none_have_scores():
    one = age_scores(np.array([[0.1, 0.6, 0.3]]), np.array([2]))
    assert (one["adaptive_ece"], one["aurc"]) == pytest.approx((0.6, 1.0))
    assert one["threshold_ece"] == pytest.approx((0.1 + 0.7) / 2)
    none = age_scores(np.zeros((0, 3)), np.zeros(0, dtype=int))
    assert [none[name] for name in ("adaptive_ece", "threshold_ece", "aurc", "ece")] == [None] * 4
    single = age_scores(np.ones((2, 1)), np.zeros(2, dtype=int))
    assert (single["exact"], single["rps"], single["threshold_ece"]) == (100.0, None, None)


def test_ranked_probability_score_by_hand():
    probs = np.array([[0.2, 0.5, 0.3]])
    assert ranked_probability_score(probs, np.array([1])) == pytest.approx((0.2**2 + 0.3**2) / 2)
    assert ranked_probability_score(np.eye(3)[[2]], np.array([0])) == 1.0
    assert ranked_probability_score(np.eye(3)[[1]], np.array([1])) == 0.0


def test_a_far_miss_costs_more_than_a_near_one():
    near, far = (ranked_probability_score(certain(np.array([g])), np.array([0])) for g in (1, 7))
    assert near == pytest.approx(1 / 7)
    assert far == 1.0


def test_a_group_without_images_has_no_recall():
    scores = age_scores(certain(np.array([0, 1, 1])), np.array([0, 0, 1]))
    assert scores["per_group_recall"] == [50.0, 100.0, None, None, None, None, None, None]
    assert scores["per_group_n"] == [2, 1, 0, 0, 0, 0, 0, 0]
    assert scores["balanced_accuracy"] == 75.0


def test_no_image_gives_none_everywhere_and_never_zero():
    scores = age_scores(np.empty((0, 8)), np.empty(0, dtype=int))
    assert scores["n"] == 0
    assert {scores[name] for name in ("exact", "one_off", "mae_argmax", "ece", "rps", "nll")} == {None}


def test_the_commonest_group_of_core8_gives_the_known_baseline():
    target = np.concatenate([np.repeat(np.arange(8), row) for row in CORE8])
    fold = np.repeat(np.arange(5), CORE8.sum(axis=1))
    train = {f: target[fold != f] for f in range(5)}
    baseline = constant_baseline(train, target, fold, 8)
    assert baseline["group_per_fold"] == [4] * 5
    assert np.round(baseline["exact_per_fold"], 1).tolist() == [37.6, 20.5, 23.6, 30.2, 28.7]
    assert baseline["exact_mean"] == pytest.approx(28.11, abs=0.005)
    assert baseline["exact_pooled"] == pytest.approx(100 * 5004 / 17393)
    neighbours = 100 * CORE8[:, 3:6].sum(axis=1) / CORE8.sum(axis=1)
    assert baseline["one_off_per_fold"] == pytest.approx(neighbours)
    assert baseline["one_off_mean"] == pytest.approx(51.54, abs=0.005)


def test_the_baseline_of_the_published_lists_is_that_of_the_literature():
    """The 17,424 rows of the older lists: images of the fold, and of 15-20, 25-32 and 38-43 in it."""
    images = np.array([4316, 3101, 3339, 2975, 3693])
    rows = np.array([[155, 1580, 555], [525, 635, 469], [274, 777, 277], [473, 898, 494], [228, 1060, 505]])
    groups = [
        np.repeat([3, 4, 5, 0], [*row, total - row.sum()]) for row, total in zip(rows, images, strict=True)
    ]
    target, fold = np.concatenate(groups), np.repeat(np.arange(5), images)
    baseline = constant_baseline({f: np.array([4]) for f in range(5)}, target, fold, 8)
    assert np.round(baseline["exact_per_fold"], 1).tolist() == [36.6, 20.5, 23.3, 30.2, 28.7]
    assert baseline["exact_mean"] == pytest.approx(27.85, abs=0.005)
    assert baseline["one_off_mean"] == pytest.approx(51.3, abs=0.05)


def test_the_baseline_learns_from_training_labels_only():
    target, fold = np.array([0, 0, 0, 5]), np.array([0, 0, 0, 1])
    baseline = constant_baseline({0: np.array([5]), 1: np.array([0, 0, 0])}, target, fold, 8)
    assert baseline["group_per_fold"] == [5, 0]
    assert baseline["exact_mean"] == 0.0


def test_fold_summary_by_hand_keeps_mean_and_pooled_apart():
    target = np.array([0, 0, 0, 1, 1])
    probs = certain(np.array([0, 0, 5, 1, 2]))
    subject = np.array(["a", "b", "c", "d", "e"])
    scores = score_cross_validation(many(target, probs, subject, np.array([0, 0, 0, 1, 1])))
    assert scores["exact_per_fold"] == pytest.approx([200 / 3, 50])
    assert scores["exact_mean"] == pytest.approx(175 / 3)
    assert scores["exact_sd"] == pytest.approx(np.std([200 / 3, 50], ddof=1))
    assert scores["exact_pooled"] == 60.0
    assert scores["one_off_per_fold"] == pytest.approx([200 / 3, 100])
    assert scores["one_off_pooled"] == 80.0
    assert (scores["n"], scores["subjects"], scores["per_fold_n"]) == (5, 5, [3, 2])
    assert scores["baseline"]["group_per_fold"] == [1, 0]


def test_intervals_resample_subjects_and_then_albums_within_folds():
    predictions = simulated()
    scores = score_cross_validation(predictions, resamples=500, seed=3)
    expected = cluster_bootstrap_interval(
        100.0 * predictions.correct,
        predictions["subject"],
        predictions.fold,
        statistic="mean_of_strata",
        resamples=500,
        seed=3,
    )
    assert scores["intervals"]["exact_mean"] == pytest.approx([expected.low, expected.high])
    assert (scores["intervals"]["unit"], scores["intervals"]["clusters"]) == ("subject", 100)
    assert (scores["intervals_by_user"]["unit"], scores["intervals_by_user"]["clusters"]) == ("user", 50)
    for name in ("exact_mean", "exact_pooled", "one_off_mean", "one_off_pooled"):
        low, high = scores["intervals"][name]
        assert low < scores[name] < high
    assert scores["exact_mean"] < scores["one_off_mean"]
    assert scores["effective_subjects"] < scores["subjects"] == 100


def test_scores_are_strict_json():
    scores = score_cross_validation(simulated(), resamples=50)
    assert json.loads(json.dumps(scores, allow_nan=False)) == scores
    assert scores["per_group_recall"][7] is None


def test_one_fold_has_no_sd_and_no_baseline_of_its_own_test_labels():
    predictions = simulated().select(simulated().fold == 2)
    scores = score_cross_validation(predictions, resamples=50)
    assert scores["exact_sd"] is None
    assert scores["baseline"] is None
    trained = score_cross_validation(predictions, {2: np.array([6, 6, 1])}, resamples=50)
    assert trained["baseline"]["group_per_fold"] == [6]


def test_subjects_in_several_folds_are_told():
    predictions = simulated()
    assert score_cross_validation(predictions, resamples=50)["subjects_in_several_folds"] == 0
    leaky = with_columns(predictions, fold=np.arange(len(predictions)) % 5)
    assert score_cross_validation(leaky, resamples=50)["subjects_in_several_folds"] > 50


@pytest.mark.real_data
def test_adience_holds_no_more_than_265_effective_subjects(real_data):
    """core8 of the current edition: a third of the images belongs to fifty people."""
    kept = {
        "(0, 2)",
        "(4, 6)",
        "(8, 12)",
        "(15, 20)",
        "(25, 32)",
        "(25, 23)",
        "(38, 43)",
        "(48, 53)",
        "(60, 100)",
    }
    rows = set()
    for fold in range(5):
        file = real_data / "adience" / "folds_current" / f"fold_{fold}_data.txt"
        with file.open(encoding="utf-8", newline="") as stream:
            table = csv.DictReader(stream, delimiter="\t")
            rows |= {(fold, row["face_id"], row["original_image"]) for row in table if row["age"] in kept}
    fold, subject, _ = (np.array(column) for column in zip(*sorted(rows), strict=True))
    assert len(rows) == 17393
    assert round(effective_clusters(subject)) == 265
    assert [round(effective_clusters(subject[fold == f])) for f in range(5)] == [38, 75, 54, 60, 82]


def test_albums_that_are_single_subjects_need_no_second_interval():
    predictions = simulated()
    alone = with_columns(predictions, user=predictions["subject"])
    assert score_cross_validation(alone, resamples=50)["intervals_by_user"] is None


def test_group_slices_count_small_cells_without_a_conclusion():
    predictions = simulated(subjects=150)
    keep = (predictions.target != 6) | (np.cumsum(predictions.target == 6) <= 5)
    predictions = predictions.select(keep)
    rows = {row["name"]: row for row in slice_scores(predictions, "group", resamples=100)}
    assert list(rows) == list(GROUPS)
    assert rows["60+"] == {
        "name": "60+",
        "images": 0,
        "subjects": 0,
        "exact": None,
        "exact_interval": None,
        "one_off": None,
        "one_off_interval": None,
    }
    assert rows["48-53"]["images"] == 5
    assert rows["48-53"]["exact"] is None
    assert sum(row["images"] for row in rows.values()) == len(predictions)


def test_gender_slices_hold_every_image_and_an_interval():
    predictions = simulated(subjects=150)
    rows = slice_scores(predictions, "gender", resamples=200)
    assert [row["name"] for row in rows] == ["f", "m", "not recorded"]
    assert sum(row["images"] for row in rows) == len(predictions)
    for row, gender in zip(rows, ("f", "m", ""), strict=True):
        assert row["subjects"] == 50
        assert row["exact"] == pytest.approx(
            100 * predictions.correct[predictions["gender"] == gender].mean()
        )
        assert row["exact_interval"][0] < row["exact"] < row["exact_interval"][1]
        assert row["exact"] <= row["one_off"]


def test_a_group_that_is_all_correct_has_wilsons_interval_by_name():
    """32 subjects with one image each, all correct: 89.3 to 100, and not 100 to 100."""
    target = np.full(32, 2)
    found = many(target, certain(target), np.arange(32).astype(str), np.arange(32) % 5)
    (row,) = [cell for cell in slice_scores(found, "group") if cell["images"]]
    assert (row["exact"], row["exact_interval_method"]) == (100, "Wilson")
    assert row["exact_interval"] == pytest.approx([89.28, 100], abs=0.01)
    assert "| 100.00 | 89.3 to 100.0 (Wilson interval) |" in per_slice([row], "group")
    intervals = score_cross_validation(found, resamples=50)["intervals"]
    assert intervals["exact_mean"] == pytest.approx([89.28, 100], abs=0.01)
    assert intervals["exact_mean_method"] == "Wilson"


def test_subject_count_slices_split_by_images_per_person():
    predictions = simulated(subjects=150)
    rows = slice_scores(predictions, "subject_count", resamples=50)
    assert [row["name"] for row in rows] == ["1 image", "2-4 images", "5-9 images"]
    _, counts = np.unique(predictions["subject"], return_counts=True)
    assert rows[0]["subjects"] == rows[0]["images"] == (counts == 1).sum()
    assert rows[1]["images"] == counts[(counts >= 2) & (counts <= 4)].sum()


def test_unknown_slices_and_empty_predictions_are_refused():
    with pytest.raises(ValueError, match="group, gender, subject_count; got 'hair'"):
        slice_scores(simulated(), "hair")
    with pytest.raises(ValueError, match="no prediction"):
        score_cross_validation(simulated().select(np.zeros(len(simulated()), dtype=bool)))
