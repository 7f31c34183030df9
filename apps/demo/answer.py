"""What one request to the demo gets back, as data: rows of predictions, errors in words, a status line."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np

from apps.heatmap.heatmap import names_for_people

if TYPE_CHECKING:
    from apps.heatmap.heatmap import HeatMap
    from finetune.experiments.exported.number_line import NumberLine


@dataclass(frozen=True)
class Guess:
    """What one model says of one image or face.

    Args:
        class_index: the predicted class.
        probs: (K,) the probabilities of all classes, float64.
        crop: uint8 (S, S, 3), exactly what the network saw.
        look: uint8 (S, S, 3), the crop under a map of where the network looked; None unless asked for.
        look_method: how that map was made.
        inside: which classes are in the set, bool (K,); None for a model without sets.
        told: what the set promises, in a sentence; of numbers without a set, where the middle of the
            probability lies; else empty.
    """

    class_index: int
    probs: np.ndarray
    crop: np.ndarray
    look: np.ndarray | None = None
    look_method: str = ""
    inside: np.ndarray | None = None
    told: str = ""


@dataclass(frozen=True)
class Row:
    """One image, or one face of it, and what every chosen model says of it.

    Args:
        name: the image's file name, as uploaded; images of one name are told apart by a number, so that
            no two images of an answer share a name.
        face: 1 for the largest face, 2 for the next; None where the image is taken as it is.
        box: the face in the upright image: x, y, width, height (px).
        true: the index of the class that the visitor gave, None where nobody did.
        guesses: by the model's title.
        warnings: what makes the answer doubtful.
    """

    name: str
    face: int | None
    box: tuple[float, float, float, float] | None
    true: int | None
    guesses: Mapping[str, Guess]
    warnings: tuple[str, ...] = ()


@dataclass(frozen=True)
class Answer:
    """Everything that one request gets back.

    Args:
        class_names: the classes, in the models' order.
        titles: the chosen models.
        rows: the images and faces that were classified, in the order of the upload.
        errors: (image or "", what was wrong and what to do), in words.
        pictures: how many images were looked at, refused ones left out.
        seconds: from the request's arrival in the service to its answer.
        device: what computed: "CPU", "GPU".
        line: the numbers that the classes stand for, None where they are none.
    """

    class_names: tuple[str, ...]
    titles: tuple[str, ...] = ()
    rows: tuple[Row, ...] = ()
    errors: tuple[tuple[str, str], ...] = ()
    pictures: int = 0
    seconds: float = 0.0
    device: str = "CPU"
    line: NumberLine | None = None

    @cached_property
    def names(self) -> tuple[str, ...]:
        """The classes' names for people, in the models' order."""
        return names_for_people(self.class_names)

    @property
    def status(self) -> str:
        """One line: how much was done, how long it took, and on what."""
        if not self.rows:
            return "nothing was classified"
        faces = sum(row.face is not None for row in self.rows)
        counts = [_count(self.pictures, "image")] + [_count(faces, "face")] * (faces > 0)
        counts += [_count(len(self.titles), "model")]
        return f"{', '.join(counts)}, {_seconds(self.seconds)} on {self.device}"

    def faces(self, row: Row) -> int:
        """Return how many faces of the row's image were classified; 0 where none were looked for."""
        return sum(other.name == row.name and other.face is not None for other in self.rows)

    def label(self, row: Row) -> str:
        """Return the image's name, and the face's number where the image shows several."""
        return f"{row.name}, face {row.face}" if self.faces(row) > 1 else row.name

    def to_dict(self) -> dict[str, Any]:
        """Return the answer as the JSON object of the /predict endpoint."""
        return {
            "pictures": [_row_dict(row, self.class_names, self.line) for row in self.rows],
            "errors": [{"name": name, "reason": reason} for name, reason in self.errors],
            "status": self.status,
        }

    def heat_map(self) -> HeatMap:
        """Return the answer as softmax heat maps: a row per image or face, a table per model."""
        from apps.heatmap.heatmap import TOP, HeatMap

        first = self.titles[0]
        targets = tuple(row.true for row in self.rows)
        return HeatMap(
            rows=tuple(map(self.label, self.rows)),
            class_names=self.class_names,
            tables={
                title: np.stack([row.guesses[title].probs for row in self.rows]) for title in self.titles
            },
            targets=targets if any(target is not None for target in targets) else None,
            thumbnails=tuple(row.guesses[first].crop for row in self.rows),
            top=TOP,
        )


def _seconds(seconds: float) -> str:
    return f"{seconds:.1f} s" if seconds >= 0.1 else f"{max(seconds, 0.01):.2f} s"


def _count(number: int, noun: str) -> str:
    return f"{number} {noun}" if number == 1 else f"{number} {noun}s"


def _row_dict(row: Row, names: Sequence[str], line: NumberLine | None) -> dict[str, Any]:
    numbers = {} if line is None else line.columns()
    return {
        "name": row.name,
        "face": row.face,
        "box": None if row.box is None else [round(float(value), 1) for value in row.box],
        "true": None if row.true is None else names[row.true],
        "models": {
            title: {
                "class": names[guess.class_index],
                "probability": float(guess.probs[guess.class_index]),
                **{column: value_of(guess.probs) for column, value_of in numbers.items()},
                **_set_dict(guess, names),
                "probs": {name: float(value) for name, value in zip(names, guess.probs, strict=True)},
            }
            for title, guess in row.guesses.items()
        },
        "warnings": list(row.warnings),
    }


def _set_dict(guess: Guess, names: Sequence[str]) -> dict[str, Any]:
    """Return the set, and what is said of it or of the middle of the probability; {} for neither."""
    found = {} if guess.inside is None else {"set": [names[k] for k in np.flatnonzero(guess.inside).tolist()]}
    return found | ({"told": guess.told} if guess.told else {})
