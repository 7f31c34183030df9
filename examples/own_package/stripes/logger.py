"""A logger outside the toolkit: the rows of a run as a CSV table beside metrics.jsonl."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from finetune.runs.csv_file import csv_text
from finetune.training.loggers import RunFacts


class CsvLogger:
    """Writes metrics.csv whole after each epoch, so that a resumed run has each row once."""

    def begin(self, facts: RunFacts) -> None:
        """Keep the rows of the epochs before."""
        self.file = facts.folder / "metrics.csv"
        self.rows = [dict(row) for row in facts.rows]

    def row(self, row: Mapping[str, Any]) -> None:
        """Write all rows with this one at the end."""
        self.rows = [one for one in self.rows if one["epoch"] != row["epoch"]] + [dict(row)]
        names = list(dict.fromkeys(name for one in self.rows for name in one))
        text = csv_text(names, ([one.get(name) for name in names] for one in self.rows))
        self.file.write_text(text, encoding="utf-8", newline="")

    def end(self, scores: Mapping[str, Any], files: Sequence[Path]) -> None:
        """Leave the table as it is."""
