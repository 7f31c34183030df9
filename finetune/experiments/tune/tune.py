"""`tune`: a search for learning rates, weight decay and epochs that never reads the test part."""

from __future__ import annotations

from dataclasses import fields, replace
from functools import partial
from pathlib import Path
from typing import Any

from finetune.cli.console import say
from finetune.errors import InterruptedRunError
from finetune.experiments.run import kept_options, prepare_experiment
from finetune.experiments.shared_precision import with_shared_precision
from finetune.experiments.study.arms import Arm, build_arms
from finetune.experiments.study.folder import check_place, claim_study, no_claim_left
from finetune.experiments.study.runs import check_arms
from finetune.experiments.task import Task
from finetune.experiments.tune.config import TuneConfig, rungs_of
from finetune.experiments.tune.data import read_without_test
from finetune.experiments.tune.results import tell_results, write_results
from finetune.experiments.tune.search import Search
from finetune.experiments.tune.trials import TRIALS, check_monitor, settings_of
from finetune.training.failures import resume_line

# What says which trials there are: it may change while the folder and its finished trials stay.
SEARCH_KEYS = tuple(item.name for item in fields(TuneConfig))


def tune(task: Task, config: Any, study_type: type[Any]) -> dict[str, Any]:
    """Try settings on validation images, and write a configuration with the best ones.

    Finished trials are never trained again. An interrupted search writes what it has, and is gone on with by
    run.resume auto.

    Args:
        task: whose runs the trials are.
        config: a run's configuration and a `TuneConfig`.
        study_type: the options of the task's studies.

    Returns what report.json holds. Raises UsageError for a search that cannot be, DataError for the data, and
    InterruptedRunError after a signal.
    """
    check_place(config.run, "a search")
    folder, arms = Path(config.run.dir), arms_of(config)
    check_monitor(task, config.train.monitor)
    rungs = rungs_of(config.search, config.train)
    check_arms(config, arms, task)
    config = _scored_at_the_end(config)
    experiment = prepare_experiment(task, config, read=partial(read_without_test, task, config))
    _tell(experiment, len(settings_of(config.search, config.train)), arms, rungs)
    search = Search(experiment, arms, folder)
    with no_claim_left(folder, TRIALS):
        allowed = replace(config.run, allow_change=(*config.run.allow_change, *SEARCH_KEYS))
        claim_study(folder, kept_options(task, experiment.config), allowed)
        parts = list(experiment.splits)
        search.experiment = with_shared_precision(experiment, folder, parts, trainings=len(arms) * len(rungs))
        interrupted = _run(search)
    summary = write_results(search, study_type)
    tell_results(summary)
    if interrupted:
        raise InterruptedRunError(
            f"interrupted; what {folder} holds of the search is kept, and the files above are of that; "
            f"{resume_line()}"
        )
    return summary


def arms_of(config: Any) -> tuple[Arm, ...]:
    """Return what is searched for: the listed arms, or the configuration's own loss and head."""
    if config.arms:
        return build_arms(config.arms, baseline=False, controls=False)
    return (Arm(config.loss.name, config.loss.resolved()),)


def _run(search: Search) -> bool:
    """Run the search; return whether it was interrupted, its finished trials counted."""
    try:
        search.run()
    except (InterruptedRunError, KeyboardInterrupt) as stop:
        search.stopped = "interrupted"
        search.collect()
        if not search.outcomes:
            raise InterruptedRunError(f"{stop or 'interrupted'}; no trial is finished yet") from None
        return True
    return False


def _scored_at_the_end(config: Any) -> Any:
    """Return the configuration whose last weights are scored: an epoch chosen here would be scored twice."""
    train = config.train
    if train.select == "last" and not train.patience:
        return config
    say(
        "note: trials are scored with their last epoch's weights, and so are runs of what is found: an epoch "
        "chosen by train.select or train.patience would be chosen by the images that score it"
    )
    return replace(config, train=replace(train, select="last", patience=0))


def _tell(experiment: Any, settings: int, arms: tuple[Arm, ...], rungs: list[int]) -> None:
    parts = "; ".join(f"{len(one.train)} train, {len(one.val)} validate" for one in experiment.splits)
    plan = f"{len(arms)} arms x {settings} settings, {', '.join(map(str, rungs))} epochs"
    say(f"{plan}; {parts}. The test part is not read")
