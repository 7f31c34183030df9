"""What a prediction says before and after: the plan, the counts, the notices, the summary for programs."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from apps.predict.inputs import Found
from apps.predict.predict import Answer, crops_asked
from apps.predict.writers import on_one_line, readable
from apps.runtime.answer_words import AnswerWords
from apps.runtime.metadata import is_for_drawings, learned_from_boxes
from finetune.cli.console import say
from finetune.errors import DataError, listing
from finetune.experiments.exported.lookup import drawing_words
from finetune.figures.canvas import count_text

if TYPE_CHECKING:
    from apps.config import PredictConfig
    from apps.runtime.session import OnnxClassifier

REST = "Everything else was classified"


@dataclass
class Tally:
    """What was seen so far, and since when.

    Args:
        rows: answers, and images without one.
        pictures: images and frames that could be looked at.
        faces: faces found in them.
        no_face: those in which none was found.
        bad: those that could not be used, as (path, reason).
        notices: what the decoder had to say; each sentence once.
        begun: sources that were begun.
        seconds: from the start until `stop_clock`.
    """

    rows: int = 0
    pictures: int = 0
    faces: int = 0
    no_face: int = 0
    bad: list[tuple[str, str]] = field(default_factory=list)
    notices: dict[str, None] = field(default_factory=dict)
    begun: int = 0
    seconds: float = 0.0
    _start: float = field(default_factory=time.perf_counter)
    _picture: tuple[object, ...] = ()
    _face: tuple[object, ...] = ()

    def add(self, answer: Answer) -> None:
        """Count one answer; those to the same image or face come one after the other."""
        self.rows += 1
        self.begun = answer.index + 1
        self.notices.update(dict.fromkeys(answer.notices))
        self.no_face += answer.status == "no face"
        if answer.status == "bad":
            self.bad.append((answer.path, answer.reason))
            return
        picture = (answer.index, answer.time)
        self.pictures += picture != self._picture
        self._picture = picture
        if answer.face_number is not None:
            face = (*picture, answer.face_number)
            self.faces += face != self._face
            self._face = face

    def stop_clock(self) -> None:
        """Take the time."""
        self.seconds = max(time.perf_counter() - self._start, 1e-9)

    def tell(self, notices: Sequence[str] = ()) -> None:
        """Say the notices (these first) and the counts."""
        lines = [on_one_line(notice) for notice in (*notices, *self.notices)]
        if lines:
            say(f"{count_text(len(lines), 'notice')}:\n{listing(lines)}")
        parts = [f"{count_text(self.pictures, 'image')} in {self.seconds:.1f} s"]
        parts += [f"{self.pictures / self.seconds:.4g} a second", count_text(self.rows, "row")]
        parts += [count_text(self.faces, "face")] if self.faces else []
        parts += [f"{self.no_face:,} without a face"] if self.no_face else []
        parts += [f"{len(self.bad):,} bad"] if self.bad else []
        say(", ".join(parts))

    def complaint(self, total: int) -> DataError | None:
        """Return the error that lists the bad ones among `total` sources; None where all were good."""
        if not self.bad:
            return None
        lines = [on_one_line(f"{path}: {reason}") for path, reason in self.bad]
        return DataError(
            f"{len(self.bad):,} of {total:,} could not be used:\n{listing(lines)}\n"
            f"{REST if len(self.bad) < total else 'Nothing was classified'}; fix these or leave them out."
        )

    def summary(self) -> dict[str, Any]:
        """Return the counts for `--json`."""
        return {
            "pictures": self.pictures,
            "rows": self.rows,
            "faces": self.faces,
            "no_face": self.no_face,
            "bad": len(self.bad),
            "bad_files": [{"path": readable(path), "reason": readable(why)} for path, why in self.bad],
            "seconds": round(self.seconds, 3),
            "images_per_second": round(self.pictures / self.seconds, 2),
        }


def described(models: Sequence[OnnxClassifier], titles: Sequence[str], test_crops: str) -> dict[str, Any]:
    """Return what `--json` says of the models; `test_crops` as `crops_asked` takes it."""
    named = [
        {
            "title": title,
            "file": readable(str(model.path)),
            "sha256": model.sha256,
            "device": model.device,
            "test_crops": crops,
        }
        for title, model, crops in zip(titles, models, crops_asked(models, test_crops), strict=True)
    ]
    return {"models": named, "device": models[0].device}


def say_plan(
    models: Sequence[OnnxClassifier],
    titles: Sequence[str],
    found: Found,
    config: PredictConfig,
    detector: str | None,
) -> None:
    """Say what will be looked at, by which models, where they run, and how faces are dealt with."""
    videos = sum(source.kind == "video" for source in found.sources)
    missing = sum(source.kind == "nothing" for source in found.sources)
    parts = [count_text(len(found.sources) - videos - missing, "image")]
    parts += [f"{count_text(videos, 'video')} ({config.fps:g} a second)"] if videos else []
    parts += [f"{missing:,} not found"] if missing else []
    say(f"{', '.join(parts)}; {count_text(len(models), 'model')}: {', '.join(titles)}")
    say("\n".join(dict.fromkeys(model.device_note for model in models)))
    asked = crops_asked(models, config.test_crops)
    if set(asked) != {"center"}:
        each = zip(titles, asked, strict=True)
        told = (
            asked[0] if len(set(asked)) == 1 else ", ".join(f"{crops} for {title}" for title, crops in each)
        )
        say(f"averaged over several views of an image (test crops: {told}); --test_crops center shows one")
    drawn = {
        title: model for title, model in zip(titles, models, strict=True) if is_for_drawings(model.facts)
    }
    if drawn:
        words = drawing_words([model.facts.task for model in drawn.values()])
        say(f"not for {words.photographs}: {', '.join(drawn)} learned from synthetic {words.drawings} alone")
    boxed = [title for title, model in zip(titles, models, strict=True) if learned_from_boxes(model.facts)]
    if boxed:
        say(f"crop the images to their objects: {', '.join(boxed)} learned from images cut to them")
    _say_sets(models, titles, asked)
    expecting = any(model.facts.crop is not None for model in models)
    if detector is not None:
        say(f"faces: {detector}" if expecting else "no model expects a face: they are shown whole images")
    elif expecting:
        say("the images are taken for cropped faces; --faces finds the faces in photographs and crops them")


def _say_sets(models: Sequence[OnnxClassifier], titles: Sequence[str], asked: Sequence[str]) -> None:
    """Say what the sets of calibrated files promise, or why they are left out."""
    for title, model, crops in zip(titles, models, asked, strict=True):
        words = AnswerWords.of(model.facts.task, model.class_names)
        told = words.promise(model.facts.calibration)
        if told and crops != "center":
            told = f"no sets: they were calibrated for one view of an image, not for {crops}"
        if told:
            say(f"{title}: {told}")
