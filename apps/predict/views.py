"""Predictions to read: the table on the terminal, the heat map of the first rows, and evidence maps."""

from __future__ import annotations

import os
import re
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from apps.heatmap.heatmap import names_for_people
from apps.predict.predict import Answer
from apps.predict.writers import SET_NAMES, Layout, on_one_line, readable
from finetune.cli.console import format_table
from finetune.errors import UsageError
from finetune.figures.canvas import count_text
from finetune.runs.files import write_bytes

if TYPE_CHECKING:
    from apps.heatmap.heatmap import HeatMap
    from apps.runtime.session import OnnxClassifier

TABLE_ROWS = 40
RANKED_ANSWERS = 12  # up to so many predictions are shown with their best classes below each other
HEAT_MAP_ROWS = 64
NAME_WIDTH = 48


class TerminalTable:
    """The first rows of the answers: the most probable classes of each, the two best of many answers.

    Classes have their names for people.

    Args:
        titles: what each model is called; a single one needs no column.
        best: how many classes of a prediction are shown while there are few; 2 makes it a row each.
        layout: of the rows; its numbers and sets are shown too.
    """

    def __init__(self, titles: Sequence[str], best: int = 2, layout: Layout | None = None) -> None:
        self._titles, self._best, self._layout = titles, best, layout
        self._first: list[Answer] = []
        self._count = 0

    def add(self, answer: Answer) -> None:
        """Take one answer."""
        self._count += 1
        if len(self._first) < TABLE_ROWS:
            self._first.append(answer)

    def text(self) -> str:
        """Return the table, and a line on what it leaves out."""
        if self._best > 2 and self._count <= RANKED_ANSWERS:
            rows = [row for answer in self._first for row in self._ranks(answer)]
        else:
            rows = [self._row(answer) for answer in self._first]
        used = [name for name in rows[0] if any(row[name] != "" for row in rows)] if rows else []
        lines = [format_table(used, [[row[name] for name in used] for row in rows])] if rows else []
        if self._count > len(self._first):
            left = self._count - len(self._first)
            lines.append(
                f"... and {count_text(left, 'more row')}; --out answers.csv keeps them all, with every class"
            )
        elif self._count > RANKED_ANSWERS and self._best > 2:
            lines.append(f"--out answers.csv keeps the {self._best} best classes of each, and every class")
        return "\n".join(lines)

    def _row(self, answer: Answer) -> dict[str, object]:
        best, other, *_ = [*best_classes(answer, 2), ("", ""), ("", "")]
        classes = {"class": best[0], "p": best[1], "next": other[0], "p ": other[1]}
        return self._asked(answer) | classes | self._told(answer) | _note(answer)

    def _told(self, answer: Answer) -> dict[str, object]:
        """Return an answer's numbers and its set; of a set without ends the size alone."""
        if self._layout is None:
            return {}
        told = self._layout.further_cells(answer)
        shown = {name: "" if value is None else value for name, value in told.items() if name != SET_NAMES}
        return {name: on_one_line(f"{value}") for name, value in shown.items()}

    def _ranks(self, answer: Answer) -> list[dict[str, object]]:
        """Return a row for each of an answer's best classes; only the first names the image."""
        asked, note, rows = self._asked(answer), self._told(answer) | _note(answer), []
        for rank, (name, share) in enumerate(best_classes(answer, self._best) or [("", "")], 1):
            row = asked | {"rank": str(rank) if name else "", "class": name, "p": share} | note
            rows.append(row if rank == 1 else row | dict.fromkeys([*asked, *note], ""))
        return rows

    def _asked(self, answer: Answer) -> dict[str, object]:
        return {
            "image": shortened(answer.path),
            "time": "" if answer.time is None else f"{answer.time:.2f} s",
            "face": "" if answer.face_number is None else str(answer.face_number),
            "model": "" if answer.model is None or len(self._titles) == 1 else self._titles[answer.model],
        }


def _note(answer: Answer) -> dict[str, object]:
    marks = list(answer.face.warnings()) if answer.face is not None else []
    marks += [f"{answer.status}: {answer.reason}" if answer.reason else answer.status]
    return {"note": on_one_line("; ".join(mark for mark in marks if mark != "ok"))}


def best_classes(answer: Answer, count: int) -> list[tuple[str, str]]:
    """Return the most probable classes as a terminal shows them: names for people, three decimals."""
    if answer.probs is None:
        return []
    known_as = dict(zip(answer.class_names, names_for_people(answer.class_names), strict=True))
    return [(on_one_line(known_as[name]), f"{share:.3f}") for name, share in answer.top(count)]


def shortened(path: str) -> str:
    """Return a path for a narrow column: its end, where the names differ.

    >>> shortened("/data/" + "very/" * 20 + "long.jpg")
    '...y/very/very/very/very/very/very/very/long.jpg'
    """
    name = on_one_line(path)
    return name if len(name) <= NAME_WIDTH else "..." + name[3 - NAME_WIDTH :]


