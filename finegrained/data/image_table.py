"""Read any table of images and classes: CSV in the usual dialects or parquet, with fixed column names."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path

from finegrained.data.class_names import TITLES, official_order
from finegrained.data.reading import FineReading, ListedImage, Lists, ReadingRules, finish
from finetune.errors import DataError, listing
from finetune.images.cells import is_absent, one_spelling, whole_number
from finetune.images.folders import PART_NAMES
from finetune.images.tables import (
    Table,
    decode_text,
    missing_columns,
    paths_under,
    read_table,
    refuse_misspelt,
    unread_columns,
)
from finetune.runs.parse import parse_json

MOST_CLASSES = 1_000_000
BOX = ("x1", "y1", "x2", "y2")
COLUMNS = ("path", "class_name", "label", "split", "source_id", "parts", *BOX)


def read_image_table(
    file: Path, rules: ReadingRules | None = None, *, root: Path | None = None
) -> FineReading:
    """Read a table with one image per row: path and class_name or label, and split, source_id, x1 ... y2.

    Paths start from `root`, by default the table's own folder; a backslash is a slash. `label` counts from 0
    and uses every number up to the largest; with `class_name` alone, classes stand in the order of their
    names (in the official order where all are classes of CUB-200-2011 or Stanford Cars). With both, each
    label has one name. `split` is train, val or test, or empty in every row. Boxes are pixels, zero-based,
    the far edges not included; an empty cell is an unknown one, and so is what programs write for an absent
    value. A class list `<name>.classes.json`, as `crl fine verify --write` puts beside a table, fixes the
    classes and their order.

    Raises DataError naming row and column for invalid cells, labels that count from 1, files
    listed twice, paths that leave the root (unless the rules say follow), and missing images as the rules
    say.
    """
    rules = rules or ReadingRules()
    table = read_table(Path(file))
    absent = "path" if "path" not in table.header else "class_name or label"
    if "path" not in table.header or not {"class_name", "label"} & set(table.header):
        raise DataError(missing_columns(table, [absent]))
    refuse_misspelt(table, COLUMNS)
    cells = [dict(zip(table.header, row, strict=True)) for _, row in table.rows]
    _refuse_absent(table, "path", [row["path"] for row in cells])
    names, labels, notices = _classes(table, cells)
    listed, told = [row["path"] for row in cells], [f"row {number}" for number, _ in table.rows]
    base, paths = paths_under(root if root is not None else table.file.parent, listed, rules.follow, told)
    _check_listed_once(table, paths)
    rows = [
        ListedImage(
            path=path,
            label=label,
            split=_part(table, number, row),
            source=row.get("source_id") or f"{table.file.name}:{table.rows[number][0]}",
            box=_box(table, number, row),
            parts=row.get("parts", ""),
        )
        for number, (row, path, label) in enumerate(zip(cells, paths, labels, strict=True))
    ]
    notices = [*table.notices, *unread_columns(table, COLUMNS), *notices]
    lists = Lists("table", base, names, rows, files=(table.file,), notices=notices)
    return finish(lists, rules)


def _classes(
    table: Table, cells: Sequence[Mapping[str, str]]
) -> tuple[tuple[str, ...], list[int], list[str]]:
    """Return the class names, each row's index into them, and what to report."""
    listed = _listed_classes(table.file)
    if "class_name" not in table.header:
        labels = _labels(table, cells)
        return listed or tuple(map(str, range(max(labels) + 1))), labels, []
    names = [one_spelling(row["class_name"]) for row in cells]
    _refuse_absent(table, "class_name", names, meant=listed)
    order, notices = (listed, []) if listed else _order(table, cells, names)
    strangers = sorted(set(names) - set(order))
    if strangers:
        raise DataError(f"{table.file}: classes that its .classes.json lacks:\n{listing(strangers)}")
    place = {name: index for index, name in enumerate(order)}
    if "label" in table.header and _labels(table, cells) != [place[name] for name in names]:
        raise DataError(f"{table.file}: label and class_name do not go together with its .classes.json")
    return order, [place[name] for name in names], notices


