"""The trials of a search, one after another, every arm with the same settings and the same budget.

The settings are a stated list. A library that chooses the next setting by the scores before it would give
every arm other settings, and would keep a second record of what the trials' run folders say already.
"""

from __future__ import annotations

import math
import shutil
import time
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from finetune.cli.console import say
from finetune.errors import DivergedError, UsageError
from finetune.experiments.records.record import MODEL_FILE, RECORD_FILE, RunRecord
from finetune.experiments.records.splits import Split
from finetune.experiments.result import Result, read_predicted
from finetune.experiments.run import Experiment, is_finished, plain, run_split
from finetune.experiments.study.arms import Arm
from finetune.experiments.study.folder import claimed
from finetune.experiments.study.schedule import time_text
from finetune.experiments.tune.config import rungs_of
from finetune.experiments.tune.data import scored_on_validation
from finetune.experiments.tune.trials import (
    DIVERGED_FILE,
    TRIAL_FILES,
    Outcome,
    Run,
    Setting,
    Trial,
    outcome_of,
    runs_of,
    score_of,
    settings_of,
    shown_score,
    trial_config,
    unit_of,
)
from finetune.runs.config_file import FREE_KEYS, settle_config
from finetune.runs.folder import write_json
from finetune.training.config import to_dict
from finetune.training.optimization.distributed import World

SCORED_ON = "scored_on_validation_part"  # in a trial's run.json: its scores are of no test image
Key = tuple[str, Setting, int]  # arm, setting, epochs


