"""Settings, rounds of halving, and a trial's score with its error over people."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from agecls.task import TASK
from finegrained.task import TASK as CATEGORIES
from finetune.errors import UsageError
from finetune.experiments.records.predictions import Predictions
from finetune.experiments.study.arms import build_arms
from finetune.experiments.tune.config import SearchConfig, TuneConfig, rungs_of
from finetune.experiments.tune.search import Search
from finetune.experiments.tune.trials import (
    Outcome,
    Setting,
    check_monitor,
    outcome_of,
    runs_of,
    score_of,
    settings_of,
    shown_score,
    unit_of,
)
from finetune.training.config import TrainConfig
from tests.finetune.experiments.made_tasks import MadeTask

ARMS = build_arms(["cel", "crl"], baseline=False, controls=False)


def search_of(config: SearchConfig, train: TrainConfig | None = None) -> Search:
    """Return a search that has trained nothing."""
    told: Any = SimpleNamespace(config=SimpleNamespace(search=config, train=train or TrainConfig(epochs=8)))
    return Search(told, ARMS, Path("search"))


def test_the_lot_draws_the_same_settings_and_keeps_the_configurations_own() -> None:
    config = SearchConfig(lr=(0.1, 0.2, 0.3), weight_decay=(0.0, 0.1), trials=4)
    drawn = settings_of(config, TrainConfig())
    assert drawn == settings_of(config, TrainConfig())
    assert drawn[0] == Setting(0.01, 10.0, 1e-4)
    assert len(set(drawn)) == 4
    assert len(settings_of(SearchConfig(lr=(0.1, 0.2, 0.3), weight_decay=(0.0, 0.1)), TrainConfig())) == 13


def test_every_arm_seed_and_part_has_a_folder_of_its_own() -> None:
    search = SearchConfig(seeds=2, parts=3)
    trials = search_of(search).planned(0)
    folders = {run.folder for trial in trials for run in runs_of(trial, search, Path("s"))}
    assert len(folders) == 2 * 8 * 6
    assert Path("s/trials/crl/lr0.003-head1-decay0.0001-epochs8/seed1-part2") in folders


def test_halving_keeps_each_arms_own_best_and_judges_by_whole_rounds() -> None:
    lr = (0.1, 0.2, 0.3)
    search = search_of(SearchConfig("halving", lr, (10.0,), epochs=(2, 4), keep=2))
    assert search.rungs == [2, 4]
    first = search.planned(0)
    assert [(one.setting.lr, one.arm.name) for one in first[:3]] == [
        (0.01, "cel"),
        (0.01, "crl"),
        (0.1, "cel"),
    ]
    for one in first:  # cross-entropy likes small rates, CRL large ones
        score = one.setting.lr if one.arm.name == "crl" else 1 - one.setting.lr
        search.outcomes[one.arm.name, one.setting, 2] = Outcome(score)
    second = search.planned(1)
    kept = {arm: [one.setting.lr for one in second if one.arm.name == arm] for arm in ("cel", "crl")}
    assert kept == {"cel": [0.01, 0.1], "crl": [0.3, 0.2]}
    search.outcomes[second[0].arm.name, second[0].setting, 4] = Outcome(50.0)
    assert search.best(ARMS[0]) == ("cel", Setting(0.01, 10.0, 1e-4), 2)  # half a round does not count
    for one in second:
        search.outcomes[one.arm.name, one.setting, 4] = Outcome(1.0 if one.setting.lr == 0.2 else None)
    assert search.best(ARMS[1]) == ("crl", Setting(0.2, 10.0, 1e-4), 4)
    assert search.best(ARMS[0]) == ("cel", Setting(0.01, 10.0, 1e-4), 2)


def test_a_setting_that_one_arm_alone_was_tried_with_chooses_nothing() -> None:
    search = search_of(SearchConfig(lr=(0.1,), head_lr_multiplier=(10.0,)))
    own, other = search.settings
    search.outcomes |= {("cel", own, 8): Outcome(50.0), ("crl", own, 8): Outcome(40.0)}
    search.outcomes["cel", other, 8] = Outcome(99.0)
    assert [search.best(arm) for arm in ARMS] == [("cel", own, 8), ("crl", own, 8)]
    search.outcomes["crl", other, 8] = Outcome(None)  # it diverged: tried all the same
    assert search.best(ARMS[0]) == ("cel", other, 8)


def test_of_equal_scores_the_shorter_training_is_chosen() -> None:
    search = search_of(SearchConfig(lr=(0.1,), head_lr_multiplier=(10.0,), epochs=(4, 2)))
    for rung in (0, 1):
        for one in search.planned(rung):
            search.outcomes[one.arm.name, one.setting, one.epochs] = Outcome(70.0)
    assert search.best(ARMS[0]) == ("cel", Setting(0.01, 10.0, 1e-4), 2)


def test_a_score_has_its_spread_over_trainings_and_its_error_over_people(made: MadeTask) -> None:
    first, second = (made.predictions(made.answers(share, seed)) for share, seed in ((0.7, 0), (0.6, 1)))
    outcome = outcome_of(made.task, [first, second], "accuracy", 2.0)
    scores = [100 * first.correct.mean(), 100 * second.correct.mean()]
    assert outcome.score == pytest.approx(np.mean(scores))
    assert outcome.sd == pytest.approx(abs(scores[0] - scores[1]) / 2**0.5)
    assert (outcome.unit, outcome.images) == (made.unit, made.images)
    clusters = made.task.resampling(first).clusters if made.unit == "subject" else np.arange(made.images)
    assert outcome.units == len(np.unique(clusters))
    hits = 50.0 * first.correct + 50.0 * second.correct  # by image; people hold equally many
    means = np.array([hits[clusters == one].mean() for one in np.unique(clusters)])
    assert outcome.error == pytest.approx(means.std() / len(means) ** 0.5, rel=0.15)
    assert outcome_of(made.task, [first], "accuracy", 1.0).sd is None


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"lr": (0.0,)}, "lr must be positive"),
        ({"epochs": (4, 4)}, "lists a value twice"),
        ({"keep": 1}, "keep must be at least 2"),
        ({"minutes": -1.0}, "minutes must not be negative"),
        ({"head_lr_multiplier": ()}, "needs a value"),
    ],
)
def test_a_search_of_nonsense_is_refused(options: dict[str, Any], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        SearchConfig(**options)


def test_epochs_that_the_configuration_counts_in_are_not_scaled() -> None:
    step = TrainConfig(epochs=9, schedule="step", milestones=(3, 6))
    assert rungs_of(SearchConfig(), step) == [9]
    for train in (step, TrainConfig(epochs=9, frozen_epochs=2)):
        with pytest.raises(UsageError, match=r"count epochs of train\.epochs 9"):
            rungs_of(SearchConfig(epochs=(3, 9)), train)
    with pytest.raises(UsageError, match="no loss or head 'crrl'"):
        TuneConfig(arms=("crrl",))


def test_the_lower_error_is_the_better_score_and_is_told_as_it_is() -> None:
    target = np.array([2, 5])
    right, wrong = np.eye(8)[[2, 5]], np.eye(8)[[5, 2]]
    columns = {name: np.array(["a", "b"]) for name in ("subject", "user")}
    made = [
        Predictions(tuple("01234567"), np.array(["a", "b"]), target, probs, columns)
        for probs in (right, wrong)
    ]
    best, worst = (score_of(TASK, one, "mae") for one in made)
    assert best > worst
    assert [shown_score("mae", one) for one in (best, worst)] == [0, 3]
    assert (unit_of("mae"), score_of(TASK, made[0], "accuracy"), shown_score("accuracy", 100.0)) == (
        "classes",
        100,
        100,
    )


def test_a_score_that_the_task_has_not_is_refused_before_anything() -> None:
    with pytest.raises(UsageError, match="monitor mae: this task is scored by accuracy"):
        check_monitor(CATEGORIES, "mae")
    check_monitor(TASK, "mae")
