"""Loggers as another package would bring them, by entry points that are only said to be installed."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from importlib import metadata
from pathlib import Path
from typing import Any, ClassVar

import pytest

from finetune.training.loggers import ENTRY_POINTS, RunFacts


class Toy:
    """Keeps what it hears, of all runs of a test, and what lay in the run folder at each row."""

    heard: ClassVar[list[tuple[str, Any]]] = []
    lay_there: ClassVar[list[list[str]]] = []

    def begin(self, facts: RunFacts) -> None:
        """Keep the facts."""
        self.folder = facts.folder
        self.heard.append(("begin", facts))

    def row(self, row: Mapping[str, Any]) -> None:
        """Keep the row."""
        self.heard.append(("row", row))
        files = (file for file in self.folder.rglob("*") if file.is_file())
        self.lay_there.append(sorted(str(file.relative_to(self.folder)) for file in files))

    def end(self, scores: Mapping[str, Any], files: Sequence[Path]) -> None:
        """Keep scores and files."""
        self.heard.append(("end", (scores, files)))


class Other(Toy):
    """Hears nothing that counts."""

    heard: ClassVar[list[tuple[str, Any]]] = []
    lay_there: ClassVar[list[list[str]]] = []


class Crashing:
    """Fails in every call; in `row` it asks the whole process to leave."""

    calls: ClassVar[list[str]] = []

    def begin(self, facts: RunFacts) -> None:
        """Begin well."""
        self.calls.append("begin")

    def row(self, row: Mapping[str, Any]) -> None:
        """Ask to leave."""
        self.calls.append("row")
        raise SystemExit(9)

    def end(self, scores: Mapping[str, Any], files: Sequence[Path]) -> None:
        """Never come so far."""
        self.calls.append("end")


class Unmade:
    """Cannot even be made."""

    def __init__(self) -> None:
        raise ImportError("no module of its own")


def install(monkeypatch: pytest.MonkeyPatch) -> type[Toy]:
    """Let the loggers of this file seem installed: toy, other, crashing, unmade. Return the toy, emptied."""
    names = {"toy": Toy, "other": Other, "crashing": Crashing, "unmade": Unmade}
    own = metadata.EntryPoints(
        metadata.EntryPoint(name, f"{__name__}:{found.__name__}", ENTRY_POINTS)
        for name, found in names.items()
    )
    real = metadata.entry_points

    def entry_points(**asked: Any) -> metadata.EntryPoints:
        return own.select(**asked) if asked.get("group") == ENTRY_POINTS else real(**asked)

    monkeypatch.setattr(metadata, "entry_points", entry_points)
    for kept in (Toy.heard, Toy.lay_there, Other.heard, Other.lay_there, Crashing.calls):
        kept.clear()
    return Toy


def told(toy: type[Toy], kind: str) -> list[Any]:
    """Return what a toy heard in calls of this kind."""
    return [what for name, what in toy.heard if name == kind]
