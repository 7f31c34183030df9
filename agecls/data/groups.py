"""Age groups in age order, Adience's raw age strings, and the published rules that join the two."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType

from finetune.errors import DataError, UsageError

OPEN_YEARS = 30  # how long a last group such as 60+ is taken to be, where its middle counts
TYPO_AGE, TYPO_REPAIRED = "(25, 23)", "(25, 32)"
_RANGE = re.compile(r"\(\s*(\d{1,3})\s*,\s*(\d{1,3})\s*\)")
_GROUP = re.compile(r"(\d{1,3})\s*(?:-\s*(\d{1,3})|(\+))?")
_YEARS = re.compile(r"years:\s*(\d{1,3})\s*-\s*(\d{1,3})\s*(?::\s*(\d{1,2}))?")
_ZEROS = re.compile(r"(?<!\d)0+(?=\d)")
_DASHES = re.compile("[\u2010-\u2015\u2212]")
_OLDER = re.compile(r"(?:morethan|over|>=?)(\d{1,3})|(\d{1,3})(?:andolder|andover)")


@dataclass(frozen=True)
class AgeGroups:
    """Ordered, non-overlapping groups of completed years of age; there may be gaps between them.

    `bounds` holds one (lower, upper) pair per group, both ends included, youngest first; the last upper bound
    may be None, for "and older". Class index 0 is the youngest group: one-off accuracy and every ordinal loss
    rest on that order.

    Raises UsageError when there are fewer than two groups, when a group ends before it begins, or when groups
    overlap or are out of order.

    >>> groups = AgeGroups.parse("0-2, 4-6, 60+")
    >>> groups.names
    ('0-2', '4-6', '60+')
    >>> [groups.index_of(age) for age in (2, 3, 5, 99)]
    [0, None, 1, 2]
    """

    bounds: tuple[tuple[int, int | None], ...]

    def __post_init__(self) -> None:
        if len(self.bounds) < 2:
            raise UsageError(f"age groups: at least two are needed, got {list(self.names)}")
        for lower, upper in self.bounds[:-1]:
            if upper is None:
                raise UsageError(f"age groups: only the last may be open, got '{lower}+' before the end")
        for (lower, upper), name in zip(self.bounds, self.names, strict=True):
            if lower < 0 or (upper is not None and upper < lower):
                raise UsageError(f"age groups: {name!r} must run from a lower age >= 0 to a higher one")
        for before, after in zip(self.bounds, self.bounds[1:], strict=False):
            if before[1] is not None and after[0] <= before[1]:
                raise UsageError(
                    f"age groups must go from young to old without overlap, got {', '.join(self.names)}"
                )

    @classmethod
    def parse(cls, text: str) -> AgeGroups:
        """Read groups such as "0-2,4-6,60+", single years such as "0,1,2+", or "years:0-100".

        "years:0-100" is one class a year, the last one open (100+); "years:0-100:5" makes
        classes of five years. UsageError names the piece that is no group.

        >>> len(AgeGroups.parse("years:0-101")), AgeGroups.parse("years:0-15:5").names
        (102, ('0-4', '5-9', '10-14', '15+'))
        """
        if text.strip().startswith("years"):
            return cls(_years(text))
        bounds: list[tuple[int, int | None]] = []
        for piece in text.split(","):
            match = _GROUP.fullmatch(piece.strip())
            if match is None:
                raise UsageError(
                    f'age groups: {piece.strip()!r} is no group; write "low-high" or, last, "low+", '
                    'for example "0-2,4-6,60+", or "years:0-100" for one class a year'
                )
            lower, upper, older = match.groups()
            bounds.append((int(lower), None if older else int(upper or lower)))
        return cls(tuple(bounds))

    @property
    def names(self) -> tuple[str, ...]:
        """Display names in age order: "0-2", "7" for a single year or, for an open group, "60+"."""
        return tuple(_name(lower, upper) for lower, upper in self.bounds)

    def __len__(self) -> int:
        return len(self.bounds)

    def __str__(self) -> str:
        return ",".join(self.names)

    def index_of(self, age: float) -> int | None:
        """Return the class index of an age in years, or None when it falls into a gap.

        Ages count completed years, so 2.9 is still two years old. Raises ValueError for an age that is
        negative or not finite.
        """
        if not math.isfinite(age) or age < 0:
            raise ValueError(f"an age must be a finite number of years >= 0, got {age}")
        years = math.floor(age)
        for index, (lower, upper) in enumerate(self.bounds):
            if lower <= years and (upper is None or years <= upper):
                return index
        return None

    def index_of_name(self, name: str) -> int | None:
        """Return the class index of a group's name, None for no group.

        Dashes of every kind, zeros before a number (03-09) and "more than" are read too.

        >>> groups = AgeGroups.parse("0-2,3-9,70+")
        >>> [groups.index_of_name(name) for name in ("03-09", "3 \u2013 9", "more than 70", "70-100")]
        [1, 1, 2, None]
        """
        text = "".join(_DASHES.sub("-", name.lower()).split())
        older = _OLDER.fullmatch(text)
        text = _ZEROS.sub("", f"{older[1] or older[2]}+" if older else text)
        return self.names.index(text) if text in self.names else None


def _name(lower: int, upper: int | None) -> str:
    if upper is None:
        return f"{lower}+"
    return f"{lower}" if lower == upper else f"{lower}-{upper}"


def _years(text: str) -> tuple[tuple[int, int | None], ...]:
    """Return the bounds that "years:LOW-HIGH:WIDTH" asks for; the last class is open."""
    match = _YEARS.fullmatch(text.strip())
    if match is None:
        raise UsageError(
            f'age groups: {text!r} does not name years; write "years:0-100" for one class a year, or '
            '"years:0-100:5" for classes of five'
        )
    low, high, width = int(match[1]), int(match[2]), int(match[3] or 1)
    if high <= low or width < 1 or (high - low) % width:
        raise UsageError(
            f"age groups: in {text!r} the first year must be below the last, and a width of at least 1 must "
            f"divide the {max(high - low, 0)} years between them"
        )
    return (*((year, year + width - 1) for year in range(low, high, width)), (high, None))


def bounds_in_years(class_names: Sequence[str]) -> tuple[tuple[float, float], ...]:
    """Return the first and last completed year of each class: a group (4-6), an open one (60+) or a year (7).

    An open group is taken to last OPEN_YEARS, one year where all others are years. Raises DataError for a
    name that is neither.

    >>> bounds_in_years(["0-2", "7", "60+"])
    ((0.0, 2.0), (7.0, 7.0), (60.0, 90.0))
    """
    bounds: list[tuple[float, float]] = []
    for name in class_names:
        match = _GROUP.fullmatch(name)
        if match is None:
            raise DataError(f"{name!r} is no age group: names read like 4-6, 60+ or 7")
        lower = float(match[1])
        width = 0 if bounds and all(first == last for first, last in bounds) else OPEN_YEARS
        bounds.append((lower, lower + width if match[3] else float(match[2] or match[1])))
    return tuple(bounds)


ADIENCE_GROUPS = AgeGroups.parse("0-2,4-6,8-12,15-20,25-32,38-43,48-53,60+")

_OFFICIAL = {
    "(0, 2)": 0,
    "(4, 6)": 1,
    "(8, 12)": 2,
    "(15, 20)": 3,
    "(25, 32)": 4,
    "(38, 43)": 5,
    "(48, 53)": 6,
    "(60, 100)": 7,
}
# "8-13" is how several papers print the third group; the files themselves never say it.
_CORE = {**_OFFICIAL, "(8, 13)": 2}
_MIVOLO = {
    "2": 0,
    "3": 0,
    "13": 2,
    "(8, 23)": 2,
    "22": 3,
    "23": 4,
    "29": 4,
    "(27, 32)": 4,
    "32": 4,
    "34": 4,
    "35": 4,
    "36": 5,
    "(38, 42)": 5,
    "(38, 48)": 5,
    "42": 5,
    "45": 5,
    "46": 6,
    "55": 6,
    "56": 6,
    "57": 7,
    "58": 7,
}


@dataclass(frozen=True)
class LabelPolicy:
    """A published rule from Adience's raw age strings to the eight groups.

    `groups` maps a normalised string to a class index; a string that is not in it is dropped and counted.
    `repairs_typo` reads "(25, 23)" as "(25, 32)"; `keeps_duplicates` keeps rows that list one face twice.
    """

    name: str
    summary: str
    groups: Mapping[str, int]
    repairs_typo: bool = True
    keeps_duplicates: bool = False

    def __post_init__(self) -> None:
        object.__setattr__(self, "groups", MappingProxyType(dict(self.groups)))

    def repaired(self, age: str) -> str:
        """Return a normalised string after this policy's typo rule."""
        return TYPO_REPAIRED if self.repairs_typo and age == TYPO_AGE else age


