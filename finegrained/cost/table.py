"""What heads cost, as rows for a terminal and as a Markdown page."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from statistics import median

from finetune.cli.command import command_line
from finetune.figures import markdown

NAMES = 2  # the first columns hold words, the others numbers


@dataclass(frozen=True)
class Rate:
    """Images a second: of the median step, and of the slowest and the fastest, between which all lay."""

    median: float
    slowest: float
    fastest: float

    @classmethod
    def of(cls, count: int, seconds: Sequence[float]) -> Rate:
        """Return the speed of steps of `count` images that took so many seconds."""
        return cls(count / median(seconds), count / max(seconds), count / min(seconds))

    def __str__(self) -> str:
        return f"{self.median:.1f} ({self.slowest:.1f} to {self.fastest:.1f})"


@dataclass(frozen=True)
class Cost:
    """What one head costs on one backbone; None where it was not measured or the head was refused.

    Args:
        backbone: its name.
        head: as it was asked for, with its options.
        backbone_parameters: of the layers that stay for this head.
        head_parameters: of the head, helpers for training among them.
        head_parameters_at_test: of these, what the prediction depends on.
        macs: multiply-adds of one image's prediction.
        head_macs: of these, the head's.
        training_bytes: tensors alive at once in a step of training in float32, as counted by `step_bytes`.
        peak_bytes: what a GPU's allocator counted in real steps, in the format that was trained in.
        inference: images a second, float32.
        training: images a second; an image that is shown in two versions counts once.
        note: why something is missing, or "".
    """

    backbone: str
    head: str
    backbone_parameters: int | None = None
    head_parameters: int | None = None
    head_parameters_at_test: int | None = None
    macs: int | None = None
    head_macs: int | None = None
    training_bytes: int | None = None
    peak_bytes: int | None = None
    inference: Rate | None = None
    training: Rate | None = None
    note: str = ""


def cells(found: Sequence[Cost]) -> tuple[list[str], list[list[str]]]:
    """Return a table's header and rows, without the columns that nothing was measured for."""
    columns = {
        "backbone": [cost.backbone for cost in found],
        "head": [cost.head for cost in found],
        "backbone, M": [_millions(cost.backbone_parameters) for cost in found],
        "head, M": [_millions(cost.head_parameters) for cost in found],
        "head at test, M": [_millions(cost.head_parameters_at_test) for cost in found],
        "GMACs": [_scaled(cost.macs, 1e9, 2) for cost in found],
        "head's GMACs": [_scaled(cost.head_macs, 1e9, 3) for cost in found],
        "training MB": [_scaled(cost.training_bytes, 1e6, 0) for cost in found],
    }
    if any(cost.inference for cost in found):
        columns["inference img/s"] = [str(cost.inference or markdown.NOT_MEASURED) for cost in found]
        columns["training img/s"] = [str(cost.training or markdown.NOT_MEASURED) for cost in found]
    if any(cost.peak_bytes for cost in found):
        columns["GPU peak MB"] = [_scaled(cost.peak_bytes, 1e6, 0) for cost in found]
    return list(columns), [list(row) for row in zip(*columns.values(), strict=True)]


def for_terminal(found: Sequence[Cost]) -> tuple[list[str], list[list[str]]]:
    """Return header and rows with their numbers set flush right."""
    header, rows = cells(found)
    widths = [max(map(len, column)) for column in zip(header, *rows, strict=True)]
    lines = [
        [cell.ljust(width) if at < NAMES else cell.rjust(width) for at, (cell, width) in enumerate(pairs)]
        for pairs in (list(zip(line, widths, strict=True)) for line in (header, *rows))
    ]
    return lines[0], lines[1:]


def notes(found: Sequence[Cost]) -> list[str]:
    """Return one line for every row that misses something."""
    return [f"{cost.head} on {cost.backbone}: {cost.note}" for cost in found if cost.note]


def page(found: Sequence[Cost], conditions: str) -> str:
    """Return the table as a Markdown page, with the command that made it."""
    header, rows = cells(found)
    named = [[markdown.code(cell) if at < NAMES else cell for at, cell in enumerate(row)] for row in rows]
    parts = [
        "# What heads cost",
        f"```\n{command_line()}\n```",
        conditions,
        markdown.table(header, named, numbers_from=NAMES),
        "\n".join(f"- {markdown.escape(line)}" for line in notes(found)),
    ]
    return "\n\n".join(part for part in parts if part) + "\n"


def _millions(count: int | None) -> str:
    return _scaled(count, 1e6, 3)


def _scaled(value: float | None, unit: float, digits: int) -> str:
    return markdown.number(None if value is None else value / unit, digits)
