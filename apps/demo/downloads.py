"""The files beside an answer: every number as CSV, and the heat maps as a picture where they fit one."""

from __future__ import annotations

import os
import threading
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from finetune.errors import UsageError

if TYPE_CHECKING:
    from apps.demo.answer import Answer
    from apps.demo.uploads import UploadFolder

DRAWING = threading.Lock()  # matplotlib keeps its settings for the whole process


@dataclass(frozen=True)
class Downloads:
    """What can be downloaded of one answer.

    Args:
        table: the CSV file.
        drawing: the PNG file; None where the answer is too large for a picture.
        notice: why there is no picture, in words; "" where there is one.
    """

    table: Path
    drawing: Path | None
    notice: str = ""


def write_downloads(answer: Answer, folder: UploadFolder, paths: Sequence[str | Path]) -> Downloads:
    """Write an answer's CSV and PNG files, which leave the folder together with its uploads.

    Args:
        answer: with one row or more.
        folder: where uploads and results are kept.
        paths: the pictures of the answer; those that are no uploads do not count.
    """
    from apps.heatmap.heatmap import to_csv
    from apps.heatmap.picture import draw_png

    came = arrival(folder, paths)
    found = answer.heat_map()
    table, drawing = folder.new_file("heatmaps.csv"), folder.new_file("heatmaps.png")
    table.write_text(to_csv(found), encoding="utf-8", newline="")
    _date(table, came)
    try:
        with DRAWING:
            draw_png(found, drawing)
    except UsageError:
        notice = (
            f"There is no PNG this time: {len(answer.rows)} rows of {len(found.column_names)} columns for "
            f"{len(answer.titles)} models are too many for a picture. The CSV file has every number; fewer "
            "pictures or models give a PNG too."
        )
        return Downloads(table, None, notice)
    _date(drawing, came)
    return Downloads(table, drawing)


def arrival(folder: UploadFolder, paths: Sequence[str | Path]) -> float | None:
    """Return when the oldest of the uploads among `paths` came (seconds since 1970), None without any."""
    times = []
    for path in map(Path, paths):
        try:
            if folder.owns(path):
                facts = path.lstat()
                times.append(max(facts.st_mtime, facts.st_ctime))
        except FileNotFoundError:  # swept since it was classified
            continue
    return min(times, default=None)


def _date(file: Path, came: float | None) -> None:
    """Give a result the date of its upload: the janitor takes a result's age from that."""
    if came is not None:
        os.utime(file, (came, came))