@dataclass
class Search:
    """A search under way: what it trains, and the outcomes of the trials that are finished.

    Args:
        experiment: the images without their test part, and the search's configuration.
        arms: each is tried with the same settings.
        folder: the search's own.
    """

    experiment: Experiment
    arms: Sequence[Arm]
    folder: Path
    outcomes: dict[Key, Outcome] = field(default_factory=dict)
    stopped: str = ""  # why something of the plan was not begun
    _seconds: list[tuple[int, float]] = field(default_factory=list)  # epochs and seconds of the runs of now

    @property
    def settings(self) -> list[Setting]:
        """What every arm is tried with, the configuration's own first."""
        return settings_of(self.experiment.config.search, self.experiment.config.train)

    @property
    def rungs(self) -> list[int]:
        """The numbers of epochs, ascending."""
        return rungs_of(self.experiment.config.search, self.experiment.config.train)

    def run(self) -> None:
        """Train and score every trial that is not finished, until the plan or the budget ends."""
        for rung in range(len(self.rungs)):
            if not self._run_rung(rung):
                return

    def planned(self, rung: int) -> list[Trial]:
        """Return the trials of a number of epochs: all settings, or those of each arm that go on.

        Settings come before arms, so that a search that is stopped has tried the same with every arm.
        """
        kept = {arm.name: self._kept(arm, rung) for arm in self.arms}
        most = max(len(settings) for settings in kept.values())
        return [
            Trial(arm, kept[arm.name][place], self.rungs[rung])
            for place in range(most)
            for arm in self.arms
            if place < len(kept[arm.name])
        ]

    def comparable(self) -> dict[Key, Outcome]:
        """Return the outcomes that may choose: a setting counts once every arm was tried with it.

        Of halving's later rounds a whole round counts, or nothing of it, for every arm keeps other settings.
        """
        found: dict[Key, Outcome] = {}
        for rung, epochs in enumerate(self.rungs):
            halved = rung > 0 and self.experiment.config.search.method == "halving"
            plan = self.planned(rung)
            here = self.outcomes.keys()
            missing = {one.setting for one in plan if (one.arm.name, one.setting, epochs) not in here}
            if missing and halved:
                break
            keys = [(trial.arm.name, trial.setting, epochs) for trial in plan]
            found |= {key: self.outcomes[key] for key in keys if key[1] not in missing}
        return found

    def best(self, arm: Arm) -> Key | None:
        """Return the trial of an arm with the highest score; of equal ones the shortest, then the first."""
        own = {key: one for key, one in self.comparable().items() if key[0] == arm.name and _scored(one)}
        return max(own, key=lambda key: (_order(own[key]), -key[2]), default=None)

    def _kept(self, arm: Arm, rung: int) -> list[Setting]:
        settings = self.settings
        if self.experiment.config.search.method == "grid":
            return settings
        for epochs in self.rungs[:rung]:
            scores = {one: self.outcomes.get((arm.name, one, epochs)) for one in settings}
            ranked = sorted(settings, key=lambda one: -_order(scores[one]))
            settings = ranked[: math.ceil(len(ranked) / self.experiment.config.search.keep)]
        return settings

    def _run_rung(self, rung: int) -> bool:
        plan = self.planned(rung)
        runs = [run for trial in plan for run in runs_of(trial, self.experiment.config.search, self.folder)]
        left = [run for run in runs if not self._is_done(run)]
        epochs = self.rungs[rung]
        done = f", {len(runs) - len(left)} finished already" if len(left) < len(runs) else ""
        say(f"{len(plan)} trials of {epochs} epochs, {len(runs)} trainings{done}")
        for number, run in enumerate(left, 1):
            if self._is_over_budget(run):
                break
            remaining = sum(self._expected(one) for one in left[number - 1 :]) if self._seconds else 0.0
            more = f" (about {time_text(remaining)} left at {epochs} epochs)" if remaining else ""
            say(f"training {number} of {len(left)}: {self._told(run)}{more}")
            self._train(run)
        self._collect(plan)
        return not self.stopped

    def collect(self) -> None:
        """Count the finished trials of every round, as after an interruption."""
        for rung in range(len(self.rungs)):
            self._collect(self.planned(rung))

    def _collect(self, plan: Sequence[Trial]) -> None:
        for trial in plan:
            outcome = self._outcome(trial)
            if outcome is not None:
                self.outcomes[trial.arm.name, trial.setting, trial.epochs] = outcome

    def _told(self, run: Run) -> str:
        search, more = self.experiment.config.search, ""
        more += f", seed {run.seed}" if search.seeds > 1 else ""
        more += f", part {run.part}" if search.parts > 1 else ""
        return f"{run.trial.arm.name}, {run.trial.setting.told(run.trial.epochs)}{more}"

    def _is_over_budget(self, run: Run) -> bool:
        minutes = self.experiment.config.search.minutes
        if not minutes:
            return False
        files = self.folder.glob(f"trials/*/*/*/{RECORD_FILE}")
        spent = sum(RunRecord.read(file).minutes or 0.0 for file in files)
        if spent + self._expected(run) / 60 <= minutes:
            return False
        limit = f"search.minutes {minutes:g}"
        self.stopped = f"{limit}: {spent:.1f} minutes were trained, and nothing new is begun"
        say(f"note: {self.stopped}")
        return True

    def _expected(self, run: Run) -> float:
        """Return how many seconds a run should take by those before it; 0 where there were none."""
        epochs, seconds = (sum(values) for values in zip((0, 0.0), *self._seconds, strict=True))
        return run.trial.epochs * seconds / epochs if epochs else 0.0

    def _own(self, run: Run) -> Experiment:
        experiment = self.experiment
        return replace(experiment, config=trial_config(experiment.task, experiment.config, run))

    def _is_done(self, run: Run) -> bool:
        own, split = self._own(run), self._split(run)
        ends = ((RECORD_FILE, DIVERGED_FILE), TRIAL_FILES)
        return any(is_finished(own, split, run.folder, files) for files in ends)

    def _split(self, run: Run) -> Split:
        return scored_on_validation(self.experiment.splits.splits[run.part])

    def _train(self, run: Run) -> None:
        own = self._own(run)
        with claimed(run.folder) as is_ours:
            if not is_ours:
                raise UsageError(
                    f"another process is at work on {run.folder}: a search has one process; wait for it"
                )
            start = time.monotonic()
            (run.folder / DIVERGED_FILE).unlink(missing_ok=True)
            try:
                run_split(own, self._split(run), run.folder, World(), keep_table=False, tell=False)
                record = RunRecord.read(run.folder / RECORD_FILE)
            except DivergedError as error:
                say(f"{self._told(run)} diverged, which counts as no score: {error}")
                record = _keep_divergence(own, self._split(run), run.folder, str(error))
            replace(record, extra={**record.extra, SCORED_ON: run.part}).write(run.folder / RECORD_FILE)
            if record.n:
                found = read_predicted(run.folder, record, own.task.form)
                monitor = own.config.train.monitor
                score = shown_score(monitor, score_of(own.task, found, monitor))
                say(f"{monitor} {score:.2f} {unit_of(monitor)} on {record.n} validation images")
            seconds = max(time.monotonic() - start, 60 * (record.minutes or 0.0))
            self._seconds.append((run.trial.epochs, seconds))
            _drop_weights(run.folder)

    def _outcome(self, trial: Trial) -> Outcome | None:
        task, config = self.experiment.task, self.experiment.config
        runs = runs_of(trial, config.search, self.folder)
        if not all(self._is_done(run) for run in runs):
            return None
        if any((run.folder / DIVERGED_FILE).is_file() for run in runs):
            return Outcome(None)
        results = [Result.load(run.folder, task.form) for run in runs]
        minutes = sum(one.record.minutes or 0.0 for one in results)
        return outcome_of(task, [one.predictions for one in results], config.train.monitor, minutes)


def _keep_divergence(experiment: Experiment, split: Split, folder: Path, why: str) -> RunRecord:
    """Write which training diverged, of what data, so that it is not tried again; return its record."""
    task = experiment.task
    settle_config(
        folder, to_dict(plain(task, task.part_config(experiment.config, split), folder)), (), FREE_KEYS
    )
    write_json(folder / DIVERGED_FILE, {"why": why})
    names = list(experiment.data.manifest.class_names)
    told = {"kind": experiment.task.form.kinds[0], "class_names": names, "minutes": 0.0}
    return RunRecord.from_dict({**told, **experiment.identity})


def _scored(outcome: Outcome | None) -> bool:
    return outcome is not None and outcome.score is not None


def _order(outcome: Outcome | None) -> float:
    """Return what is ranked by: the score; nothing is below a trial that diverged or is not finished."""
    return -math.inf if outcome is None or outcome.score is None else outcome.score


def _drop_weights(folder: Path) -> None:
    """Leave of a trial its settings, epochs and predictions: weights would fill the disk."""
    shutil.rmtree(folder / "checkpoints", ignore_errors=True)
    for file in (folder / MODEL_FILE, *folder.glob("model-*.safetensors")):
        file.unlink(missing_ok=True)
