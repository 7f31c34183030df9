"""A trial: one arm with one setting, trained on the training part and scored on the validation part."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from itertools import product
from pathlib import Path
from typing import Any, TypeVar

import numpy as np

from finetune.cli.words import value_text
from finetune.errors import UsageError
from finetune.experiments.records.predictions import Predictions
from finetune.experiments.records.record import RECORD_FILE
from finetune.experiments.study.arms import Arm
from finetune.experiments.study.cells import CellPlan
from finetune.experiments.study.runs import cell_config
from finetune.experiments.task import Task
from finetune.experiments.tune.config import SearchConfig, rates_of
from finetune.seeding import numpy_generator
from finetune.training.config import FitConfig, TrainConfig
from finetune.training.data import LOWER_IS_BETTER, monitored, turned

C = TypeVar("C", bound=FitConfig)
TRIALS = "trials"
DIVERGED_FILE = "diverged.json"
TRIAL_FILES = (RECORD_FILE, "predictions.parquet")  # of a finished run; its weights are not kept
RESAMPLES = 500


@dataclass(frozen=True)
class Setting:
    """What is tried: the backbone's learning rate, the head's over it, and the weight decay."""

    lr: float
    head_lr_multiplier: float
    weight_decay: float

    @property
    def name(self) -> str:
        """What the folder is called.

        >>> Setting(0.001, 10.0, 1e-4).name
        'lr0.001-head10-decay0.0001'
        """
        lr, head, decay = (value_text(value) for value in asdict(self).values())
        return f"lr{lr}-head{head}-decay{decay}"

    def told(self, epochs: int) -> str:
        """Return the setting in words.

        >>> Setting(0.001, 10.0, 0.0).told(5)
        'lr 0.001, head x10, weight decay 0, 5 epochs'
        """
        lr, head, decay = (value_text(value) for value in asdict(self).values())
        return f"lr {lr}, head x{head}, weight decay {decay}, {epochs} epochs"


@dataclass(frozen=True)
class Trial:
    """One arm with one setting for so many epochs; `runs` folders hold its trainings."""

    arm: Arm
    setting: Setting
    epochs: int


@dataclass(frozen=True)
class Run:
    """One training of a trial: its seed, which validation part scores it, and its folder."""

    trial: Trial
    seed: int
    part: int
    folder: Path


@dataclass(frozen=True)
class Outcome:
    """What a trial's runs scored on their validation images.

    Args:
        score: mean over the runs, percent; None where one diverged.
        sd: sample standard deviation over the runs; None for a single one.
        error: standard error over what is resampled (people, or images), by the bootstrap.
        units: how many people, or images, validated.
        unit: which of the two: "subject", "image".
        images: how many images validated.
        minutes: of training, all runs together.
    """

    score: float | None
    sd: float | None = None
    error: float | None = None
    units: int = 0
    unit: str = "image"
    images: int = 0
    minutes: float = 0.0


def settings_of(search: SearchConfig, train: TrainConfig) -> list[Setting]:
    """Return the settings that every arm is tried with: the configuration's own, then all combinations.

    With search.trials so many of them, drawn by lot, the same for every arm.

    >>> [one.lr for one in settings_of(SearchConfig(lr=(0.1, 0.2), head_lr_multiplier=(1,)), TrainConfig())]
    [0.01, 0.1, 0.2]
    """
    own = Setting(train.lr, train.head_lr_multiplier, train.weight_decay)
    grid = [Setting(*values) for values in product(*rates_of(search, train))]
    found = [own, *(one for one in grid if one != own)]
    if not search.trials or search.trials >= len(found):
        return found
    others = numpy_generator(0, "tune").permutation(len(found) - 1)[: search.trials - 1]
    return [own, *(found[1 + place] for place in sorted(others.tolist()))]


def runs_of(trial: Trial, search: SearchConfig, folder: Path) -> list[Run]:
    """Return the trainings of a trial: every seed on every validation part."""
    place = folder / TRIALS / trial.arm.name / f"{trial.setting.name}-epochs{trial.epochs}"
    cells = product(range(search.seeds), range(search.parts))
    return [Run(trial, seed, part, place / f"seed{seed}-part{part}") for seed, part in cells]


def tuned(config: C, setting: Setting, epochs: int) -> C:
    """Return the configuration with a trial's rates and epochs; the last epoch's weights are those scored."""
    rates = asdict(setting)
    return replace(config, train=replace(config.train, **rates, epochs=epochs, select="last", patience=0))


def trial_config(task: Task, config: Any, run: Run) -> Any:
    """Return the configuration of a run's training, without what only a search knows."""
    own = {name: getattr(config, name) for name in task.config_type.__dataclass_fields__}
    plan = CellPlan(run.trial.arm, run.seed, 1.0, run.folder)
    return cell_config(tuned(task.config_type(**own), run.trial.setting, run.trial.epochs), plan)


