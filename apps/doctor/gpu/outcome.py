"""What a check found: its verdict, its numbers, and what to do."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from apps.export.metadata import without_paths

Status = Literal["ok", "note", "wrong"]
LONGEST = 300  # characters of an error that are told
SEVERITY: tuple[Status, ...] = ("ok", "note", "wrong")


@dataclass(frozen=True)
class Outcome:
    """What one check found.

    Args:
        status: ok; note (it works, and could be better); wrong (a result is, or will be, wrong or lost).
        found: in words.
        numbers: what was measured, as plain values.
        repair: what to do; empty where nothing is to be done.
    """

    status: Status
    found: str
    numbers: Mapping[str, Any] = field(default_factory=dict)
    repair: str = ""


@dataclass
class Findings:
    """What a check collects on its way to an outcome.

    `add` what is right, in words; `fault` what is not, with its remedy. The worst fault decides.
    """

    numbers: dict[str, Any] = field(default_factory=dict)
    told: list[str] = field(default_factory=list)
    faults: list[Outcome] = field(default_factory=list)

    def add(self, told: str, **numbers: Any) -> None:
        """Tell something that is as it should be."""
        self.told.append(told)
        self.numbers |= numbers

    def fault(self, status: Status, found: str, repair: str) -> None:
        """Tell something that is not."""
        self.faults.append(Outcome(status, found, {}, repair))

    def require(self, holds: bool, found: str, repair: str, status: Status = "wrong") -> None:
        """Tell a fault unless something holds."""
        if not holds:
            self.fault(status, found, repair)

    def outcome(self) -> Outcome:
        """Return all of it as one outcome, faults first, each remedy once."""
        worst = sorted(self.faults, key=lambda fault: -SEVERITY.index(fault.status))
        repairs = dict.fromkeys(fault.repair for fault in worst if fault.repair)
        found = "; ".join([*(fault.found for fault in worst), *self.told])
        status = worst[0].status if worst else "ok"
        return Outcome(status, found, self.numbers, "\n".join(repairs))


def error_text(error: BaseException) -> str:
    """Return an error on one line, of a length that can be read."""
    text = " ".join(str(error).split())
    return f"{type(error).__name__}: {text}"[:LONGEST]


def impersonal(value: Any, names: tuple[str, ...] = ()) -> Any:
    """Return plain values without paths, and without these names (of user and machine) in any text.

    >>> impersonal({"found": "ada has /home/ada/a.pth on analytic-engine"}, ("ada", "analytic-engine"))
    {'found': '(name) has a.pth on (name)'}
    """
    known = [re.escape(name) for name in names if len(name) > 1]
    pattern = re.compile(rf"\b(?:{'|'.join(known)})\b") if known else None

    def named(inner: Any) -> Any:
        if isinstance(inner, dict):
            return {key: named(item) for key, item in inner.items()}
        if isinstance(inner, list):
            return [named(item) for item in inner]
        return pattern.sub("(name)", inner) if pattern and isinstance(inner, str) else inner

    return named(without_paths(value))
