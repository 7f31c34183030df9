"""The task of an exported file or of a run to export, by entry point; what is shown where it is absent."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Protocol

from finetune.errors import DataError, UsageError
from finetune.experiments.exported.card import plain_text
from finetune.experiments.exported.model import CardText, ExportedFacts, ModelWords
from finetune.experiments.measures import Measure
from finetune.experiments.records.record import RECORD_FILE, RunRecord
from finetune.experiments.result import Result, check_result_files
from finetune.experiments.task import Task, find_task, load_task, task_names
from finetune.figures.markdown import unescaped

UNKNOWN_SCORE = (Measure("accuracy", "accuracy", frozenset()),)


class FactsOfTask(ExportedFacts, Protocol):
    """Facts that say of which task they are."""

    @property
    def task(self) -> str:
        """What the file calls its task."""


def file_task(kind: str) -> Task | None:
    """Return the installed task whose exported files are of this kind; None where there is none."""
    return next((task for task in map(load_task, task_names()) if task.words.kind == kind), None)


def words_of(kind: str) -> ModelWords:
    """Return by which words models of this kind are shown, plain ones where their task is not installed.

    >>> words_of("weather").tab
    'Weather'
    """
    task = file_task(kind)
    return ModelWords(kind, kind.capitalize().replace("_", " ")) if task is None else task.words


def words_with_tabs() -> list[ModelWords]:
    """Return the words of the installed tasks whose tabs stand in the demo without a model too, in order."""
    found = [load_task(name).words for name in task_names()]
    return [words for words in found if words.missing is not None]


def drawing_words(kinds: Sequence[str]) -> ModelWords:
    """Return the words for models of drawings: of several kinds the first that are not the plain ones."""
    found = [words_of(kind) for kind in kinds]
    return next((words for words in found if words.photographs != ModelWords.photographs), found[0])


def card_text(facts: FactsOfTask) -> CardText:
    """Return what the task of a file writes on its card."""
    task = file_task(facts.task)
    return plain_text(facts, UNKNOWN_SCORE) if task is None else task.card_text(facts)


def model_warnings(facts: FactsOfTask) -> list[str]:
    """Return what speaks against a model, in plain sentences: what its run warned of, then its limits.

    The facts may come from anybody's file.
    """
    told = [
        f"{line[:1].upper()}{line[1:].rstrip('.')}." for line in map(str, facts.card.get("warnings") or ())
    ]
    task = file_task(facts.task)
    return [*told, *map(unescaped, () if task is None else task.model_warnings(facts))]


def evaluated_task(kind: str, file: object) -> Task:
    """Return the task of an exported file that is to be scored; UsageError where it is not installed."""
    task = file_task(kind)
    if task is None:
        kinds = ", ".join(load_task(name).words.kind for name in task_names())
        raise UsageError(
            f"{file} is a model of the task {kind!r}, which is not installed; there are {kinds}. "
            "Install the package that the task came with"
        )
    return task


def exported_task(kind: str) -> Task:
    """Return the task of a run of this kind; UsageError lists the kinds that can be exported.

    Runs of the first release record no kind: one task reads them.
    """
    tasks = [load_task(name) for name in task_names()]
    found = find_task(kind) if kind else next((task for task in tasks if task.form.unnamed), None)
    if found is None:
        kinds = [known for task in tasks for known in task.form.kinds]
        raise UsageError(f"a run of kind {kind!r} cannot be exported; can be: {', '.join(kinds)}")
    return found


def open_result(folder: Path) -> tuple[Task, Result]:
    """Return a finished run of any installed task, and its task.

    Raises what `Result.load` raises, and DataError, listing the kinds there are, for a run of no task.
    """
    check_result_files(folder, "a finished run", "a run's command writes them when it ends")
    kind = RunRecord.read(folder / RECORD_FILE).kind
    task = find_task(kind)
    if task is None:
        kinds = [known for name in task_names() for known in load_task(name).form.kinds]
        raise DataError(
            f'{folder / RECORD_FILE}: its "kind" is {kind!r}; runs that are read are {", ".join(kinds)}'
        )
    return task, Result.load(folder, task.form)
