"""What needs classes with an order: heads, losses and soft targets that read it, and where classes lie."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from itertools import pairwise
from typing import TYPE_CHECKING, Any

from finetune.errors import UsageError
from finetune.models.heads.registry import head_class, head_options
from finetune.training.config import FitConfig, HeadConfig
from finetune.training.loss_choice import HARD, order_faults

if TYPE_CHECKING:
    from finetune.experiments.task import Task

EDGES = "edges"  # the option of heads on a scale: where one class ends and the next begins


def check_order(task: Task, config: FitConfig) -> None:
    """Raise UsageError where a configuration reads the order of classes that have none.

    Also for soft targets under a head that gives one class its margin.
    """
    found = order_faults(config.head.name, config.loss)
    if found and not task.ordered:
        raise UsageError(
            f"only for classes with an order: {' and '.join(found)}; those of this task ({task.title}) have "
            "none: choose another"
        )
    if config.loss.targets != HARD and head_class(config.head.name).needs_classes:
        raise UsageError(
            f"soft targets ({config.loss.targets}) name no one class for the margin of the "
            f"{config.head.name} head: give --loss.targets hard, or another head"
        )


def class_places(task: Task, class_names: Sequence[str]) -> tuple[float, ...] | None:
    """Return where each class lies on its task's scale: the middle of its bounds; None without a scale."""
    bounds = task.class_bounds(class_names)
    return None if bounds is None else tuple((lower + upper) / 2 for lower, upper in bounds)


def with_edges(task: Task, head: HeadConfig, class_names: Sequence[str]) -> HeadConfig:
    """Return a head with the edges between its classes, where it is one that has them.

    An edge lies half way between a class's upper bound and the next one's lower. Raises UsageError for
    classes that lie on no scale, and for given edges that are those of other classes.
    """
    if EDGES not in head_options(head.name):
        return head
    bounds = task.class_bounds(class_names)
    if bounds is None:
        raise UsageError(
            f"the {head.name} head needs classes that are parts of a scale, such as ages in years, and "
            f"{task.title} have none: choose another head"
        )
    edges = [(below[1] + above[0]) / 2 for below, above in pairwise(bounds)]
    told = ",".join(f"{edge:g}" for edge in edges)
    if head.options.get(EDGES, "") not in ("", told):
        raise UsageError(
            f"head.options.edges {head.options[EDGES]} are not those of these classes, {told}: leave them out"
        )
    options: dict[str, Any] = {**head.options, EDGES: told}
    return replace(head, options=options)
