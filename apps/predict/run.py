"""`crl predict`: exported models run on images, folders, patterns and videos; a row for every prediction."""

from __future__ import annotations

import functools
import math
import sys
import threading
from collections.abc import Callable, Sequence
from contextlib import ExitStack, closing
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from apps.predict.inputs import Found, check_fps, find_sources, read_list
from apps.predict.predict import Answer, crops_asked, predict_pictures, unique_titles
from apps.predict.reading import Reading, readings_of
from apps.predict.summary import Tally, described, say_plan
from apps.predict.views import HeatMapRows, LookFolder, TerminalTable
from apps.predict.writers import SUFFIXES, Layout, check_suffix, on_one_line, open_predictions, readable
from apps.runtime.installed import refuse_twins
from finetune.cli.console import progress, say
from finetune.cli.machine import core_count
from finetune.errors import CrlError, InterruptedRunError, ResourceError, UsageError
from finetune.figures.canvas import count_text
from finetune.runs.files import check_writable
from finetune.runs.interrupts import StopRequest

if TYPE_CHECKING:
    import numpy as np

    from agecls.faces.alignment import Face
    from apps.config import PredictConfig
    from apps.runtime.session import OnnxClassifier

EXAMPLE = "for example: crl predict model.onnx photos/ --out answers.csv"
MOST_AT_ONCE = 4
BEST = 5  # of a prediction's classes that are shown where there are many
HEAT_MAP_SUFFIXES = (".png", ".html", ".csv")


def predict_paths(words: list[str], config: PredictConfig) -> dict[str, Any]:
    """Run the models that `words` begin with; write and print the predictions, and return a summary.

    `words` are one .onnx file or more, then files, folders, patterns and videos, or "-" for a list of them on
    the standard input.

    Raises UsageError for invalid words or options, ModelFileError for a model that must not be
    used (or has other classes, where one table is asked for), before any image is read. When everything is
    written: DataError where images could not be used, InterruptedRunError after Ctrl-C; both carry the
    summary as `result`.
    """
    model_words, picture_words = split_words(words)
    out, heat_map = _check_options(config)
    refuse_twins()
    from apps.runtime.session import OnnxClassifier

    detector = face_finder(config)
    found = find_sources(_with_lists(picture_words), recursive=config.recursive)
    at_once, threads = share_threads(config.threads or core_count())
    models = [OnnxClassifier(Path(word), device=config.device, threads=threads) for word in model_words]
    titles = [on_one_line(title) for title in unique_titles(models)]
    readings = readings_of(models, config.groups) if config.groups else []
    layout = _layout(models, titles, found, config, readings, one_table=heat_map is not None)
    sinks = _Sinks(out, layout, heat_map, config.explain, models, titles)
    say_plan(models, titles, found, config, detector.name if detector else None)
    tally, failure = _run(models, found, config, detector, sinks, at_once, readings)
    sinks.tell()
    tally.tell(found.notices)
    summary = {**tally.summary(), **described(models, titles, config.test_crops), "files": sinks.files()}
    failure = failure or tally.complaint(len(found.sources))
    if failure is not None:
        failure.result = summary
        raise failure
    return summary


def split_words(words: Sequence[str]) -> tuple[list[str], list[str]]:
    """Return the leading words that end in .onnx, and the rest; UsageError unless both are there.

    >>> split_words(["a.onnx", "b.onnx", "photos"])
    (['a.onnx', 'b.onnx'], ['photos'])
    """
    first = next((place for place, word in enumerate(words) if not _is_model(word)), len(words))
    models, pictures = list(words[:first]), list(words[first:])
    late = [word for word in pictures if _is_model(word)]
    if late:
        raise UsageError(f"{late[0]} stands behind an image; models come first, {EXAMPLE}")
    if not models:
        raise UsageError(f"no model is named: the first words must end in .onnx, {EXAMPLE}")
    if not pictures:
        raise UsageError(f"no image is named: give files, folders, patterns, videos or -, {EXAMPLE}")
    return models, pictures


def share_threads(threads: int) -> tuple[int, int]:
    """Return how many batches run at once on a CPU, and the threads of each.

    Threads that share a batch wait for each other at every layer; threads with a batch each do not.

    >>> share_threads(2), share_threads(16)
    ((2, 1), (4, 4))
    """
    at_once = min(MOST_AT_ONCE, threads)
    return at_once, threads // at_once


def _is_model(word: str) -> bool:
    return word.lower().endswith(".onnx")


