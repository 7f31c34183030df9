"""`crl predict --groups`: answers of models whose classes are fine, read as coarser classes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np

from apps.predict.predict import Answer
from finetune.cli.console import say
from finetune.errors import UsageError
from finetune.experiments.exported.lookup import file_task

if TYPE_CHECKING:
    from apps.runtime.session import OnnxClassifier

NOTHING_LEFT = "all of its probability lies outside the groups (--groups)"


@dataclass(frozen=True, eq=False)
class Reading:
    """Which of a model's classes belong to which of the classes that were asked for.

    Args:
        names: the G classes asked for.
        matrix: (K, G) of 0 and 1; a class of the model may belong to none.
    """

    names: tuple[str, ...]
    matrix: np.ndarray

    def read(self, answer: Answer) -> Answer:
        """Return the answer by the classes asked for: sums, divided by what they hold together."""
        if answer.probs is None:
            return answer
        sums = answer.probs @ self.matrix
        if not sums.sum() > 0:
            return replace(answer, status="bad", reason=NOTHING_LEFT, model=None, class_names=(), probs=None)
        probs = sums / sums.sum()
        return replace(answer, class_names=self.names, probs=probs, inside=None, read_from=answer)


def readings_of(models: Sequence[OnnxClassifier], groups: str) -> list[Reading]:
    """Return how each model's answers are read as `groups`, and say so.

    Raises UsageError, naming the model, where its classes cannot be read as them.
    """
    found = []
    for model in models:
        task = file_task(model.facts.task)
        try:
            if task is None:
                raise UsageError(f"the task {model.facts.task!r} is not installed")
            names, matrix = task.read_as(model.class_names, groups)
        except UsageError as error:
            raise UsageError(f"--groups {groups}: {model.path}: {error}") from None
        found.append(Reading(tuple(names), matrix))
    outside = any((one.matrix.sum(axis=1) == 0).any() for one in found)
    left = "; classes between them are left out, and the rest is divided by its sum" if outside else ""
    say(f"read as {', '.join(found[0].names)}: probabilities are summed up{left}")
    return found
