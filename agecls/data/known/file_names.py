"""Sets that say everything in the names of their images: UTKFace, AgeDB and FG-NET."""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Callable
from pathlib import Path

from agecls.data.known.findings import Findings, KnownFace, picture_paths
from finetune.errors import DataError, listing

UTK_NAME = re.compile(r"(\d{1,3})_([01])_([0-4])_(\d{17})([^_\d]*)", re.IGNORECASE)
UTK_RACES = ("White", "Black", "Asian", "Indian", "Other")
AGEDB_NAME = re.compile(r"(\d+)_([^_]+)_(\d{1,3})_([mf])\.jpg", re.IGNORECASE)
FGNET_NAME = re.compile(r"(\d{3})A(\d{2})[a-z]?\.(?:jpg|jpeg|png)", re.IGNORECASE)
UTK_OLDEST = 116


def read_utkface(root: Path, found: Findings) -> None:
    """Read [age]_[gender]_[race]_[date and time].jpg, aligned (.jpg.chip.jpg) or in the wild (part1 to 3).

    Four published names lack a field, and others have corrected two of them differently: they are not read.
    The ending may be damaged, for it holds no label. Raises DataError where one photograph is there twice, as
    in a folder that holds both the aligned and the other images.
    """
    again: dict[str, list[str]] = defaultdict(list)
    for path in picture_paths(root):
        name = path.rpartition("/")[2]
        read = UTK_NAME.fullmatch(name)
        if read is None:
            found.odd.append(f"{path}: not [age]_[gender 0 or 1]_[race 0 to 4]_[17 digits].jpg")
        elif int(read[1]) > UTK_OLDEST:
            found.odd.append(f"{path}: age {read[1]} is above {UTK_OLDEST}, the set's oldest")
        else:
            again["_".join(read.groups()[:4])].append(path)
            gender, race = "mf"[int(read[2])], UTK_RACES[int(read[3])]
            found.faces.append(KnownFace(path, path, age=str(int(read[1])), gender=gender, race=race))
    twice = [" = ".join(paths) for paths in again.values() if len(paths) > 1]
    if twice:
        raise DataError(
            f"UTKFace: {len(twice)} photographs are there twice; name the folder of the aligned or of the "
            f"other images by --data.root:\n{listing(twice)}"
        )


def read_agedb(root: Path, found: Findings) -> None:
    """Read [number]_[Name]_[age]_[m or f].jpg, which has three underscores; the name is the person."""

    def face(path: str, read: re.Match[str]) -> KnownFace:
        return KnownFace(path, path, age=str(int(read[3])), subject=read[2], gender=read[4].lower())

    _read_names(root, found, AGEDB_NAME, "[number]_[Name]_[age]_[m or f].jpg", face)


def read_fgnet(root: Path, found: Findings) -> None:
    """Read [person]A[age][letter].jpg, where A may be small; the three digits are the person."""

    def face(path: str, read: re.Match[str]) -> KnownFace:
        return KnownFace(path, path, age=str(int(read[2])), subject=read[1])

    _read_names(root, found, FGNET_NAME, "[person, 3 digits]A[age, 2 digits][letter or none].jpg", face)


def _read_names(
    root: Path,
    found: Findings,
    pattern: re.Pattern[str],
    form: str,
    face: Callable[[str, re.Match[str]], KnownFace],
) -> None:
    for path in picture_paths(root):
        read = pattern.fullmatch(path.rpartition("/")[2])
        if read is None:
            found.odd.append(f"{path}: not {form}")
        else:
            found.faces.append(face(path, read))
