"""A made-up Adience: drawn subjects in the real on-disk layout, for demonstrations and tests."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Literal

import cv2
import numpy as np

from agecls.data.adience import PREFIXES
from agecls.data.fold_files import COLUMNS, FOLD_COUNT, fold_file_name
from agecls.data.groups import POLICIES, TYPO_AGE, TYPO_REPAIRED
from agecls.synthetic.person import Person, Shot, draw_person, draw_shot
from agecls.synthetic.portrait import render
from finetune.errors import UsageError
from finetune.seeding import numpy_generator

SUBJECTS_PER_USER = 4
FIRST_ALBUM, ALBUM_STEP = 70000001, 37
LABELS = tuple(POLICIES["gillevi"].groups)
# One deck of subjects: the fifth group is the largest, as in Adience, and the last two the smallest.
DECK = (0, 1, 2, 3, 4, 5, 6, 7, 0, 1, 2, 3, 4, 5, 4, 4)
# Adience's strings outside the eight, with the maturity at which such a person is drawn.
ODD_AGES = {
    "None": 4.0,
    "35": 4.5,
    "13": 2.5,
    "22": 3.5,
    "34": 4.5,
    "23": 3.6,
    "45": 5.4,
    "55": 6.5,
    "(27, 32)": 4.1,
    "36": 4.6,
    "(38, 42)": 5.0,
    "57": 6.6,
    "3": 0.5,
    "29": 4.1,
    "(38, 48)": 5.3,
    "58": 6.6,
    "2": 0.2,
    "32": 4.3,
    "56": 6.5,
    "(8, 23)": 2.8,
    "42": 5.1,
    "46": 5.5,
}
# A person may look older or younger than the group says: neighbours are meant to be confusable.
LOOKS_SPREAD = 0.34


@dataclass(frozen=True)
class LookalikeSummary:
    """What was written: `rows` lines in the fold files, `images` image files per layout, subjects, albums."""

    root: Path
    rows: int
    images: int
    users: int
    subjects: int
    rows_per_fold: tuple[int, ...]


@dataclass(frozen=True)
class _Row:
    """One line of a fold file, with what is needed to draw its image."""

    fold: int
    user: str
    image: str
    face: int
    age: str
    gender: str
    person: Person
    shot: Shot

    def cells(self) -> tuple[str, ...]:
        """Return the twelve columns as text."""
        box = ("120", "96", "640", "640")
        pose = (str(5 * round(self.shot.tilt / 5)), str(int(self.shot.yaw)), "60")
        return (self.user, self.image, str(self.face), self.age, self.gender, *box, *pose)


@dataclass
class _Album:
    """A user with people: the unit that lies in one fold."""

    fold: int
    user: str
    ages: list[str] = field(default_factory=list)


def write_lookalike_adience(
    root: Path,
    *,
    users: int = 40,
    images_per_subject: int = 4,
    seed: int = 0,
    image_size: int = 64,
    edition: Literal["current", "older"] = "current",
    layouts: Iterable[Literal["aligned", "faces"]] = ("aligned",),
    with_oddities: bool = False,
) -> LookalikeSummary:
    """Write drawn people as Adience lies on disk: five fold files and an image for every row.

    `users` albums, at least ten, go to the five folds in turn; each holds four people with one to
    2 * images_per_subject - 1 images of `image_size` pixels. The "older" edition repeats a few rows and
    spells one person's age "(25, 23)", as the real one does. `with_oddities` adds people with every other raw
    age string of Adience and blanks some genders. The same arguments write the same bytes.

    Raises UsageError for fewer than ten users, no image per subject, or an unknown edition or layout.
    """
    chosen = tuple(layouts)
    if users < 2 * FOLD_COUNT or images_per_subject < 1 or image_size < 16:
        raise UsageError(
            f"a synthetic data set needs users >= {2 * FOLD_COUNT}, images_per_subject >= 1 and image_size "
            f">= 16, got {users}, {images_per_subject} and {image_size}"
        )
    if edition not in ("current", "older"):
        raise UsageError(f"edition={edition!r} is not known; choose current or older")
    if not set(chosen) <= set(PREFIXES):
        raise UsageError(f"layouts={chosen} are not all known; choose among {', '.join(PREFIXES)}")
    Path(root).mkdir(parents=True, exist_ok=True)
    albums = _albums(users, seed, with_oddities)
    rows = list(_rows(albums, images_per_subject, seed, with_oddities))
    for layout in chosen:
        _write_pictures(root, layout, rows, image_size)
    listed = _as_older(rows) if edition == "older" else rows
    _write_folds(root, listed)
    return LookalikeSummary(
        root=Path(root),
        rows=len(listed),
        images=len(rows),
        users=len(albums),
        subjects=len({row.face for row in rows}),
        rows_per_fold=tuple(sum(row.fold == fold for row in listed) for fold in range(FOLD_COUNT)),
    )


def album_name(number: int) -> str:
    """Return the name of the synthetic data's album `number`, from 0 on, in the form of Adience's user ids.

    >>> album_name(1)
    '70000038@N01'
    """
    return f"{FIRST_ALBUM + ALBUM_STEP * number}@N{number % 9:02d}"


def is_drawn(users: Iterable[str]) -> bool:
    """Return whether albums are of synthetic data: there is one, and every name is of `album_name`'s form.

    Real ids follow no such rule, so drawings are distinguished from photographs wherever the list of albums
    is left.
    """
    names = set(users)
    numbers = {name: name.partition("@")[0] for name in names}
    return bool(names) and all(
        digits.isascii()
        and digits.isdigit()
        and album_name(max(0, int(digits) - FIRST_ALBUM) // ALBUM_STEP) == name
        for name, digits in numbers.items()
    )


def _albums(users: int, seed: int, with_oddities: bool) -> list[_Album]:
    albums = [_Album(number % FOLD_COUNT, album_name(number)) for number in range(users)]
    for fold in range(FOLD_COUNT):
        deck: list[int] = []
        for album in albums[fold::FOLD_COUNT]:
            while len(deck) < SUBJECTS_PER_USER:
                deck += numpy_generator(seed, "deck", fold, len(deck), album.user).permutation(DECK).tolist()
            album.ages += [LABELS[deck.pop(0)] for _ in range(SUBJECTS_PER_USER)]
    if with_oddities:
        for place, age in enumerate(ODD_AGES):
            albums[place % users].ages.append(age)
    return albums


def _rows(albums: list[_Album], images_per_subject: int, seed: int, with_oddities: bool) -> Iterator[_Row]:
    face = 0
    for album in albums:
        for age in album.ages:
            face += 1
            rng = numpy_generator(seed, "person", face)
            person = draw_person(rng, _maturity(age, rng))
            gender = "u" if person.maturity < 0.5 else "f" if person.woman else "m"
            gender = "" if with_oddities and face % 7 == 0 else gender
            for number in range(int(rng.integers(1, 2 * images_per_subject))):
                image = f"{9000000000 + 1000 * face + number}_{rng.integers(16**10):010x}_o.jpg"
                yield _Row(album.fold, album.user, image, face, age, gender, person, draw_shot(rng))


def _maturity(age: str, rng: np.random.Generator) -> float:
    middle = float(LABELS.index(age)) if age in LABELS else ODD_AGES[age]
    return float(np.clip(rng.normal(middle, LOOKS_SPREAD), -0.4, 7.4))


def _as_older(rows: list[_Row]) -> list[_Row]:
    """Return the rows with the older edition's flaws: one person of fold 0 misspelt, and repeated rows."""
    misspelt = next(row.face for row in rows if row.fold == 0 and row.age == TYPO_REPAIRED)
    spelt = [replace(row, age=TYPO_AGE) if row.face == misspelt else row for row in rows]
    return spelt + spelt[::29]


def _write_pictures(root: Path, layout: str, rows: list[_Row], image_size: int) -> None:
    zoom = 1.0 if layout == "aligned" else 0.85
    for row in rows:
        folder = Path(root) / layout / row.user
        folder.mkdir(parents=True, exist_ok=True)
        shot = replace(row.shot, zoom=row.shot.zoom * zoom)
        picture = cv2.cvtColor(render(row.person, shot, image_size), cv2.COLOR_RGB2BGR)
        _, encoded = cv2.imencode(".jpg", picture, [cv2.IMWRITE_JPEG_QUALITY, 92])
        (folder / f"{PREFIXES[layout]}.{row.face}.{row.image}").write_bytes(encoded.tobytes())


def _write_folds(root: Path, rows: list[_Row]) -> None:
    for fold in range(FOLD_COUNT):
        lines = ["\t".join(COLUMNS), *("\t".join(row.cells()) for row in rows if row.fold == fold)]
        (Path(root) / fold_file_name(fold)).write_text("\n".join(lines) + "\n", encoding="utf-8")
