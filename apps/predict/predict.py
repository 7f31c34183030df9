"""Models' predictions: one per image, face and model, made as the images stream by."""

from __future__ import annotations

from collections import deque
from collections.abc import Generator, Iterable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import closing
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Literal, Protocol

import numpy as np

from agecls.faces.crop import FaceCrop
from apps.predict.loader import Picture, Seen, stream_pictures
from apps.runtime.batching import views
from apps.runtime.calibration import answer_sets
from finetune.cli.machine import core_count
from finetune.images.preprocess import TEST_CROPS

if TYPE_CHECKING:
    from agecls.faces.alignment import Face
    from apps.runtime.session import OnnxClassifier

MOST_WORKERS = 16  # each may hold an image of 50 megapixels
Waiting = tuple[Seen[tuple["View", ...]], "View | None"]


class FindsFaces(Protocol):
    """A face detector, as `agecls.faces.detector.FaceDetector` is; several threads call it at once."""

    def detect(self, image: np.ndarray) -> list[Face]:
        """Return the faces of an image, uint8 (H, W, 3) RGB, the largest first."""


@dataclass(frozen=True, eq=False)
class Answer:
    """What one model predicts for one image or face; or, once per image, why none was run.

    Args:
        index: place of the image in the list, from 0.
        path: of the image or video.
        status: ok; bad (the image cannot be used); no face (none was found where faces were looked for).
        reason: why it is bad; empty otherwise.
        time: of a video's frame, in seconds.
        face_number: of the face in its image, from 1, the largest first; None for a whole image.
        face: where it is.
        model: place of the model in the list; None unless the status is ok.
        class_names: the model's K classes.
        probs: of the classes, float64 (K,); several test crops are averaged.
        inside: which classes are in the set of this answer, bool (K,); None for a model without sets, and
            for an average over several test crops, which no set was calibrated for.
        read_from: the answer by the model's own classes, where this one is read as others.
        crop: the pixels that the network saw, uint8 (S, S, 3): the central ones.
        notices: what the decoder has to say about an image that it could read.
    """

    index: int
    path: str
    status: Literal["ok", "bad", "no face"]
    reason: str = ""
    time: float | None = None
    face_number: int | None = None
    face: Face | None = None
    model: int | None = None
    class_names: tuple[str, ...] = ()
    probs: np.ndarray | None = None
    inside: np.ndarray | None = None
    read_from: Answer | None = None
    crop: np.ndarray | None = None
    notices: tuple[str, ...] = ()

    @property
    def class_index(self) -> int | None:
        """The place of the most probable class, the first of equal ones; None without an answer."""
        return None if self.probs is None else int(self.probs.argmax())

    def top(self, count: int) -> list[tuple[str, float]]:
        """Return the `count` most probable classes with their probabilities, best first; [] without any."""
        if self.probs is None:
            return []
        order = np.argsort(-self.probs, kind="stable")[:count]
        return [(self.class_names[index], float(self.probs[index])) for index in order.tolist()]


@dataclass(frozen=True, eq=False)
class View:
    """What the models that look at it see of an image: the whole of it, or one face.

    Args:
        crops: the test crops, uint8 (n, S, S, 3), the central one first, by the model's place in the list;
            models that prepare alike share them.
        number: of the face in its image; None for the whole image.
        face: where the face is.
    """

    crops: dict[int, np.ndarray] = field(default_factory=dict)
    number: int | None = None
    face: Face | None = None


class ViewCutter:
    """Cuts out and prepares what each of several models is to see of an image; any thread may call it.

    Args:
        models: the models, each with its own preprocessing and face crop.
        detector: finds faces for the models that expect one; None shows every model the whole image.
        test_crops: the views of an image, as `crops_asked` takes it.
    """

    def __init__(
        self,
        models: Sequence[OnnxClassifier],
        detector: FindsFaces | None = None,
        test_crops: str = "center",
    ) -> None:
        self._models = list(models)
        self._test_crops = crops_asked(models, test_crops)
        self._detector = detector
        crops = [None if detector is None else model.facts.crop for model in models]
        self._crops = [None if crop is None else FaceCrop.from_dict(crop) for crop in crops]

    def __call__(self, image: np.ndarray) -> tuple[View, ...]:
        """Return the views of an image, uint8 (H, W, 3): the whole one where a model sees that, then faces.

        Empty where every model expects a face and there is none.
        """
        whole = [position for position, crop in enumerate(self._crops) if crop is None]
        found = [View(self._prepared(image, whole, None))] if whole else []
        if self._detector is None or len(whole) == len(self._models):
            return tuple(found)
        cut = [position for position, crop in enumerate(self._crops) if crop is not None]
        for number, face in enumerate(self._detector.detect(image), 1):
            found.append(View(self._prepared(image, cut, face), number, face))
        return tuple(found)

    def waiting(self, seen: Seen[tuple[View, ...]]) -> list[Waiting]:
        """Return the views of an image, and None after them where it is bad or lacks the face expected."""
        found = seen.value or ()
        expects_face = any(crop is not None for crop in self._crops)
        lacking = bool(seen.reason) or (expects_face and not any(view.face for view in found))
        return [(seen, view) for view in found] + ([(seen, None)] if lacking else [])

    def _prepared(self, image: np.ndarray, positions: list[int], face: Face | None) -> dict[int, np.ndarray]:
        """Return the crops for each of the models at `positions`, made once for those that prepare alike."""
        made: dict[object, np.ndarray] = {}
        crops = {}
        for position in positions:
            model, rule = self._models[position], self._crops[position]
            spec, shown = model.facts.preprocess, self._test_crops[position]
            alike = (rule, spec, shown)
            if alike not in made:
                pixels = image if rule is None else _face_pixels(image, face, rule, model)
                made[alike] = views(pixels, spec, shown)
            crops[position] = made[alike]
        return crops


