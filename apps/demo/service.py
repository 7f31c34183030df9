"""What the demo answers: images in, rows of predictions out; no web page, no server, no torch."""

from __future__ import annotations

import itertools
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from agecls.faces.crop import FaceCrop
from apps.demo.answer import Answer, Guess, Row
from apps.demo.looks import look_at, most_looks
from apps.heatmap.heatmap import names_for_people
from apps.predict.predict import model_sets, unique_titles
from apps.runtime.answer_words import AnswerWords
from apps.runtime.session import OnnxClassifier
from apps.runtime.side_by_side import check_same_classes
from finetune.errors import CrlError, InterruptedRunError
from finetune.images.decode import BadImageError
from finetune.images.streams.guard import decode_guarded

if TYPE_CHECKING:
    from agecls.faces.alignment import Face
    from agecls.faces.detector import FaceDetector

GONE = "nobody waits for this answer any more"
CROP_IT = "crop the face yourself and say 'already cropped' (programs: already_cropped true)"
MAX_FACES = 12  # of one image, the largest ones: a group photograph must not hold everybody else up


@dataclass(frozen=True)
class _View:
    """An image or face before the models saw it: its place, and the prepared crop of every kind of model."""

    name: str
    face: int | None
    box: tuple[float, float, float, float] | None
    true: int | None
    warnings: tuple[str, ...]
    crops: Mapping[str, np.ndarray] = field(repr=False)


