"""What a table may say of people: columns that results are sliced by, and what no model learns to name.

Ethnicity and race are labels of the slices of a result, never a target. Every reader of a table asks here.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from pathlib import Path

from finetune.errors import UsageError

SLICE = "slice_"  # begins the columns of manifests and predictions that slice results
_WORDS = re.compile(r"[A-Z]?[a-z]+|[A-Z]+(?![a-z])")
_TARGETS = frozenset({"race", "races", "racial", "ethnicity", "ethnicities", "ethnic", "ethnie", "ethnics"})
_COLOURS = frozenset({"white", "black"})
# Names that mean people wherever they stand in a list of classes, and names that may mean animals or dishes.
_SURE = frozenset(
    ("caucasian", "hispanic", "latino", "latina", "latinx", "latino hispanic", "hispanic latino", "negroid")
) | {"mongoloid", "caucasoid", "african american", "middle eastern", "east asian", "southeast asian"}
_UNSURE = frozenset(
    ("asian", "indian", "african", "arab", "south asian", "native american", "pacific islander", "european")
)


def slice_names(columns: Iterable[str]) -> list[str]:
    """Return the columns that slice, as manifests and predictions call them, in their order.

    >>> slice_names(["path", "slice_camera", "age"])
    ['slice_camera']
    """
    return [name for name in columns if name.startswith(SLICE)]


def names_ethnicity(column: str) -> bool:
    """Return whether a column's name says that it holds ethnicity or race.

    >>> [names_ethnicity(name) for name in ("race", "EthnicGroup", "face_ethnicity", "trace", "class_name")]
    [True, True, True, False, False]
    """
    return any(word.lower() in _TARGETS for word in _WORDS.findall(column))


def refuse_target(column: str, table: Path) -> None:
    """Raise UsageError for a column of ethnicity or race as what a model learns to name."""
    if names_ethnicity(column):
        raise UsageError(
            f"{table}: the column {column!r} is refused as a target: no model here is trained to name "
            "ethnicity or race. Such labels slice results alone (--data.slice_columns)"
        )


def are_ethnicities(names: Sequence[str]) -> bool:
    """Return whether class names are those of ethnicities or races.

    Two of them at least must be such names, and together mean people: elephants may be African and Asian,
    dishes Indian and Asian, cars white and black.

    >>> are_ethnicities(["White", "Black", "Asian", "Indian"]), are_ethnicities(["race_0", "race_1"])
    (True, True)
    >>> are_ethnicities(["African", "Asian"]), are_ethnicities(["white", "black", "red"])
    (False, False)
    """
    if sum(_says_so(name) for name in names) > 1:
        return True
    plain = {_bare(name) for name in names}
    sure, unsure, colours = plain & _SURE, plain & _UNSURE, plain & _COLOURS
    return len(sure | unsure | colours) > 1 and bool(sure or (colours and unsure))


def refuse_classes(names: Sequence[str]) -> None:
    """Raise UsageError for classes that are ethnicities or races."""
    if are_ethnicities(names):
        raise UsageError(
            f"the classes {', '.join(names[:6])} read as ethnicities or races: they are refused as a target. "
            "Such labels slice results alone (--data.slice_columns of age tables). If these are no people, "
            "write what they are into the names (white rhino)"
        )


def _says_so(name: str) -> bool:
    """Return whether a class name says so alone: race_0, ethnicity: Asian; a race car does not."""
    return re.match(r"(race|ethnicity|ethnic( |_)?group)\s*[_:=-]", name.strip(), re.IGNORECASE) is not None


def _bare(name: str) -> str:
    return " ".join(re.split(r"[\s_/-]+", name.strip().lower()))