def _check_options(config: PredictConfig) -> tuple[Path | None, Path | None]:
    """Return the files to write; UsageError for an invalid option."""
    if config.batch_size < 1:
        raise UsageError(f"--batch_size must be at least 1, got {config.batch_size}")
    if config.threads < 0:
        raise UsageError(f"--threads must be 0 (every core) or more, got {config.threads}")
    check_fps(config.fps)
    if config.groups and config.explain:
        raise UsageError("--explain shows a model's own classes: leave out --groups")
    out = check_suffix("--out", config.out, SUFFIXES)
    heat_map = check_suffix("--heatmap", config.heatmap, HEAT_MAP_SUFFIXES)
    if out is not None and heat_map is not None and out.absolute() == heat_map.absolute():
        raise UsageError(f"--out and --heatmap both name {out}; give two names")
    places = [file.parent for file in (out, heat_map) if file is not None]
    for place in places + ([Path(config.explain)] if config.explain else []):
        check_writable(place)
    return out, heat_map


def _with_lists(words: Sequence[str]) -> list[str]:
    """Return the words with the list on the standard input in the place of "-"."""
    if "-" not in words:
        return list(words)
    if sys.stdin.isatty():
        say("paths, one a line; Ctrl-D ends the list")
    listed = read_list(sys.stdin.buffer)
    if not listed and set(words) == {"-"}:
        raise UsageError("the list on the standard input names no image: one path a line")
    place = words.index("-")
    return [*words[:place], *listed, *(word for word in words[place + 1 :] if word != "-")]


def face_finder(config: PredictConfig) -> ThreadDetectors | GivenBox | None:
    """Return what finds the faces: a detector, the box that was given, or nothing for cropped faces."""
    if config.box is not None:
        if config.faces or config.detector:
            raise UsageError("--box says where the face is: leave out --faces and --detector")
        return GivenBox.of(config.box)
    return ThreadDetectors(config.detector) if config.faces else None


@dataclass(frozen=True)
class GivenBox:
    """Stands in for a face detector where a person has said where the face is.

    Args:
        box: x, y, width and height in px of the upright image; it may reach over the image's edges.
    """

    box: tuple[float, float, float, float]
    name: str = "in the box that was given (--box), no detector is asked"

    @classmethod
    def of(cls, text: str) -> GivenBox:
        """Return the box written as "x,y,width,height"; UsageError for anything else.

        >>> GivenBox.of("10,20,50,60").box
        (10.0, 20.0, 50.0, 60.0)
        """
        try:
            x, y, width, height = (float(part) for part in text.split(","))
        except ValueError:
            raise UsageError(f"--box must be x,y,width,height in px, got {text!r}") from None
        if not (all(map(math.isfinite, (x, y, width, height))) and width >= 1 and height >= 1):
            raise UsageError(f"--box needs finite numbers, width and height at least 1 px, got {text!r}")
        return cls((x, y, width, height))

    def detect(self, image: np.ndarray) -> list[Face]:
        """Return the face, none where its box lies outside the image, uint8 (H, W, 3)."""
        from agecls.faces.alignment import Face

        x, y, width, height = self.box
        outside = x >= image.shape[1] or y >= image.shape[0] or x + width <= 0 or y + height <= 0
        return [] if outside else [Face(self.box, 1.0, None)]


class ThreadDetectors:
    """A face detector for each thread that asks: one alone would make all the others wait.

    Raises UsageError where there is none, telling where to get it.
    """

    def __init__(self, file: str | None) -> None:
        from agecls.faces.detector import build_detector, missing_detector_message

        self._build = functools.partial(build_detector, file)
        self._own = threading.local()
        first = self._own.detector = self._build()
        if first is None:
            raise UsageError(missing_detector_message())
        self.name = first.name

    def detect(self, image: np.ndarray) -> list[Face]:
        """Return the faces of an image, uint8 (H, W, 3) RGB, the largest first."""
        detector = getattr(self._own, "detector", None) or self._build()
        if detector is None:
            raise ResourceError("the face detector's file is gone")
        self._own.detector = detector
        return detector.detect(image)


def _layout(
    models: Sequence[OnnxClassifier],
    titles: Sequence[str],
    found: Found,
    config: PredictConfig,
    readings: Sequence[Reading],
    *,
    one_table: bool,
) -> Layout:
    """Return what the rows hold; ModelFileError where models with other classes are to share a table."""
    from apps.runtime.answer_words import AnswerWords
    from apps.runtime.side_by_side import align_classes

    if one_table or (config.out or "").lower().endswith((".csv", ".parquet")):
        for note in align_classes(models):
            say(f"note: {on_one_line(note)}")
    asked = crops_asked(models, config.test_crops)
    same = all(model.class_names == models[0].class_names for model in models)
    line = AnswerWords.of(models[0].facts.task, models[0].class_names).line if same else None
    return Layout(
        models=[(title, model.sha256) for title, model in zip(titles, models, strict=True)],
        class_names=(readings[0].names if readings else models[0].class_names) if same else None,
        times=any(source.kind == "video" for source in found.sources),
        faces=config.faces or config.box is not None,
        best=BEST if _unordered(models) else 1,
        further={} if line is None else line.columns(),
        sets=[set_kind(model, crops) for model, crops in zip(models, asked, strict=True)],
    )


