"""The installed tasks: their names, one by name, and the one that a run belongs to.

Tasks are found by entry points of installed packages in the group "crl_toolkit.tasks": a name and a `Task`.
"""

from __future__ import annotations

from functools import cache
from importlib import metadata
from pathlib import Path

from finetune.errors import DataError, UsageError
from finetune.experiments.records.record import RECORD_FILE, RunRecord
from finetune.experiments.result import Result, check_result_files
from finetune.experiments.task import Task

ENTRY_POINTS = "crl_toolkit.tasks"


@cache
def _entry_points() -> dict[str, metadata.EntryPoint]:
    return {point.name: point for point in metadata.entry_points(group=ENTRY_POINTS)}


def task_names() -> list[str]:
    """Return the names of the installed tasks, sorted; no task is imported."""
    return sorted(_entry_points())


def load_task(name: str) -> Task:
    """Return an installed task; UsageError lists those there are."""
    if name not in _entry_points():
        raise UsageError(
            f"no task is called {name!r}; there is {', '.join(task_names()) or 'none'} (crl doctor shows why "
            "one may be missing)"
        )
    found: Task = _entry_points()[name].load()
    return found


def find_task(kind: str) -> Task | None:
    """Return the installed task whose runs are of this kind; None where no task has such runs."""
    return next((task for task in map(load_task, task_names()) if kind in task.form.kinds), None)


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
