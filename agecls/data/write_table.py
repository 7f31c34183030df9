"""`crl age table`: a published set of faces as one checked table, with its counts, drops and faults."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from agecls.config import AgeTableConfig
from agecls.data.known.findings import KnownFace
from agecls.data.known.registry import known_set
from agecls.data.named import NamedFaces, counted, find_named, tell_named
from finetune.cli.console import say
from finetune.errors import UsageError
from finetune.experiments.data_checks import tell_conflicts
from finetune.images.cells import SpelledPaths
from finetune.images.checks import equal_files, label_conflicts, missing_files, refuse_missing
from finetune.images.manifest import Manifest
from finetune.runs.csv_file import csv_text
from finetune.runs.files import write_bytes

MISSING = "listed image that is not there"


def write_age_table(name: str, config: AgeTableConfig) -> dict[str, Any]:
    """Write the table of a published set, print what it holds and what was left out, and return the counts.

    The table has a row for each face: path (from the printed root), age in years or group, and what else the
    set says: subject, gender, race, apparent_age, apparent_sd, split, and source (the file and line).

    Raises UsageError where the file to write is no .csv or is there already; DataError as the readers do.
    """
    out = Path(config.out or "")
    if out.suffix != ".csv":
        raise UsageError(f"--out {config.out}: give the file of the table to write, such as faces.csv")
    if out.exists():
        raise UsageError(f"--out {out} is there already; remove it, or give another name")
    data = replace(config.data, name=name)
    named = _there(find_named(data, data.missing), data.missing)
    counts = {**counted(named.faces), **named.counts()}
    tell_named(named)
    for key, value in counts.items():
        if key not in ("data_name", "terms", "known_dropped"):
            say(f"{key.replace('_', ' ')}: {_words(value)}")
    counts["same_content_labels"] = _equal(named)
    table = named.table()
    write_bytes(out, csv_text(table.header, [cells for _, cells in table.rows]).encode())
    words = [
        "crl age verify",
        f"--data.table {out}",
        f"--data.root {named.root}",
        *_options(name, named.faces),
    ]
    say(f"written: {out}, {len(named.faces)} rows. Next: {' '.join(words)}")
    return {**counts, "table": str(out), "root": str(named.root)}


def _there(named: NamedFaces, missing: str) -> NamedFaces:
    """Return the faces whose images are there, as the disk spells them; refuse or count the others."""
    spelled = SpelledPaths(named.root)
    faces = [face._replace(path=spelled.find(face.path)) for face in named.faces]
    absent = missing_files(named.root, [face.path for face in faces])
    gone = [face.path for face, out in zip(faces, absent, strict=True) if out]
    if missing == "error":
        refuse_missing(named.root, gone, len(faces))
    kept = [face for face, out in zip(faces, absent, strict=True) if not out]
    dropped = {**named.dropped, **({MISSING: len(gone)} if gone else {})}
    return replace(named, faces=kept, dropped=dropped)


def _equal(named: NamedFaces) -> dict[str, Any]:
    """Return, and print, how many sets of equal images there are and how many have different ages."""
    names = sorted({face.group for face in named.faces})
    columns = {
        "path": np.array([face.path for face in named.faces]),
        "label": np.array([names.index(face.group) for face in named.faces], dtype=np.int64),
        "age": np.array([float(face.age or "nan") for face in named.faces]),
        "subject": np.array([face.subject or face.path for face in named.faces]),
    }
    shown = Manifest(named.root, tuple(name or "years" for name in names), columns)
    found = label_conflicts(shown, list(equal_files(shown)))
    if found["sets"]:
        say(f"sets of images that are the same bytes: {found['sets']} (--data.same_content drop or group)")
    tell_conflicts(found)
    return found


def _options(name: str, faces: Sequence[KnownFace]) -> list[str]:
    """Return the options that a table of this set needs, and those that use what it says."""
    first, groups = faces[0], known_set(name).groups
    words = [] if first.subject else ["--data.subject_column none"]
    words += [f"--data.group_column group --data.groups {groups}"] if groups else []
    return words + (["--data.gender_column gender"] if any(face.gender for face in faces) else [])


def _words(value: Any) -> str:
    if isinstance(value, dict):
        return ", ".join(f"{name} {count:,}" for name, count in value.items())
    return "not known" if value is None else f"{value:,}" if isinstance(value, int) else f"{value:g}"
