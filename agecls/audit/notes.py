"""What is printed with every age audit, and the words that no audit may use."""

from __future__ import annotations

import re
from collections.abc import Sequence

from finetune.errors import UsageError
from finetune.metrics.intervals import fewest_without_failure, highest_rate

NOTES_OF = "November 2026"
NOTES = (
    f"Engineering notes of {NOTES_OF}. They are no legal advice.",
    "The models are no age assurance system, and nothing here checks that a living person is before the "
    "camera.",
    "The audit is no certificate. It says what these answers were on these images.",
    "Accuracy, robustness, reliability and fairness are the criteria that ISO/IEC 27566-1 and IEEE 2089.1 "
    "name. No conformity with either is claimed.",
)
MACHINE_LABELS = (
    "UTKFace's ages are partly estimated by a machine. Rates on it are agreement with its labels, not with "
    "ages."
)
SHOWN_RATE = 1.0  # percent: the rate that the tool says how many people it takes to show
_REFUSED = re.compile(r"\b(passes|passed|certified|certifies|certify)\b", re.IGNORECASE)


def check_words(text: str) -> None:
    """Raise UsageError for a text that says a system passes or is certified: an audit shows neither.

    >>> check_words("our system, fold 0")
    """
    if found := _REFUSED.search(text):
        raise UsageError(
            f"{text!r}: an audit measures, so {found[0]!r} is refused as a word for its result; name the "
            "system alone"
        )


def notes_for(names: Sequence[str]) -> list[str]:
    """Return the statements for an audit of files with these names; UTKFace's labels have one of their own.

    >>> len(notes_for(["faces.csv"])), len(notes_for(["utk4k.csv"]))
    (4, 5)
    """
    machine = any("utk" in name.lower() for name in names)
    return [*NOTES, *([MACHINE_LABELS] if machine else [])]


def what_n_shows(failures: int, count: int, unit: str) -> str:
    """Return what so many units (people or images), of whom some failed at least once, can show.

    >>> what_n_shows(0, 68, "people").split(".")[0]
    'None of 68 people failed, which bounds the rate at 4'
    """
    needed = fewest_without_failure(SHOWN_RATE)
    if not count:
        return f"There are no {unit} to show anything. To show a rate of {SHOWN_RATE:g} % takes {needed}."
    bound = highest_rate(failures, count)
    told = f"None of {count} {unit} failed" if not failures else f"{failures} of {count} {unit} failed"
    start = f"{told}, which bounds the rate at {bound:.1f} % (one-sided 95 %)."
    if bound <= SHOWN_RATE:
        return f"{start} That is {SHOWN_RATE:g} % or less."
    return (
        f"{start} That does not show {SHOWN_RATE:g} % or less: without any failure it takes {needed} {unit}."
    )
