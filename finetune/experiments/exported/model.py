"""An exported model as a task sees it, and the words by which a task's exported models are shown."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

if TYPE_CHECKING:
    import numpy as np

    from finetune.images.manifest import Manifest


class ExportedFacts(Protocol):
    """The facts inside an exported file that a task reads; `apps.runtime.metadata.ModelFacts` has them."""

    @property
    def class_names(self) -> tuple[str, ...]:
        """The K classes, in the order of the outputs."""

    @property
    def crop(self) -> Mapping[str, Any] | None:
        """How a face is cut out, None where the model expects no face."""

    @property
    def test_crops(self) -> str:
        """The views that the scores average over: center, flip or ten."""

    @property
    def precision(self) -> str:
        """What the file computes in: fp32, fp16 or int8."""

    @property
    def data(self) -> Mapping[str, Any]:
        """Data set, protocol, fold, and the fingerprint of the table of images under "manifest"."""

    @property
    def metrics(self) -> Mapping[str, Any]:
        """The scores that `Task.card` gave; empty where nothing was tested."""

    @property
    def card(self) -> Mapping[str, Any]:
        """What else `Task.card` gave."""

    @property
    def calibration(self) -> Mapping[str, Any]:
        """What makes `probs` of `logits`, and the sets; empty where `probs` is softmax(logits)."""


class ExportedModel(Protocol):
    """An exported model that is run on images."""

    @property
    def path(self) -> Path:
        """Its file."""

    @property
    def class_names(self) -> tuple[str, ...]:
        """The classes in the order of its answers."""

    @property
    def facts(self) -> ExportedFacts:
        """What the file says of itself."""


class CropChoice(Protocol):
    """What a user may ask of the face crop that an exported model carries."""

    @property
    def face_crop(self) -> str:
        """Aligned, faces, plain, or auto."""

    @property
    def face_margin(self) -> float | None:
        """Fraction of the face box added on every side; None for the style's own."""

    @property
    def detector(self) -> str | None:
        """A face detector's file; None looks in the usual places."""


@dataclass(frozen=True)
class ModelWords:
    """By which words a task's exported models are shown.

    Args:
        kind: what a file calls its task: a lower-case letter, then such letters, digits, - and _.
        tab: the demo's tab.
        question: what the tab answers, in HTML.
        purpose: what the answers are not for, in a sentence; empty where there is nothing to say.
        photographs: the images that a model of drawings is not for.
        drawings: the drawings that such a model learned from.
        missing: of a tab that stands there without a model its title, a command that exports one, and one
            that starts the demo with it; None for a tab that comes with its first model.
    """

    kind: str
    tab: str
    question: str = "Which class does an image show?"
    purpose: str = ""
    photographs: str = "photographs"
    drawings: str = "images"
    missing: tuple[str, str, str] | None = None


@dataclass(frozen=True)
class CardText:
    """What a task writes on the model card of one of its models, as Markdown.

    Args:
        does: what the model takes and names, in a sentence.
        scored: its scores in a sentence; empty where none is known.
        measured: what was measured: tables and sentences.
        warnings: the first of the card's limits, a line each.
        anything_else: what an image may show that the model has no class for.
        data: which images were learned from and tested on, as rows of words and escaped text.
    """

    does: str
    scored: str
    measured: str
    warnings: tuple[str, ...] = ()
    anything_else: str = "none of the classes"
    data: tuple[tuple[str, str], ...] = ()


@dataclass(frozen=True, eq=False)
class OtherData:
    """Images that exported models are run on: none of a run's own test.

    Args:
        images: N of them.
        target: (N,), their classes in the order of the models.
        told: how many images of what, in words.
        boxes: (N, 4) in px, the part of each image that is looked at; None for whole images.
    """

    images: Manifest
    target: np.ndarray
    told: str
    boxes: np.ndarray | None = None