class HeatMapRows:
    """The probabilities of the first images, for one heat map of all models.

    Args:
        titles: what each model is called.
    """

    def __init__(self, titles: Sequence[str]) -> None:
        self._titles = titles
        self._rows: dict[tuple[int, float | None, int | None], list[Answer]] = {}
        self._left_out: set[int] = set()

    def add(self, answer: Answer) -> None:
        """Take one answer; those past the last row that is drawn are only counted."""
        if answer.model is None:
            return
        key = (answer.index, answer.time, answer.face_number)
        if key in self._rows or len(self._rows) < HEAT_MAP_ROWS:
            self._rows.setdefault(key, []).append(answer)
        else:
            self._left_out.add(answer.index)

    def write(self, file: Path) -> str:
        """Write the heat map and return a sentence on it; the name's ending chooses png, html or csv.

        Nothing is written where no image was answered by every model.
        """
        from apps.heatmap.heatmap import to_csv
        from apps.heatmap.html import to_html_page
        from apps.heatmap.picture import draw_png, fits_png

        rows = [answers for answers in self._rows.values() if len(answers) == len(self._titles)]
        if not rows:
            return "heat map: none, for no image was answered by every model"
        found, whole = self._heat_map(rows), len(rows)
        while file.suffix.lower() == ".png" and not fits_png(found):
            rows = rows[: len(rows) // 2]
            found = self._heat_map(rows)
        file.parent.mkdir(parents=True, exist_ok=True)
        if file.suffix.lower() == ".png":
            draw_png(found, file)
        else:
            page = file.suffix.lower() == ".html"
            text = to_html_page(found, "Softmax heat map") if page else to_csv(found)
            write_bytes(file, text.encode())
        cut = f" (the first {len(rows)}; --out keeps all)" if self._left_out or len(rows) < whole else ""
        return f"heat map: {count_text(len(rows), 'row')}{cut}: {file}"

    def _heat_map(self, rows: Sequence[list[Answer]]) -> HeatMap:
        from apps.heatmap.heatmap import TOP, heat_map

        return heat_map(
            _row_names([answers[0] for answers in rows]),
            [readable(name) for name in rows[0][0].class_names],
            {
                title: np.stack([_probs(answers[place]) for answers in rows])
                for place, title in enumerate(self._titles)
            },
            thumbnails=[answers[0].crop for answers in rows],
            top=TOP,
        )


def _probs(answer: Answer) -> np.ndarray:
    if answer.probs is None:
        raise TypeError("an answer without probabilities has no place in a heat map")
    return answer.probs


def _row_names(answers: Sequence[Answer]) -> list[str]:
    """Return what the rows are called: the file's name where that tells them apart, else the whole path."""
    paths = {answer.path for answer in answers}
    short = len({os.path.basename(path) for path in paths}) == len(paths)  # noqa: PTH119
    names = []
    for answer in answers:
        name = os.path.basename(answer.path) if short else answer.path  # noqa: PTH119
        name += "" if answer.time is None else f", {answer.time:.2f} s"
        name += "" if answer.face_number is None else f", face {answer.face_number}"
        names.append(readable(name))
    return names


class LookFolder:
    """A folder of PNG figures that show where each model looked.

    Args:
        folder: made when it is missing.
        models: the models.
        titles: what each is called.

    Raises UsageError where the folder holds anything: old figures among new ones would mislead.
    """

    def __init__(self, folder: Path, models: Sequence[OnnxClassifier], titles: Sequence[str]) -> None:
        if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
            what = "holds files already" if folder.is_dir() else "is a file"
            raise UsageError(f"--explain {folder}: {what}; give the name of a new folder")
        folder.mkdir(parents=True, exist_ok=True)
        self.folder, self.count = folder, 0
        self.methods: set[str] = set()
        self._models, self._titles = models, titles
        self._names: set[str] = set()

    def add(self, answer: Answer) -> None:
        """Write the figure of one prediction: the crop, and over it where the model looked for its class."""
        from apps.runtime.occlusion import explain_onnx
        from finetune.figures.evidence_figure import Caption, draw_evidence

        if answer.model is None or answer.crop is None or answer.class_index is None:
            return
        model = self._models[answer.model]
        look, method = explain_onnx(model, answer.crop, answer.class_index)
        self.methods.add(method)
        (image,), title = _row_names([answer]), self._titles[answer.model]
        probability = float(_probs(answer)[answer.class_index])
        told = Caption(model.class_names, answer.class_index, probability, title, image, method)
        draw_evidence(self.folder / self._file_name(answer), answer.crop, look, told)
        self.count += 1

    def _file_name(self, answer: Answer) -> str:
        parts = [Path(answer.path).stem]
        parts += [] if answer.time is None else [f"{answer.time:.2f}s"]
        parts += [] if answer.face_number is None else [f"face{answer.face_number}"]
        parts += [self._titles[answer.model or 0]]
        stem = "-".join(safe_name(part) for part in parts)
        name, number = f"{stem}.png", 2
        while name.casefold() in self._names:  # some disks hold A.png and a.png to be the same
            name, number = f"{stem}-{number}.png", number + 1
        self._names.add(name.casefold())
        return name


def safe_name(text: str, limit: int = 60) -> str:
    """Return `text` as a part of a file name that every system takes.

    >>> safe_name("../CRL, fold 0")
    'CRL_fold_0'
    """
    return re.sub(r"[^A-Za-z0-9.]+", "_", text).strip("._")[:limit] or "_"
