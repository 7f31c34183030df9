"""Errors that a user can fix: each says what, where and how, and carries the exit code of its kind."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any


class CrlError(Exception):
    """An expected failure: the command line prints its message and exits with its code.

    `result` is the JSON object that `--json` prints although the command failed (a prediction's counts, a
    doctor's findings); None for none.
    """

    exit_code = 1
    result: Mapping[str, Any] | None = None


class UsageError(CrlError):
    """A command, an option or a configuration that is invalid (exit code 2)."""

    exit_code = 2


class DataError(CrlError):
    """Files, labels or splits that cannot be used as they are (exit code 3)."""

    exit_code = 3


class DivergedError(DataError):
    """A training whose loss or weights are no longer finite: these settings, or these data, do not train."""


class ModelFileError(CrlError):
    """A checkpoint or weights file that is damaged, unsafe or of another model (exit code 4)."""

    exit_code = 4


class ResourceError(CrlError):
    """Memory, disk space or a device that is missing, or a place that cannot be written (exit code 5)."""

    exit_code = 5


class InterruptedRunError(CrlError):
    """A run that was asked to stop and saved itself first (exit code 130)."""

    exit_code = 130


def joined(faults: Sequence[CrlError]) -> CrlError:
    """Return one error that says everything, with the exit code of the first fault.

    >>> str(joined([UsageError("no place"), DataError("no data")]))
    'no place\\nno data'
    """
    return type(faults[0])("\n".join(str(fault) for fault in faults))


def listing(items: list[str], limit: int = 10) -> str:
    """Return `items` one per indented line, the rest past `limit` as a count.

    >>> print(listing(["a", "b", "c"], limit=2))
      a
      b
      ... and 1 more
    """
    lines = [f"  {item}" for item in items[:limit]]
    if len(items) > limit:
        lines.append(f"  ... and {len(items) - limit} more")
    return "\n".join(lines)
