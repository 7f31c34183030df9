"""A study's folder: whether it may be used, who holds it or a cell of it, and what it says of itself."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import fields
from pathlib import Path
from typing import Any, Literal, Protocol

from finetune.errors import CrlError, UsageError
from finetune.experiments.config import ComparisonConfig, OwnRates
from finetune.runs.config_file import CONFIG_NAME, FREE_KEYS
from finetune.runs.folder import RunFolder, check_content
from finetune.runs.lock import LOCK_NAME, FolderLock

CHOICE_FILE = "precision.json"  # what run.precision auto came to, for all runs in the folder
# What of a study's configuration says which cells there are: it may change while the folder stays.
CELL_KEYS = tuple(item.name for part in (ComparisonConfig, OwnRates) for item in fields(part))


class RunPlace(Protocol):
    """The part of a configuration that says where a run goes and how it goes on."""

    @property
    def dir(self) -> str:
        """The folder."""

    @property
    def resume(self) -> Literal["never", "auto"]:
        """Go on with what is in the folder, or not."""

    @property
    def allow_change(self) -> tuple[str, ...]:
        """Dotted keys whose value may differ."""


def check_place(run: RunPlace, what: str = "a study") -> None:
    """Raise UsageError, before any work, under torchrun and where the results of `what` cannot go."""
    if os.environ.get("WORLD_SIZE", "1") != "1":
        several = (
            " On several devices, start the same command once for each with its own --device and "
            "--run.resume auto: they share the cells"
        )
        more = several if what == "a study" else ""
        raise UsageError(f"{what} trains each model in one process: start it without torchrun.{more}")
    if not run.dir:
        raise UsageError("no place for the results: give --run.dir FOLDER")
    check_content(Path(run.dir), run.resume)


def claim_study(
    folder: Path,
    content: Mapping[str, Any],
    run: RunPlace,
    free_keys: Sequence[str] = FREE_KEYS,
) -> None:
    """Make or reopen the study's folder under the rules of run folders, and write its configuration.

    Which cells there are may change (more seeds, other losses), nothing else but the free keys and what
    `run.allow_change` names. Every cell holds its own lock while it is trained, so the folder is let go of.

    Args:
        folder: the study's.
        content: the resolved configuration; what of it belongs to one call alone (`run.resume`,
            `run.allow_change`) is written as nothing.
        run: whether to resume, and what may change.
        free_keys: dotted keys that can never change a result.
    """
    section = {**content["run"], "resume": "never", "allow_change": []}
    with RunFolder.open(
        folder,
        {**content, "run": section},
        resume=run.resume,
        allow_change=(*run.allow_change, *CELL_KEYS),
        free_keys=free_keys,
        wait_seconds=60,
    ):
        pass


@contextmanager
def no_claim_left(folder: Path, parts: str = "cells") -> Iterator[None]:
    """Let go of a folder of several runs when the `with` fails before any of them did anything.

    So the corrected command may use it: a misspelt device or missing weights cost nobody a folder. The runs
    lie in the folders of the pattern `parts`: "cells" of a study, "fold*" of a cross-validation.
    """
    try:
        yield
    except CrlError:
        begun = [part for part in folder.glob(parts) if part.is_dir()]
        names = {file.name for file in folder.rglob("*") if not file.is_dir()}
        if names <= {CONFIG_NAME, LOCK_NAME, CHOICE_FILE} and not any(
            any(part.rglob(CONFIG_NAME)) for part in begun
        ):
            for part in begun:
                shutil.rmtree(part, ignore_errors=True)
            for name in (CONFIG_NAME, CHOICE_FILE):
                (folder / name).unlink(missing_ok=True)
        raise


@contextmanager
def claimed(cell: Path) -> Iterator[bool]:
    """Hold a cell while the context is open; gives False where another process holds it.

    The lock lies beside the cell's folder, which the run itself locks.
    """
    place = cell.parent / f".{cell.name}"
    place.mkdir(parents=True, exist_ok=True)
    try:
        lock = FolderLock(place)
    except UsageError:
        yield False
        return
    try:
        yield True
    finally:
        lock.release()
