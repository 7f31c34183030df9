"""What a user may choose about an age audit."""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from typing import Literal

from agecls.audit.notes import check_words
from agecls.config import AgeDataConfig
from finetune.errors import UsageError

_RANGE = re.compile(r"(\d{1,3})-(\d{1,3})")
Decoding = Literal["expected", "median", "midpoint"]


@dataclass(frozen=True)
class AuditConfig:
    """Predicted ages against true ones at a legal age: error rates, what they can show, curves and figures.

    Args:
        data: the table that an exported model is shown, and what the columns of a CSV are called.
        legal: the legal age in years.
        challenge: the challenge ages, lowest-highest: who appears younger is asked for a document.
        headline: the challenge age of tables and figures that show one.
        decode: the age that probabilities give: expected, median, or midpoint (the expected middle of age
            groups, which is coarse: it must be asked for).
        open_age: the age that stands for an open last group (60+), for midpoint.
        predicted_column: the column of predicted ages of a CSV.
        probability_prefix: a CSV may hold probabilities instead: columns of this prefix and an age in years.
        name: what the audited system is called; null names it after its file.
        cross: a CSV with columns trained_on, tested_on, answers (and table for models): the matrix of mean
            errors over data sets.
        robustness: images for the changes of crop, angle, size, JPEG quality and position; models alone; 0
            leaves this out.
        identity_leak: measure whether the outputs tell one person from another (needs subjects).
        resamples: bootstrap resamples.
        permutations: shuffles of the labels that a gap is compared with.
        seed: of resampling, shuffles and the choice of images.
        out: folder for the audit; null puts it beside the answers.
        batch_size: images at once.
        device: auto, cpu, cuda or cuda:1.
        threads: CPU threads of the runtime; 0 takes every core.
    """

    data: AgeDataConfig = field(default_factory=AgeDataConfig)
    legal: int = 18
    challenge: str = "18-35"
    headline: int = 25
    decode: Decoding = "expected"
    open_age: float = 70.0
    predicted_column: str = "predicted_age"
    probability_prefix: str = "prob_"
    name: str | None = None
    cross: str | None = None
    robustness: int = 100
    identity_leak: bool = False
    resamples: int = 2000
    permutations: int = 1000
    seed: int = 0
    out: str | None = None
    batch_size: int = 64
    device: str = "auto"
    threads: int = 0

    def __post_init__(self) -> None:
        found = _RANGE.fullmatch(self.challenge.strip())
        if found is None or int(found[1]) > int(found[2]):
            raise UsageError(
                f'--challenge {self.challenge!r} must be "lowest-highest" in years, such as 18-35'
            )
        if self.headline not in self.ages:
            raise UsageError(f"--headline {self.headline} is not among --challenge {self.challenge}")
        if self.legal < 5:
            raise UsageError(f"--legal {self.legal}: a legal age is 5 or more (the audit looks 4 years down)")
        if self.resamples < 1 or self.permutations < 1 or self.robustness < 0:
            raise UsageError("--resamples and --permutations must be 1 or more, --robustness 0 or more")
        if self.name is not None:
            check_words(self.name)

    @property
    def ages(self) -> tuple[int, ...]:
        """The challenge ages, ascending."""
        low, high = map(int, self.challenge.strip().split("-"))
        return tuple(range(low, high + 1))