class DemoService:
    """The models of one tab and the way from an image file to their answers; any thread may ask.

    Args:
        models: exported models of one task, one at least, with one and the same list of classes.
        detector: finds faces in photographs; None where no detector's file is at hand.
        owns: returns whether a path is an upload or an example of this demo; nothing else is opened.
        max_files: images in one request.
        max_mb: size of one image's file, in MB.
        known_class: returns the true class of an example image, None for any other path.

    Raises ModelFileError when the models' class lists differ.
    """

    def __init__(
        self,
        models: Sequence[OnnxClassifier],
        detector: FaceDetector | None,
        *,
        owns: Callable[[Path], bool],
        max_files: int = 16,
        max_mb: float = 10.0,
        known_class: Callable[[Path], str | None] | None = None,
    ) -> None:
        check_same_classes(models)
        self.models = dict(zip(unique_titles(models), models, strict=True))
        self.detector = detector
        self.max_files, self.max_mb = max_files, max_mb
        self.words = AnswerWords.of(models[0].facts.task, self.class_names)
        self._owns, self._known_class = owns, known_class or (lambda _: None)

    @property
    def titles(self) -> tuple[str, ...]:
        """The models' titles, told apart where two files carry the same."""
        return tuple(self.models)

    @property
    def class_names(self) -> tuple[str, ...]:
        """The classes, in the order of the outputs."""
        return tuple(next(iter(self.models.values())).class_names)

    @property
    def wants_faces(self) -> bool:
        """Whether any of the models was trained on faces cut out of photographs."""
        return any(model.facts.crop is not None for model in self.models.values())

    @property
    def has_maps(self) -> bool:
        """Whether every model carries class activation maps, so that explaining costs next to nothing."""
        return all(model.has_maps for model in self.models.values())

    def answer(
        self,
        paths: Sequence[str | Path],
        titles: Sequence[str] | None = None,
        *,
        cropped: bool = False,
        truth: str | None = None,
        explain: bool = False,
        waits: Callable[[], bool] = lambda: True,
    ) -> Answer:
        """Classify uploaded images with the chosen models.

        Args:
            paths: the uploaded files.
            titles: the models to ask; None asks all.
            cropped: the images show one face each, cut out already: no face is looked for.
            truth: the class of all these images, where the visitor knows it; without it an example knows
                its own.
            explain: also draw where each network looked.
            waits: returns whether the visitor still does; asked before every image and every model.

        Returns the answer; whatever cannot be answered stands in its `errors`, in words.
        """
        start = time.perf_counter()
        chosen = self.titles if titles is None else tuple(title for title in self.titles if title in titles)
        refused = self._refusals(paths, chosen, titles, truth)
        if refused:
            return Answer(self.class_names, chosen, errors=tuple(("", reason) for reason in refused))
        errors: list[tuple[str, str]] = []
        views: list[_View] = []
        seen = 0
        different = list(dict.fromkeys(map(Path, paths)))
        for path, name in zip(different, unique_names([path.name for path in different]), strict=True):
            if not waits():
                return Answer(self.class_names, chosen, errors=(("", GONE),))
            found, trouble = self._look_at(path, name, chosen, cropped, truth)
            views += found
            seen += bool(found)
            errors += [(name, reason) for reason in trouble]
        most = most_looks([self.models[title] for title in chosen])
        if explain and most is not None and len(views) > most:
            reason = f"where a model without maps looked is shown for the first {most} of {len(views)} crops"
            errors.append(("", reason))
        rows: tuple[Row, ...] = ()
        try:
            rows = self._classify(views, chosen, explain, waits) if views else ()
        except CrlError as error:
            errors.append(("", self._without_paths(error)))
        devices = sorted({_device(self.models[title]) for title in chosen})
        seconds = time.perf_counter() - start
        ran_on, line = " and ".join(devices), self.words.line
        return Answer(self.class_names, chosen, rows, tuple(errors), seen, seconds, ran_on, line)

    def _refusals(
        self,
        paths: Sequence[str | Path],
        chosen: Sequence[str],
        titles: Sequence[str] | None,
        truth: str | None,
    ) -> list[str]:
        """Return why the whole request cannot be answered, in words; empty where it can."""
        reasons = []
        if not paths:
            reasons.append("there is no image yet: drop one or more, or choose an example")
        if len(paths) > self.max_files:
            reasons.append(f"{len(paths)} images are too many at once: choose {self.max_files} or fewer")
        unknown = sorted(set(titles or ()) - set(self.titles))
        if unknown:
            reasons.append(f"no model is called {', '.join(unknown)}; there are: {', '.join(self.titles)}")
        elif not chosen:
            reasons.append("no model is chosen: choose at least one")
        if truth is not None and truth not in self.class_names:
            shown = ", ".join(self.class_names[:30]) + (", ..." if len(self.class_names) > 30 else "")
            reasons.append(f"{truth!r} is none of the classes: {shown}")
        return reasons

    def _look_at(
        self, path: Path, name: str, chosen: Sequence[str], cropped: bool, truth: str | None
    ) -> tuple[list[_View], list[str]]:
        """Return the views of one image and what was wrong with it, in words."""
        if not self._owns(path):
            return [], ["this is no image uploaded here, or it has been removed meanwhile: upload it again"]
        try:
            size = path.stat().st_size
            if size > self.max_mb * 1e6:
                return [], [f"{size / 1e6:.1f} MB, at most {self.max_mb:g} MB are read: make it smaller"]
            notices: list[str] = []
            image = decode_guarded(path, notices=notices)
            true = self._true_index(path, truth)
            warnings = tuple(notice.removeprefix(f"{path}: ") for notice in notices)
            if cropped or not self.wants_faces:
                return [self._view(name, image, chosen, true, warnings)], []
            return self._faces(name, image, chosen, true, warnings)
        except FileNotFoundError:
            return [], ["it has been removed meanwhile: upload it again"]
        except BadImageError as error:
            return [], [error.reason]
        except CrlError as error:
            return [], [self._without_paths(error)]

    def _true_index(self, path: Path, truth: str | None) -> int | None:
        name = truth if truth is not None else self._known_class(path)
        return self.class_names.index(name) if name in self.class_names else None

    def _without_paths(self, error: CrlError) -> str:
        """Return the error's words with the models' titles in place of their paths on this machine."""
        words = str(error)
        for title, model in self.models.items():
            words = words.replace(str(model.path), title)
        return words

    def _faces(
        self, name: str, image: np.ndarray, chosen: Sequence[str], true: int | None, warnings: tuple[str, ...]
    ) -> tuple[list[_View], list[str]]:
        if self.detector is None:
            return [], [f"this demo has no face detector: {CROP_IT}"]
        faces = self.detector.detect(image)
        if not faces:
            return [], [f"no face was found: try a clearer one, or {CROP_IT}"]
        views = [
            self._view(name, image, chosen, true, warnings + tuple(face.warnings()), number, face)
            for number, face in enumerate(faces[:MAX_FACES], start=1)
        ]
        if len(faces) > MAX_FACES:  # said once, not at every face
            crowd = f"{len(faces)} faces were found, the {MAX_FACES} largest are shown"
            views[0] = replace(views[0], warnings=(crowd, *views[0].warnings))
        return views, []

    def _view(
        self,
        name: str,
        image: np.ndarray,
        chosen: Sequence[str],
        true: int | None,
        warnings: tuple[str, ...],
        number: int | None = None,
        face: Face | None = None,
    ) -> _View:
        """Prepare the image, or one face of it, for every chosen model; models that agree share a crop."""
        made: dict[object, np.ndarray] = {}
        crops = {}
        for title in chosen:
            model = self.models[title]
            rule = None if face is None or model.facts.crop is None else FaceCrop.from_dict(model.facts.crop)
            key = (model.facts.preprocess, rule)
            if key not in made:
                made[key] = model.prepare(_cut(image, face, rule, model))
            crops[title] = made[key]
        box = None if face is None else face.box
        return _View(name, number, box, true, warnings, crops)

    def _classify(
        self, views: Sequence[_View], chosen: Sequence[str], explain: bool, waits: Callable[[], bool]
    ) -> tuple[Row, ...]:
        most = most_looks([self.models[title] for title in chosen])
        guesses = {}
        for title in chosen:
            if not waits():
                raise InterruptedRunError(GONE)
            model, crops = self.models[title], [view.crops[title] for view in views]
            looks = len(crops) if model.has_maps or most is None else most
            guesses[title] = ask(model, crops, looks if explain else 0, self.words)
        return tuple(
            Row(
                view.name,
                view.face,
                view.box,
                view.true,
                {title: guesses[title][index] for title in chosen},
                view.warnings,
            )
            for index, view in enumerate(views)
        )