def _refuse_absent(table: Table, column: str, cells: Sequence[str], meant: Sequence[str] = ()) -> None:
    """Raise DataError naming the rows whose cell says that there is no value; a class that is `meant` may."""
    empty = [
        f"row {table.rows[number][0]}: {cell!r}"
        for number, cell in enumerate(cells)
        if is_absent(cell) and (not cell or cell not in meant)
    ]
    if empty:
        cure = ""
        if column == "class_name":
            beside = table.file.with_suffix(".classes.json").name
            cure = f"\na class that is truly called so is listed in {beside}"
        raise DataError(f"{table.file}: {column} is empty or an absent value in:\n{listing(empty)}{cure}")


def _order(
    table: Table, cells: Sequence[Mapping[str, str]], names: Sequence[str]
) -> tuple[tuple[str, ...], list[str]]:
    if "label" in table.header:
        pairs = sorted(set(zip(_labels(table, cells), names, strict=True)))
        if len({label for label, _ in pairs}) != len(pairs) or len({name for _, name in pairs}) != len(pairs):
            odd = [f"{label}: {name}" for label, name in pairs]
            raise DataError(f"{table.file}: label and class_name do not go together:\n{listing(odd)}")
        return tuple(name for _, name in pairs), []
    official = official_order(sorted(set(names)))
    if official is not None and set(official[1]) == set(names):
        return official[1], [f"classes stand in the official order of {TITLES[official[0]]}"]
    return tuple(sorted(set(names))), []


def _labels(table: Table, cells: Sequence[Mapping[str, str]]) -> list[int]:
    odd = [
        f"row {table.rows[n][0]}: {row['label']!r}"
        for n, row in enumerate(cells)
        if whole_number(row["label"]) is None
    ]
    if odd:
        raise DataError(f"{table.file}: label must be a whole number from 0:\n{listing(odd)}")
    labels = [whole_number(row["label"]) or 0 for row in cells]
    if max(labels) >= MOST_CLASSES:
        raise DataError(
            f"{table.file}: label {max(labels)} is no class's number (0 to K - 1, at most {MOST_CLASSES})"
        )
    used, total = set(labels), max(labels) + 1
    if used != set(range(total)) and not _listed_classes(table.file):
        cure = (
            "they count from 1: subtract 1 from each" if min(used) == 1 else "number the classes without gaps"
        )
        raise DataError(
            f"{table.file}: labels must be 0 to K - 1, each in use; {total - len(used)} of {total} are not; "
            f"{cure}, or give class_name and leave label out"
        )
    return labels


def _listed_classes(file: Path) -> tuple[str, ...]:
    beside = file.with_suffix(".classes.json")
    if not beside.is_file():
        return ()
    try:
        names = parse_json(decode_text(beside.read_bytes(), beside)[0])
    except (OSError, ValueError) as error:
        raise DataError(f"{beside} is no list of class names: {error}") from None
    if not isinstance(names, list) or not all(isinstance(name, str) for name in names):
        raise DataError(f'{beside} is no list of class names, such as ["auk", "owl"]: {names!r:.60}')
    return tuple(map(one_spelling, names))


def _check_listed_once(table: Table, paths: Sequence[str]) -> None:
    first: dict[str, int] = {}
    again = [
        f"row {table.rows[number][0]}: {path}, first in row {table.rows[first[path]][0]}"
        for number, path in enumerate(paths)
        if first.setdefault(path, number) != number
    ]
    if again:
        raise DataError(f"{table.file}: {len(again)} rows list a file again:\n{listing(again)}")


def _part(table: Table, number: int, row: Mapping[str, str]) -> str:
    cell = row.get("split", "").lower()
    cell = "" if is_absent(cell) else cell
    if cell and cell not in PART_NAMES:
        known = ", ".join(PART_NAMES)
        raise DataError(f"{table.file}, row {table.rows[number][0]}: split {cell!r} is none of {known}")
    return PART_NAMES.get(cell, "")


def _box(table: Table, number: int, row: Mapping[str, str]) -> tuple[float, float, float, float] | None:
    cells = [row.get(name, "") for name in BOX]
    if all(map(is_absent, cells)):
        return None
    x1, y1, x2, y2 = map(table.number, cells)
    if not (x2 > x1 and y2 > y1 and math.isfinite(x1 + y1 + x2 + y2)):
        raise DataError(
            f"{table.file}, row {table.rows[number][0]}: {', '.join(BOX)} are no box: {cells}"
            f"{table.comma_hint(*cells)}"
        )
    return (x1, y1, x2, y2)