POLICIES: Mapping[str, LabelPolicy] = MappingProxyType(
    {
        policy.name: policy
        for policy in (
            LabelPolicy("core8", "the eight official strings, typo repaired, duplicates removed", _CORE),
            LabelPolicy(
                "gillevi",
                "the lists of Levi and Hassner as their code builds them: typo dropped, duplicates kept",
                _OFFICIAL,
                repairs_typo=False,
                keeps_duplicates=True,
            ),
            LabelPolicy(
                "paper_table",
                "core8 and the two strings that the counts printed by Levi and Hassner include",
                {**_CORE, "13": 2, "(38, 42)": 5},
            ),
            LabelPolicy("mivolo", "MiVOLO's mapping: every single age goes to a group", {**_CORE, **_MIVOLO}),
            LabelPolicy("l2rclip", "core8 and (27, 32), as in L2RCLIP's lists", {**_CORE, "(27, 32)": 4}),
        )
    }
)


def label_policy(name: str) -> LabelPolicy:
    """Return a policy by name; UsageError lists the names."""
    if name not in POLICIES:
        known = "\n".join(f"  {policy.name}: {policy.summary}" for policy in POLICIES.values())
        raise UsageError(f"label policy {name!r} is not known; choose one of\n{known}")
    return POLICIES[name]


def normalise_age_string(raw: str) -> str:
    """Return an Adience age in its one spelling: "(25, 32)", "35" or "None".

    Only spacing is fixed; no value is changed. Raises DataError for anything else.

    >>> normalise_age_string("(25,32)"), normalise_age_string(" 35 "), normalise_age_string("None")
    ('(25, 32)', '35', 'None')
    """
    text = raw.strip()
    match = _RANGE.fullmatch(text)
    if match is not None:
        return f"({int(match[1])}, {int(match[2])})"
    if text == "None" or (text.isascii() and text.isdigit() and len(text) <= 3):
        return text
    raise DataError(f'age {raw!r} must read like "(25, 32)", "35" or "None"')