def ask(
    model: OnnxClassifier,
    crops: Sequence[np.ndarray],
    looks: int,
    words: AnswerWords,
    batch_size: int = 32,
) -> list[Guess]:
    """Return what a model says of prepared crops (each uint8 (S, S, 3)), and where it looked.

    Args:
        model: the model.
        crops: what it is shown.
        looks: of how many crops, the first ones, a map is made of where the model looked.
        words: by which its sets are told.
        batch_size: crops at once.
    """
    guesses = []
    names, calibration = names_for_people(model.class_names), model.facts.calibration
    for first in range(0, len(crops), batch_size):
        batch = np.stack(crops[first : first + batch_size])
        told = model.run(batch, maps=model.has_maps and first < looks)
        probs = told.probs.astype(np.float64)
        sets = model_sets(model, probs)
        for place, crop in enumerate(batch):
            index = int(probs[place].argmax())
            maps = None if told.maps is None else told.maps[place]
            look, method = look_at(model, crop, index, maps) if first + place < looks else (None, "")
            inside = None if sets is None else sets[place]
            said = words.of_answer(calibration, names, probs[place], inside)
            guesses.append(Guess(index, probs[place], crop, look, method, inside, said))
    return guesses


def unique_names(names: Sequence[str]) -> list[str]:
    """Return the names in their order, those that came before with a number.

    >>> unique_names(["image.jpg", "a.png", "image.jpg", "image.jpg (2)"])
    ['image.jpg', 'a.png', 'image.jpg (3)', 'image.jpg (2)']
    """
    given, taken, told = set(names), set[str](), []
    for name in names:
        numbers = (f"{name} ({number})" for number in itertools.count(2))
        free = next(other for other in numbers if other not in given | taken) if name in taken else name
        taken.add(free)
        told.append(free)
    return told


def _cut(image: np.ndarray, face: Face | None, rule: FaceCrop | None, model: OnnxClassifier) -> np.ndarray:
    if face is None or rule is None:
        return image
    from agecls.faces.alignment import crop_face

    spec = model.facts.preprocess
    return crop_face(image, face, rule, spec.resize_size, spec.interpolation)


def _device(model: OnnxClassifier) -> str:
    return "CPU" if model.device == "cpu" else "GPU"