def _face_pixels(image: np.ndarray, face: Face | None, rule: FaceCrop, model: OnnxClassifier) -> np.ndarray:
    from agecls.faces.alignment import crop_face

    if face is None:
        raise TypeError("a model that expects a face was given none")
    spec = model.facts.preprocess
    return crop_face(image, face, rule, spec.resize_size, spec.interpolation)


def crops_asked(models: Sequence[OnnxClassifier], test_crops: str) -> list[str]:
    """Return the test crops of each model: "run" stands for those that its scores were measured with."""
    return [model.facts.test_crops if test_crops == "run" else test_crops for model in models]


def predict_pictures(
    models: Sequence[OnnxClassifier],
    pictures: Iterable[Picture],
    *,
    batch_size: int = 32,
    detector: FindsFaces | None = None,
    fps: float = 1.0,
    test_crops: str = "center",
    workers: int = 0,
    at_once: int = 2,
) -> Generator[Answer, None, None]:
    """Yield what every model says of every image, in the order of `pictures`, then faces, then models.

    Each image is decoded once, by threads that run ahead of the models, and never more than a few are held.

    Args:
        models: one or more; their classes and preprocessing may differ.
        pictures: files, sources of `apps.predict.inputs`, the bytes of files, or RGB pixels, uint8
            (H, W, 3).
        batch_size: crops that a model is shown at once, across images; at least those of one image.
        detector: finds the faces for the models that expect them; None shows the whole images.
        fps: frames of a video to look at, per second of it.
        test_crops: center, flip or ten views of each image, averaged; run: what each model's scores were
            measured with.
        workers: threads that decode; 0 is one for every core, at most 16.
        at_once: batches in the models at the same time; one alone leaves cores idle between its steps.

    An image that cannot be used, or has no face, gives one answer with that status instead.
    """
    cutter = ViewCutter(models, detector, test_crops)
    most = max(TEST_CROPS[crops] for crops in crops_asked(models, test_crops))
    batch_size = max(1, batch_size // most)  # images from here on
    threads = workers or min(MOST_WORKERS, core_count())
    ahead = 2 * max(batch_size * at_once, threads)
    stream = stream_pictures(pictures, cutter, workers=threads, ahead=ahead, fps=fps)
    waiting: list[Waiting] = []
    running: deque[Future[list[Answer]]] = deque()
    with ThreadPoolExecutor(at_once, "crl-run") as pool, closing(stream):
        try:
            for seen in stream:
                waiting += cutter.waiting(seen)
                while _enough(waiting, batch_size):
                    now, waiting = waiting[:batch_size], waiting[batch_size:]
                    running.append(pool.submit(_answers, models, now))
                    if len(running) > at_once:
                        yield from running.popleft().result()
            running.append(pool.submit(_answers, models, waiting))
            while running:
                yield from running.popleft().result()
        finally:
            pool.shutdown(wait=True, cancel_futures=True)


def _enough(waiting: Sequence[Waiting], batch_size: int) -> bool:
    """Return whether a batch is together, or so many unreadable images that they should be reported."""
    return sum(view is not None for _, view in waiting) >= batch_size or len(waiting) > 4 * batch_size


def _answers(models: Sequence[OnnxClassifier], waiting: Sequence[Waiting]) -> list[Answer]:
    """Show every model its crops of the waiting views, as one batch; return the answers in their order.

    A model's probabilities are the mean over the test crops of a view.
    """
    probs: dict[tuple[int, int], np.ndarray] = {}
    sets: dict[tuple[int, int], np.ndarray] = {}
    for position, model in enumerate(models):
        rows = [row for row, (_, view) in enumerate(waiting) if view is not None and position in view.crops]
        batch = [view.crops[position] for _, view in waiting if view is not None and position in view.crops]
        if batch:
            probs_each = model.run(np.concatenate(batch)).probs.astype(np.float64)
            found = probs_each.reshape(len(batch), len(batch[0]), -1).mean(axis=1)
            probs.update({(row, position): found[place] for place, row in enumerate(rows)})
            inside = model_sets(model, found) if len(batch[0]) == 1 else None
            if inside is not None:
                sets.update({(row, position): inside[place] for place, row in enumerate(rows)})
    answers = []
    for row, (seen, view) in enumerate(waiting):
        plain = Answer(seen.index, seen.path, "ok", seen.reason, seen.time, notices=seen.notices)
        if view is None:
            answers.append(replace(plain, status="bad" if seen.reason else "no face"))
            continue
        for position, crops in view.crops.items():
            answers.append(
                replace(
                    plain,
                    face_number=view.number,
                    face=view.face,
                    model=position,
                    class_names=models[position].class_names,
                    probs=probs[row, position],
                    inside=sets.get((row, position)),
                    crop=crops[0],
                )
            )
    return answers


def model_sets(model: OnnxClassifier, probs: np.ndarray) -> np.ndarray | None:
    """Return which classes are in the set of each image, bool (N, K), of one view's probs; None without."""
    return answer_sets(model.facts.calibration, probs, ordered=model.facts.ordered)


def unique_titles(models: Sequence[OnnxClassifier]) -> list[str]:
    """Return the models' titles, numbered where two share one, so that a table can tell them apart."""
    titles = [model.title for model in models]
    counts: dict[str, int] = {}
    unique = []
    for title in titles:
        counts[title] = counts.get(title, 0) + 1
        unique.append(f"{title} ({counts[title]})" if titles.count(title) > 1 else title)
    return unique
