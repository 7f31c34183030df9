"""Read CUB-200-2011 by its own lists, joined on the image id."""

from __future__ import annotations

import json
from pathlib import Path

from finegrained.data.reading import (
    OFFICIAL_CUB,
    FineReading,
    ListedImage,
    Lists,
    ReadingRules,
    check_official,
    finish,
)
from finetune.errors import DataError, listing
from finetune.images.cells import real_number, slashes
from finetune.images.manifest import Manifest
from finetune.images.tables import decode_text

REQUIRED = ("images.txt", "image_class_labels.txt", "train_test_split.txt", "classes.txt")
BOXES, PART_NAMES, PART_PLACES = "bounding_boxes.txt", "parts/parts.txt", "parts/part_locs.txt"
SPLIT_OF = {"1": "train", "0": "test"}


def read_cub(root: Path, rules: ReadingRules | None = None) -> FineReading:
    """Read CUB-200-2011 (the folder that holds images.txt and images/) into a manifest.

    The lists are joined on the image id, never on the line number; class ids count from 1 in the files and
    from 0 in the manifest; paths are those of images.txt, since folders and files spell a class with
    different capitals. Boxes (x, y, width, height in the file) and parts are read where their files are.
    Of a subset (`rules.subset`), the classes that have images are numbered again in the official order.

    Raises DataError naming file and line for what is invalid, for counts that are not the official ones
    unless `rules.subset`, and for missing images as the rules say.

    Source: Wah, Branson, Welinder, Perona, Belongie, "The Caltech-UCSD Birds-200-2011 Dataset", 2011.
    """
    rules = rules or ReadingRules()
    _refuse_absent(root)
    image = {key: slashes(path) for key, path in _read_pairs(root / "images.txt").items()}
    class_of = _read_pairs(root / "image_class_labels.txt")
    split_of = _read_pairs(root / "train_test_split.txt")
    directory = _read_pairs(root / "classes.txt")
    _check_ids(root, image, class_of, split_of)
    order = sorted(directory, key=int)
    place = {class_id: index for index, class_id in enumerate(order)}
    _check_classes(root, image, class_of, directory)
    _check_splits(root, split_of)
    box, parts = _read_boxes(root, image), _read_parts(root, image)
    rows = [
        ListedImage(
            path=f"images/{path}",
            label=place[class_of[number]],
            split=SPLIT_OF[split_of[number]],
            source=number,
            box=box.get(number),
            parts=parts.get(number, ""),
        )
        for number, path in sorted(image.items(), key=lambda item: int(item[0]))
    ]
    whole, notices = check_official(OFFICIAL_CUB, rows, len(order), root, subset=rules.subset)
    files = tuple(root / name for name in (*REQUIRED, BOXES, PART_NAMES, PART_PLACES))
    names = tuple(directory[class_id] for class_id in order)
    lists = Lists("cub", root, names, rows, OFFICIAL_CUB.title, whole, tuple(filter(Path.is_file, files)))
    lists.notices.extend(notices)
    return finish(lists, rules)


def parts_of(manifest: Manifest, row: int) -> dict[str, tuple[float, float]]:
    """Return the visible parts of a bird by name, each as x, y in pixels; none where no part is known."""
    text = str(manifest["parts"][row]) if "parts" in manifest else ""
    return {name: (place[0], place[1]) for name, place in json.loads(text or "{}").items()}


def _refuse_absent(root: Path) -> None:
    absent = [name for name in REQUIRED if not (root / name).is_file()]
    if absent:
        raise DataError(
            f"{root} lacks {', '.join(absent)} of CUB-200-2011; unpack the whole archive, from "
            f"{OFFICIAL_CUB.source}"
        )


def _lines(file: Path, cells: int) -> list[tuple[int, list[str]]]:
    """Return (line number, cells) of each line; the last cell may hold spaces."""
    try:
        text, _ = decode_text(file.read_bytes(), file)
    except OSError as error:
        raise DataError(f"{file} cannot be read: {error}") from None
    lines = [
        (n, line.split(maxsplit=cells - 1)) for n, line in enumerate(text.splitlines(), 1) if line.strip()
    ]
    ragged = [f"line {n}: {' '.join(words)}" for n, words in lines if len(words) != cells]
    if ragged:
        raise DataError(f"{file}: {len(ragged)} lines do not hold {cells} columns:\n{listing(ragged)}")
    return lines


