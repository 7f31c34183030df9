"""Paired comparisons of either task: what may be compared, what differs, and by how much."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from finetune.errors import DataError
from finetune.experiments.compare.compare import compare_results
from finetune.experiments.task import measures_for
from finetune.metrics.bootstrap import mcnemar
from tests.finetune.experiments.made_tasks import CRL, MadeTask

# Wilson's upper limit, in percent, of none among 120 subjects, and of none among 400 images.
UNSEEN = {"age": 3.102, "fine": 0.951}


def test_a_difference_is_second_minus_first_on_the_same_images(made: MadeTask):
    first, second = made.answers(0.5, seed=1), made.answers(0.9, seed=2)
    a, b = made.result(first, "a"), made.result(second, "b", loss=CRL)
    found = compare_results(made.task, a, b, resamples=500, seed=4)
    expected, cells = made.bootstrap(first, second, resamples=500, seed=4), found[made.headline]
    assert cells["difference"] == pytest.approx(expected.difference)
    assert cells["interval"] == pytest.approx([expected.low, expected.high])
    assert cells["p"] == expected.p == pytest.approx(2 / 501)
    assert cells["a"] == pytest.approx(100 * first.mean())
    assert cells["b"] - cells["a"] == pytest.approx(cells["difference"])
    assert found["mcnemar"] == mcnemar(first, second)._asdict()
    assert (found["n"], found["classes"], found["unit"]) == (made.images, len(made.names), made.unit)
    assert (found["changed"], found["controlled"]) == ("loss", True)
    assert found["majority"] == made.majority
    lead = f"crl (alpha 1.5) is higher than cel in {made.label} by +"
    assert found["conclusion"].startswith(lead)


def test_the_order_of_rows_does_not_matter(made: MadeTask):
    a, b = made.result(made.answers(0.5, seed=1)), made.result(made.answers(0.7, seed=2))
    order = np.random.default_rng(0).permutation(made.images)
    mixed_a, mixed_b = (replace(x, predictions=x.predictions.select(order)) for x in (a, b))
    expected = compare_results(made.task, a, b, resamples=50)
    assert compare_results(made.task, a, mixed_b, resamples=50) == expected
    assert compare_results(made.task, mixed_a, b, resamples=50) == expected


def test_identical_results_differ_by_nothing(made: MadeTask):
    a = made.result(made.answers(0.6))
    found, unseen = compare_results(made.task, a, a, resamples=100), UNSEEN[made.task.name]
    compared = [measure.key for measure in measures_for(made.task, "compare", a.class_names)]
    for key in compared:
        cells = found[key]
        assert (cells["difference"], cells["p"], cells["method"]) == (0, 1, "Wilson")
        assert cells["interval"] == pytest.approx([-unseen, unseen], abs=1e-3)
        assert cells["reason"] == "both predict the same images correctly"
    assert len(compared) > 1
    assert found["mcnemar"] == {"b": 0, "c": 0, "p": 1.0}
    assert (found["changed"], found["settings"]) == ("nothing", [])
    assert found["conclusion"].startswith(f"No difference in {made.label} was shown")


def test_resampling_that_never_moves_gives_wilsons_interval(made: MadeTask):
    """The second predicts every image correctly, the first none: no resample differs from another."""
    none, every = np.zeros(made.images, dtype=bool), np.ones(made.images, dtype=bool)
    found = compare_results(made.task, made.result(none), made.result(every, loss=CRL), resamples=50)
    low = 100 - 2 * UNSEEN[made.task.name]
    assert found[made.headline]["interval"] == pytest.approx([low, 100], abs=0.01)
    assert "resampling shows no spread" in found[made.headline]["reason"]
    assert f"is higher than cel in {made.label} by +100.00 points" in found["conclusion"]
    told = f"95 % Wilson interval over {made.unit}s +{low:.2f} to +100.00, p < 0.0001"
    assert told in found["conclusion"]


@pytest.mark.parametrize("field", ["manifest", "policy", "split"])
def test_results_of_other_data_are_refused_with_both_values(made: MadeTask, field: str):
    a, b = made.result(made.answers(0.5)), made.result(made.answers(0.5), **{field: "77"})
    with pytest.raises(DataError, match=rf"cannot be compared.*\n  {field}: {made.record[field]} and 77\n"):
        compare_results(made.task, a, b)


def test_a_result_that_does_not_tell_its_split_is_refused(made: MadeTask):
    a = made.result(made.answers(0.5), split=None)
    with pytest.raises(DataError, match="split: missing and missing"):
        compare_results(made.task, a, a)


def test_every_refusal_is_listed_at_once(made: MadeTask):
    a, b = (made.result(made.answers(0.5), **run) for run in ({}, {"manifest": "9", "policy": "mine"}))
    with pytest.raises(DataError, match=r"(?s)manifest: 1f and 9.*policy: some policy and mine"):
        compare_results(made.task, a, b)


def test_other_test_images_or_labels_are_refused_by_name(made: MadeTask):
    a, b = made.result(made.answers(0.5), "a"), made.result(made.answers(0.5), "b")
    count, fold = made.images, {"age": r" \(fold 2\)", "fine": ""}[made.task.name]
    for rows, missing in ((np.arange(count - 1), count - 1), (np.arange(1, count), 0)):
        fewer = replace(b, predictions=b.predictions.select(rows))
        where = fold if missing else fold.replace("2", "0")
        told = (
            rf"not the same test images: {count} and {count - 1} rows\n  {missing:05}\.jpg{where} only in a"
        )
        with pytest.raises(DataError, match=told):
            compare_results(made.task, a, fewer)
    other = np.where(np.arange(count) == 7, 0, b.predictions.target)
    relabelled = replace(b, predictions=replace(b.predictions, target=other))
    names = rf"{made.names[b.predictions.target[7]]} and {made.names[0]}"
    with pytest.raises(DataError, match=rf"a and b differ in the true class:\n  00007\.jpg: {names}"):
        compare_results(made.task, a, relabelled)


def test_results_without_a_test_image_are_refused(made: MadeTask):
    nothing = made.result(np.zeros(0, dtype=bool))
    with pytest.raises(DataError, match="tested no image"):
        compare_results(made.task, nothing, nothing)


def test_settings_beside_the_loss_make_a_comparison_uncontrolled(made: MadeTask):
    configs = [
        {"train": {"lr": 0.1, "seed": 0}, "loss": {"name": "cel"}, "run": {"dir": "x"}},
        {"train": {"lr": 0.01, "seed": 1}, "loss": {"name": "crl"}, "run": {"dir": "y"}},
    ]
    a = made.result(made.answers(0.5), config=configs[0])
    b = made.result(made.answers(0.5, seed=2), config=configs[1], loss=CRL, seed=1, backbone="resnet34")
    found = compare_results(made.task, a, b, resamples=50)
    fields = ["backbone", "loss.alpha", "loss.name", "train.lr", "train.seed"]
    assert [item["field"] for item in found["settings"]] == fields
    assert {"field": "train.lr", "a": 0.1, "b": 0.01} in found["settings"]
    assert not found["controlled"]
    told = "Not a controlled comparison: besides the loss these differ: backbone, train.lr"
    assert told in found["conclusion"]


def test_whole_images_against_boxes_are_not_only_another_loss(made: MadeTask):
    crops = [{"kind": "image", "margin": 0.0}, {"kind": "box", "margin": 0.1}]
    a = made.result(made.answers(0.5), crop=crops[0])
    b = made.result(made.answers(0.6), crop=crops[1], loss=CRL)
    found = compare_results(made.task, a, b, resamples=20)
    assert found["changed"] == "more"
    assert {"field": "data.crop", "a": "image", "b": "box"} in found["settings"]


def test_another_machine_is_told_and_is_no_setting(made: MadeTask):
    a = made.result(made.answers(0.5), device={"asked": "auto", "used": "cpu"}, versions={"torch": "2.10"})
    b = made.result(made.answers(0.6), device={"asked": "cuda", "used": "cuda:0"}, versions={"torch": "2.15"})
    found = compare_results(made.task, a, b, resamples=20)
    assert [item["field"] for item in found["environment"]] == ["device.used", "versions.torch"]
    assert (found["changed"], found["controlled"]) == ("nothing", True)


def test_a_missing_configuration_is_told(made: MadeTask):
    a, b = made.result(made.answers(0.5), "bare"), made.result(made.answers(0.6), config={"a": 1})
    found = compare_results(made.task, a, b, resamples=20)
    assert found["notes"] == ["no config.yaml in bare: only the settings in run.json were compared"]


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
    made: MadeTask, change: dict[str, Any], changed: str, controlled: bool
):
    a, b = (
        made.result(made.answers(0.5), name, **({"epochs": 2} | own))
        for name, own in (("a", {}), ("b", change))
    )
    found = compare_results(made.task, a, b, resamples=20)
    assert found["changed"] == changed
    assert ("ot a controlled comparison" in found["conclusion"]) == (not controlled)


def test_options_of_the_head_in_the_configuration_count_as_the_head(made: MadeTask):
    configs = [{"head": {"name": "dfl", "options": {"detectors": k}}} for k in (5, 10)]
    a, b = (made.result(made.answers(0.5), name, own) for name, own in zip("ab", configs, strict=True))
    found = compare_results(made.task, a, b, resamples=20)
    assert [item["field"] for item in found["settings"]] == ["head.options.detectors"]
    assert found["changed"] == "head"


@pytest.mark.parametrize(
    ("second", "names"),
    [
        ({"loss": CRL}, ["cel", "crl (alpha 1.5)"]),
        ({"head": "dfl"}, ["linear", "dfl"]),
        ({"head": "dfl", "loss": CRL}, ["linear with cel", "dfl with crl (alpha 1.5)"]),
        ({}, ["a", "b"]),
    ],
)
def test_names_tell_the_two_apart(made: MadeTask, second: dict[str, Any], names: list[str]):
    a = made.result(made.answers(0.5), "x/a")
    b = made.result(made.answers(0.5), "x/b", **second)
    assert compare_results(made.task, a, b, resamples=20)["names"] == names
