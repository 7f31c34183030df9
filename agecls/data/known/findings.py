"""What a reader of a published data set found: faces, what was dropped and why, and names it cannot read."""

from __future__ import annotations

import os
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal, NamedTuple

from finetune.errors import DataError, listing
from finetune.images.endings import is_picture, is_seen
from finetune.images.tables import missing_columns, read_table

FIRST = 5  # names that an error or a notice shows
OddRule = Literal["error", "drop"]
Box = tuple[float, ...]


class KnownFace(NamedTuple):
    """One face of a published set, in the words of its table; an empty text is what the set does not say.

    `path` starts at the data root and `source` names the file and line that said it. `age` is in years, where
    the set has years, else `group` names an age group. `box` is the face's corners in pixels of the image:
    four numbers x1, y1, x2, y2, or eight, the corners of a quadrilateral from its upper left one clockwise.
    """

    path: str
    source: str
    age: str = ""
    group: str = ""
    subject: str = ""
    gender: str = ""
    race: str = ""
    apparent_age: str = ""
    apparent_sd: str = ""
    split: str = ""
    folder: str = ""
    box: Box | None = None


@dataclass
class Findings:
    """What a reader found under a root.

    `dropped` maps a reason to the names of the faces that it drops; `odd` holds the names, with the rule that
    they break, of files or rows whose labels cannot be read.
    """

    faces: list[KnownFace] = field(default_factory=list)
    dropped: dict[str, list[str]] = field(default_factory=lambda: defaultdict(list))
    odd: list[str] = field(default_factory=list)
    notices: list[str] = field(default_factory=list)

    def drop(self, reason: str, name: str) -> None:
        """Count a face that the set's own rules leave out."""
        self.dropped[reason].append(name)

    @property
    def listed(self) -> int:
        """How many faces the set lists, whatever became of them."""
        return len(self.faces) + sum(map(len, self.dropped.values())) + len(self.odd)

    def settle(self, title: str, rule: OddRule) -> None:
        """Refuse names and rows that cannot be read, or count them as dropped where `rule` says so.

        Raises DataError with the first five.
        """
        if self.odd and rule == "drop":
            self.dropped["name or row that cannot be read"].extend(self.odd)
            self.odd.clear()
        if self.odd:
            raise DataError(
                f"{title}: {len(self.odd)} of {self.listed} names or rows cannot be read, and nothing is "
                f"guessed:\n{listing(self.odd, FIRST)}\nCorrect them, for you know what is right, "
                "or leave them out and count them by --data.odd_names drop"
            )


def picture_paths(root: Path) -> list[str]:
    """Return the images under a folder, at any depth, as sorted paths from there; hidden ones are left out.

    Raises DataError where there is none.
    """
    found = []
    for folder, below, files in os.walk(root):
        below[:] = sorted(filter(is_seen, below))
        inside = Path(folder).relative_to(root)
        found += [(inside / name).as_posix() for name in files if is_seen(name) and is_picture(name)]
    if not found:
        raise DataError(f"no image lies under {root}; name the data set's folder by --data.root FOLDER")
    return sorted(found)


def find_lists(root: Path, names: Sequence[str], title: str) -> dict[str, Path]:
    """Return the files of these names that lie in the root or in a folder of it, by name.

    Raises DataError where none is there, or one name is there twice.
    """
    folders = [root, *sorted(one for one in root.iterdir() if one.is_dir() and is_seen(one.name))]
    found: dict[str, Path] = {}
    for name in names:
        there = [folder / name for folder in folders if (folder / name).is_file()]
        if len(there) > 1:
            raise DataError(
                f"{title}: {name} is there {len(there)} times; name the folder of one by --data.root:\n"
                f"{listing([str(file) for file in there])}"
            )
        if there:
            found[name] = there[0]
    if not found:
        raise DataError(f"{title}: {root} and its folders hold none of its lists: {', '.join(names)}")
    return found


def rows_of(file: Path, needed: Sequence[str]) -> Iterator[tuple[str, Mapping[str, str]]]:
    """Yield the source (file and line) and the cells by column of every row of a list.

    Raises DataError where a needed column is missing.
    """
    table = read_table(file)
    absent = [name for name in needed if name not in table.header]
    if absent:
        raise DataError(missing_columns(table, absent))
    for line, cells in table.rows:
        yield f"{file.name}:{line}", dict(zip(table.header, cells, strict=True))


def beside(root: Path, folder: Path, name: str) -> str:
    """Return the path from the root of a name that a list in `folder` gives, with forward slashes."""
    inside = folder.relative_to(root).as_posix()
    path = name.replace("\\", "/")
    return path if inside == "." else f"{inside}/{path}"


def vary_within(faces: Sequence[KnownFace], column: str, values: Sequence[str]) -> list[str]:
    """Return a sentence on people whose images disagree in a value that a person has once; none for none."""
    of_person: dict[str, set[str]] = defaultdict(set)
    for face, value in zip(faces, values, strict=True):
        of_person[face.subject].add(value)
    several = sorted(person for person, found in of_person.items() if len(found) > 1)
    if not several:
        return []
    return [f"{len(several)} of {len(of_person)} people have more than one {column}: {listing(several, 3)}"]