def outcome_of(task: Task, found: Sequence[Predictions], monitor: str, minutes: float) -> Outcome:
    """Return a trial's outcome from its runs' predictions of their validation images.

    Args:
        task: whose scores and resampling these are.
        found: the predictions of each run.
        monitor: the validation score that decides, as train.monitor names it.
        minutes: of training, all runs together.
    """
    scores = [score_of(task, one, monitor) for one in found]
    drawn = [task.resampling(one) for one in found]
    clusters = np.concatenate([one.clusters.astype(str) for one in drawn])
    if drawn[0].unit == "image":  # the same image of another seed is the same image
        clusters = np.concatenate([one.path for one in found])
    sd = float(np.std(scores, ddof=1)) if len(scores) > 1 else None
    error = _standard_error(task, found, monitor, clusters)
    images = len(np.unique(np.concatenate([one.path for one in found])))
    units = len(np.unique(clusters))
    return Outcome(float(np.mean(scores)), sd, error, units, drawn[0].unit, images, minutes)


def score_of(task: Task, found: Predictions, monitor: str) -> float:
    """Return the validation score `monitor` of these predictions so that higher is better.

    A share is in percent, an error in classes and negative (`shown_score` tells it).
    """
    value = monitored(task.validation_scores(found.probs, found.target), monitor)
    assert value is not None, "refused before anything is trained"
    return scale_of(monitor) * float(value)


def scale_of(monitor: str) -> float:
    """Return by what a validation score is multiplied where it is told: 100 for a share."""
    return 1.0 if monitor in LOWER_IS_BETTER else 100.0


def shown_score(monitor: str, score: float | None) -> float | None:
    """Return a score as it is told: a share in percent, an error in classes and positive."""
    return turned(monitor, score)


def unit_of(monitor: str) -> str:
    """Return in what a score is told."""
    return "classes" if monitor in LOWER_IS_BETTER else "%"


def check_monitor(task: Task, monitor: str) -> None:
    """Raise UsageError for a validation score that the task does not have."""
    known = task.validation_scores(np.full((1, 2), 0.5), np.zeros(1, dtype=np.int64))
    if monitor not in known:
        raise UsageError(f"train.monitor {monitor}: this task is scored by {', '.join(known)}")


def _standard_error(
    task: Task, found: Sequence[Predictions], monitor: str, clusters: np.ndarray
) -> float | None:
    """Return the sd, in the score's unit, of the pooled score over resamples of whole clusters.

    A resample draws G - 1 of G clusters, which leaves no bias of few clusters (Rao and Wu 1988). None of one.
    """
    probs = np.concatenate([one.probs for one in found])
    target = np.concatenate([one.target for one in found])
    code = np.unique(clusters, return_inverse=True)[1]
    rows = np.split(np.argsort(code, kind="stable"), np.cumsum(np.bincount(code))[:-1])
    if len(rows) < 2:
        return None
    generator = numpy_generator(0, "tune", "bootstrap")
    scores = []
    for _ in range(RESAMPLES):
        drawn = np.concatenate([rows[one] for one in generator.integers(0, len(rows), len(rows) - 1)])
        scores.append(float(task.validation_scores(probs[drawn], target[drawn])[monitor]))
    return scale_of(monitor) * float(np.std(scores))
