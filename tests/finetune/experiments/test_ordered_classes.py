"""What reads the order of classes is refused where they have none, and knows where they lie where they do."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch

from agecls.task import TASK as AGE
from finegrained.task import TASK as FINE
from finetune.errors import DataError, UsageError
from finetune.experiments.ordered_classes import check_order, class_places, with_edges
from finetune.models.heads.registry import HEADS
from finetune.models.names import ORDINAL_HEADS
from finetune.training.config import FitConfig, HeadConfig, LossConfig
from finetune.training.data import TrainingData
from finetune.training.learner import build_objective, loss_settings
from generalcls.loss_study import refuse_order
from generalcls.single_run import one_arm

READERS: list[tuple[dict[str, Any], str]] = [
    ({"head": HeadConfig("corn")}, "the corn head"),
    ({"head": HeadConfig("cumulative")}, "the cumulative head"),
    ({"head": HeadConfig("year_laplace")}, "the year_laplace head"),
    ({"loss": LossConfig("olog")}, "the loss olog"),
    ({"loss": LossConfig("mean_variance")}, "the loss mean_variance"),
    ({"loss": LossConfig(branches={"main": "olog"})}, "the loss olog"),
    ({"loss": LossConfig("crl:targets=sord")}, r"soft targets \(sord\)"),
    ({"head": HeadConfig("corn"), "loss": LossConfig("olog")}, "the corn head and the loss olog"),
]


@pytest.mark.parametrize(("parts", "said"), READERS)
def test_only_a_task_with_ordered_classes_takes_it(parts: dict[str, Any], said: str) -> None:
    config = replace(FitConfig(), **parts)
    check_order(AGE, config)
    with pytest.raises(
        UsageError, match=f"only for classes with an order: {said}; .*Fine-grained.*choose another"
    ):
        check_order(FINE, config)


def test_a_margin_needs_one_class() -> None:
    with pytest.raises(UsageError, match="no one class for the margin of the arcface head"):
        check_order(AGE, FitConfig(head=HeadConfig("arcface"), loss=LossConfig("cel:targets=sord")))


@pytest.mark.parametrize("word", ["corn", "olog", "cel:targets=sord", "crl:head=cumulative"])
def test_a_general_data_set_has_no_order(word: str) -> None:
    with pytest.raises(UsageError, match=r"only for classes with an order: .*a general data set have none"):
        one_arm(word)
    refuse_order([one_arm("crl")])


def test_ages_lie_in_the_middle_of_their_groups() -> None:
    names = ("0-2", "4-6", "8-12", "15-20", "25-32", "38-43", "48-53", "60+")
    assert class_places(AGE, names) == (1.0, 5.0, 10.0, 17.5, 28.5, 40.5, 50.5, 75.0)
    assert class_places(AGE, ("0", "1", "2")) == (0.0, 1.0, 2.0)
    assert class_places(FINE, ("a", "b")) is None
    with pytest.raises(DataError, match="'old' is no age group"):
        class_places(AGE, ("0-2", "old"))


def test_a_head_on_a_scale_gets_the_edges_of_its_classes() -> None:
    names, bare = ("0-2", "4-6", "8-12", "60+"), HeadConfig("year_laplace")
    head = with_edges(AGE, bare, names)
    assert head.options == {"edges": "3,7,36"}
    assert with_edges(AGE, head, names) == head
    assert with_edges(AGE, bare, ("0", "1", "2")).options == {"edges": "0.5,1.5"}
    with pytest.raises(UsageError, match=r"edges 3,7,36 are not those of these classes, 2\.5,7,36: leave"):
        with_edges(AGE, head, ("0-1", *names[1:]))
    with pytest.raises(UsageError, match="needs classes that are parts of a scale, such as ages in years"):
        with_edges(FINE, bare, ("a", "b"))
    corn = HeadConfig("corn")
    assert with_edges(AGE, corn, names) is corn


def objective(data: TrainingData, word: str) -> Any:
    return build_objective(FitConfig(loss=LossConfig(word)), data, torch.device("cpu"))


def test_the_objective_gets_the_rows_of_its_classes(
    task: TrainingData, capsys: pytest.CaptureFixture[str]
) -> None:
    classes = task.manifest.num_classes
    assert objective(task, "crl").rows is None
    rows = objective(task, "crl:targets=gaussian").rows
    assert rows.shape == (classes, classes)
    placed = replace(task, places=tuple(np.linspace(0, 100, classes)))
    assert objective(placed, "crl:targets=gaussian:distance=years").rows.diag().min() > 0.99
    assert "warning" not in capsys.readouterr().out
    objective(task, "nllr:targets=sord")
    assert "warning: nllr falls without end along soft targets of more than 1/2" in capsys.readouterr().out
    with pytest.raises(UsageError, match=r"lie on no scale; give --loss\.distance index"):
        objective(task, "crl:targets=gaussian:distance=years")


def test_run_json_names_soft_targets_and_nothing_of_hard_ones() -> None:
    soft = loss_settings(LossConfig("cel:targets=sord"))
    assert {key: soft[key] for key in ("targets", "target_width", "distance")} == {
        "targets": "sord",
        "target_width": 1.0,
        "distance": "index",
    }
    assert "targets" not in loss_settings(LossConfig("cel"))


def test_every_head_says_whether_it_reads_the_order() -> None:
    assert {name for name, head in HEADS.items() if head.ordered} == set(ORDINAL_HEADS)
    assert all(head.title for head in HEADS.values() if head.ordered)