def set_kind(model: OnnxClassifier, crops: str) -> Literal["range", "names", ""]:
    """Return how the sets of a model that is shown these test crops are written; "" where it has none."""
    if crops != "center" or not model.facts.calibration.get("sets"):
        return ""
    return "range" if model.facts.ordered else "names"


def _unordered(models: Sequence[OnnxClassifier]) -> bool:
    return any(not model.facts.ordered for model in models)


class _Sinks:
    """Everything that takes the answers: the file, or the table on the terminal; heat map; overlays."""

    def __init__(
        self,
        out: Path | None,
        layout: Layout,
        heat_map: Path | None,
        looks: str | None,
        models: Sequence[OnnxClassifier],
        titles: Sequence[str],
    ) -> None:
        self.out, self.layout, self.heat_map = out, layout, heat_map
        best = BEST if _unordered(models) else 2
        self.table = TerminalTable(titles, best, layout) if out is None else None
        self.heat_rows = HeatMapRows(titles) if heat_map else None
        self.looks = LookFolder(Path(looks), models, titles) if looks else None

    def opened(self, stack: ExitStack) -> list[Callable[[Answer], None]]:
        """Return the functions to call with every answer; the file is whole once `stack` closes."""
        takers: list[Callable[[Answer], None]]
        takers = [sink.add for sink in (self.table, self.heat_rows, self.looks) if sink is not None]
        if self.out is not None:
            takers.append(stack.enter_context(open_predictions(self.out, self.layout)))
        return takers

    def tell(self) -> None:
        """Write the heat map and say what there is."""
        if self.table is not None and self.table.text():
            say(self.table.text())
        if self.out is not None:
            say(f"answers: {on_one_line(str(self.out))}")
        if self.heat_rows is not None and self.heat_map is not None:
            say(on_one_line(self.heat_rows.write(self.heat_map)))
        if self.looks is not None:
            how = f" ({', '.join(sorted(self.looks.methods))})" if self.looks.methods else ""
            say(
                f"where the models looked{how}: {count_text(self.looks.count, 'image')} in "
                f"{on_one_line(str(self.looks.folder))}"
            )

    def files(self) -> dict[str, str]:
        """Return the names of what is written, by kind."""
        named = {"out": self.out, "heatmap": self.heat_map, "explain": self.looks and self.looks.folder}
        return {kind: readable(str(file)) for kind, file in named.items() if file is not None}


def _run(
    models: Sequence[OnnxClassifier],
    found: Found,
    config: PredictConfig,
    detector: ThreadDetectors | GivenBox | None,
    sinks: _Sinks,
    at_once: int,
    readings: Sequence[Reading],
) -> tuple[Tally, CrlError | None]:
    """Show everything to the models; return the counts, and what ended the work early."""
    tally, total = Tally(), len(found.sources)
    failure: CrlError | None = None
    on_cpu = any(model.device == "cpu" for model in models)
    answers = predict_pictures(
        models,
        found.sources,
        batch_size=math.ceil(config.batch_size / at_once) if on_cpu else config.batch_size,
        detector=detector,
        fps=config.fps,
        test_crops=config.test_crops,
        at_once=at_once,
    )
    with ExitStack() as stack:
        stop = stack.enter_context(StopRequest())
        takers = [tally.add, *sinks.opened(stack)]
        stack.enter_context(closing(answers))
        bar = stack.enter_context(progress(total, "looking", unit="images"))
        try:
            for own in answers:
                answer = readings[own.model].read(own) if readings and own.model is not None else own
                for take in takers:
                    take(answer)
                bar.advance(answer.index - bar.done)
                if stop.requested:
                    failure = _interrupted(tally, total, sinks.out, stop.signal_name)
                    break
        except KeyboardInterrupt:
            failure = _interrupted(tally, total, sinks.out, "SIGINT")
        except CrlError as error:  # what was answered before is kept
            failure = _interrupted(tally, total, sinks.out, stop.signal_name) if stop.requested else error
        tally.stop_clock()
    return tally, failure


def _interrupted(tally: Tally, total: int, out: Path | None, signal_name: str) -> InterruptedRunError:
    kept = "" if out is None else f"; its {count_text(tally.rows, 'row')} are in {out}"
    seen = min(tally.begun, total)
    return InterruptedRunError(f"stopped by {signal_name} in image {seen:,} of {total:,}{kept}")
