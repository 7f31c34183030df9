"""One row of a table of ages: what its cells say, and what is wrong with them."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import NamedTuple

from agecls.data.groups import AgeGroups
from finetune.images.cells import is_absent, is_broken, whole_number
from finetune.images.tables import Table

OLDEST = 120
HIGHEST_FOLD = 10**9 - 1
GENDERS = {"m": "m", "male": "m", "f": "f", "female": "f", "u": "u", "unknown": "u", "": ""}


class AgeRow(NamedTuple):
    """What a row says; `label` is None for an age between two groups."""

    source: str
    path: str
    label: int | None
    age: float
    subject: str
    user: str
    gender: str
    fold: int
    slices: tuple[str, ...]


class CellError(ValueError):
    """An invalid cell: the message names the column and the rule."""


@dataclass(frozen=True)
class RowReader:
    """Turns the cells of a row into a `AgeRow`; the fields are the names of the columns."""

    groups: AgeGroups
    path: str
    age: str | None
    group: str | None
    subject: str | None
    user: str | None
    gender: str | None
    fold: str | None
    table: Table
    slices: tuple[str, ...] = ()

    def read(self, source: str, cells: Mapping[str, str]) -> AgeRow:
        """Return the row; CellError names the first invalid cell."""
        path = self._filled(cells, self.path)
        label, age = self._label_and_age(cells)
        subject = self._filled(cells, self.subject) if self.subject is not None else path
        user = self._filled(cells, self.user) if self.user is not None else subject
        gender = cells[self.gender].lower() if self.gender is not None else ""
        gender = "" if is_absent(gender) else gender
        if gender not in GENDERS:
            raise CellError(f"{self.gender} {gender!r} must be m, f, u or empty")
        slices = tuple("" if is_absent(cells[name]) else cells[name] for name in self.slices)
        return AgeRow(source, path, label, age, subject, user, GENDERS[gender], self._fold(cells), slices)

    def _filled(self, cells: Mapping[str, str], column: str) -> str:
        cell = cells[column]
        if is_absent(cell):
            says = " (an absent value, not a name)" if cell else ""
            raise CellError(f"{column} {cell!r} is empty{says}; give each row one, or leave the row out")
        if is_broken(cell):
            raise CellError(f"{column} {cell!r} holds control characters")
        return cell

    def _fold(self, cells: Mapping[str, str]) -> int:
        if self.fold is None:
            return -1
        number = whole_number(cells[self.fold])
        if number is None:
            raise CellError(f"{self.fold} {cells[self.fold]!r} must be a whole number from 0")
        if number > HIGHEST_FOLD:
            raise CellError(
                f"{self.fold} {cells[self.fold]!r} is no fold's number (0 to {HIGHEST_FOLD}); "
                "name another column"
            )
        return number

    def _label_and_age(self, cells: Mapping[str, str]) -> tuple[int | None, float]:
        if self.group is None:
            age = self._years(cells[str(self.age)])
            return self.groups.index_of(age), age
        label = self.groups.index_of_name(cells[self.group])
        if label is None:
            raise CellError(
                f"{self.group} {cells[self.group]!r} must be one of {', '.join(self.groups.names)}"
            )
        text = cells.get(self.age, "") if self.age is not None else ""
        return label, math.nan if is_absent(text) else self._years(text)

    def _years(self, text: str) -> float:
        age = self.table.number(text)
        if not 0 <= age <= OLDEST:
            hint = self.table.comma_hint(text)
            raise CellError(f"{self.age} {text!r} must be a number of years from 0 to {OLDEST}{hint}")
        return age