def _read_pairs(file: Path) -> dict[str, str]:
    """Return id -> value of a list of two columns; ids are whole numbers from 1, each once."""
    pairs: dict[str, str] = {}
    problems = []
    for number, (key, value) in _lines(file, 2):
        if not (key.isascii() and key.isdigit() and int(key) > 0):
            problems.append(f"line {number}: the id {key!r} is no whole number from 1")
        elif key in pairs:
            problems.append(f"line {number}: the id {key} stands twice")
        pairs[key] = value.strip()
    if problems:
        raise DataError(f"{file}: {len(problems)} lines are invalid:\n{listing(problems)}")
    return pairs


def _check_ids(root: Path, image: dict[str, str], *others: dict[str, str]) -> None:
    for name, other in zip(REQUIRED[1:3], others, strict=True):
        odd = sorted(image.keys() ^ other.keys(), key=int)
        if odd:
            side = [f"image {key}: only in {'images.txt' if key in image else name}" for key in odd]
            raise DataError(f"{root}: images.txt and {name} list different images:\n{listing(side)}")


def _check_classes(
    root: Path, image: dict[str, str], class_of: dict[str, str], directory: dict[str, str]
) -> None:
    unknown = [f"image {key}: class {value}" for key, value in class_of.items() if value not in directory]
    if unknown:
        raise DataError(
            f"{root}: {len(unknown)} images have a class that classes.txt lacks (its ids count from 1):\n"
            f"{listing(unknown)}"
        )
    astray = [
        f"image {key}: {path} is not in {directory[class_of[key]]}/"
        for key, path in image.items()
        if path.partition("/")[0] != directory[class_of[key]]
    ]
    if astray:
        raise DataError(f"{root}: {len(astray)} images lie outside their class's folder:\n{listing(astray)}")


def _check_splits(root: Path, split_of: dict[str, str]) -> None:
    odd = [f"image {key}: {value}" for key, value in split_of.items() if value not in SPLIT_OF]
    if odd:
        raise DataError(f"{root / REQUIRED[2]}: 1 is training and 0 is test, but:\n{listing(odd)}")


def _read_boxes(root: Path, image: dict[str, str]) -> dict[str, tuple[float, float, float, float]]:
    file = root / BOXES
    if not file.is_file():
        return {}
    boxes: dict[str, tuple[float, float, float, float]] = {}
    for line, (key, *cells) in _lines(file, 5):
        x, y, width, height = (_pixels(file, line, cell) for cell in cells)
        if key in boxes:
            raise DataError(f"{file}, line {line}: image {key} has a box already; keep one of them")
        if key in image:
            boxes[key] = (x, y, x + width, y + height)
    return boxes


def _read_parts(root: Path, image: dict[str, str]) -> dict[str, str]:
    """Return image id -> JSON text of the visible parts, {"beak": [x, y], ...}."""
    file = root / PART_PLACES
    if not file.is_file() or not (root / PART_NAMES).is_file():
        return {}
    name = _read_pairs(root / PART_NAMES)
    parts: dict[str, dict[str, tuple[float, float]]] = {key: {} for key in image}
    for line, (key, part, x, y, visible) in _lines(file, 5):
        if part not in name:
            raise DataError(f"{file}, line {line}: part {part} is not in {PART_NAMES}")
        if key in parts and visible == "1":
            parts[key][name[part]] = (_pixels(file, line, x), _pixels(file, line, y))
    return {key: json.dumps(places) for key, places in parts.items()}


def _pixels(file: Path, line: int, cell: str) -> float:
    pixels = real_number(cell)
    if pixels is None:
        raise DataError(f"{file}, line {line}: {cell!r} is not a number of pixels")
    return pixels
