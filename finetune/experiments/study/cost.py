"""What a study's page says of each arm's cost and steps, and of how sure its probabilities are."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from finetune.experiments.study.curve_figures import UNBOUNDED
from finetune.figures.markdown import NOT_MEASURED, escape, number, table
from finetune.metrics.bootstrap import summarise


def temperatures(summary: Mapping[str, Any], found: Mapping[str, Sequence[float]]) -> str | None:
    """Return which temperature each arm's probabilities would need; None where no cell tells one."""
    rows = [
        (row["title"], summarise(found[row["name"]])) for row in summary["arms"] if found.get(row["name"])
    ]
    if not rows:
        return None
    cells = [[escape(title), str(one.n), number(one.mean, 3), number(one.sd, 3)] for title, one in rows]
    note = (
        "Temperature T of softmax(logits / T) that fits the test images best; above 1 the loss is too sure."
    )
    return f"{table(['arm', 'n', 'T, mean', 'sd'], cells)}\n\n{note}"


def cost_table(summary: Mapping[str, Any]) -> str:
    """Return the table of seconds, rates, gradient factors and devices by arm."""
    header = [
        "arm",
        "seconds per training",
        "learning rate times",
        "gradient factor, mean",
        "ratio of sums",
        "device",
    ]
    rows = [
        [
            escape(row["title"]),
            number(row["seconds"], 1),
            number(row["lr_factor"], 3),
            _factor(row["gradient_factor"]),
            _factor(row["gradient_ratio"]),
            escape(", ".join(row["devices"])) or NOT_MEASURED,
        ]
        for row in summary["arms"]
    ]
    note = (
        "Means over seeds. Where several cells trained side by side, a cell's seconds are its share of the "
        "whole. Gradient factor: gradient magnitude on the true logit over cross-entropy's (1 - p), over the "
        "whole training; 1 is cross-entropy's. Where it has no bound, as NLLR's 1 / (1 - p), the ratio of "
        "sums shows more."
    )
    return f"{table(header, rows)}\n\n{note}"


def _factor(value: float | None) -> str:
    if value is None:
        return NOT_MEASURED
    return f"{value:.4g}" if value <= UNBOUNDED else f"over {UNBOUNDED:g}"
