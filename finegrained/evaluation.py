"""What `evaluate` adds for categories: the scores in one line, and the classes of lowest accuracy."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from finetune.cli.console import say, table

# How many of the classes with the lowest accuracy are printed.
WORST = 5


def tell_evaluation(summary: Mapping[str, Any]) -> None:
    """Print the scores and the classes of lowest accuracy."""
    interval = summary["top1_interval"]
    level = f"{100 * interval['level']:.0f} % {interval['method'].split()[0]}"
    top5 = "" if summary["top5"] is None else f", top-5 {summary['top5']:.2f} %"
    say(
        f"{summary['data']} ({summary['test_crops']} crops, {summary['weights']} weights): top-1 "
        f"{summary['top1']:.2f} % ({level} interval {interval['low']:.1f} to {interval['high']:.1f})"
        f"{top5}, mean over classes {summary['balanced_accuracy']:.2f} %, of "
        f"{summary['n']} images"
    )
    tested = sorted((row for row in summary["per_class"] if row["n"]), key=lambda row: row["accuracy"])
    rows = [
        [row["name"], row["n"], f"{row['accuracy']:.1f}", row["taken_for"] or "-"] for row in tested[:WORST]
    ]
    table("lowest accuracy", ["class", "images", "top-1 %", "most often predicted as"], rows)
