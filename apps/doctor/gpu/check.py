"""What a check is: a number, a name, and what does it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from apps.doctor.gpu.outcome import Outcome
from apps.doctor.gpu.setup import Setup


@dataclass(frozen=True)
class Check:
    """One check.

    Args:
        number: as docs/gpu.md counts them.
        name: what it looks at.
        run: what does it.
        seconds: that it takes on a GPU of today, as a guess.
        quick: whether --quick does it too.
    """

    number: int
    name: str
    run: Callable[[Setup], Outcome]
    seconds: float
    quick: bool = True
