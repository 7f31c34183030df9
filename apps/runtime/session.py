"""An exported model at work, without torch: images in, class names and probabilities out.

The runtime is asked for a device and may quietly take another, so what really runs is read back from it.
"""

from __future__ import annotations

import contextlib
import io
import os
import re
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from apps.runtime.batching import Picture, check_picture, in_batches, one_or_many, views
from apps.runtime.bound import UNDER_WAY, BoundSession, under_way
from apps.runtime.calibration import may_reorder
from apps.runtime.cuda_driver import Problem, driver_problem, library_problem, lock_pages
from apps.runtime.endable import run_endable
from apps.runtime.installed import refuse_twins
from apps.runtime.model_file import read_model_file
from finetune.cli.machine import core_count, cores_are_idle
from finetune.errors import CrlError, InterruptedRunError, ModelFileError, ResourceError, UsageError
from finetune.images.class_names import normalised
from finetune.images.preprocess import TEST_CROPS, preprocess

CPU, CUDA = "CPUExecutionProvider", "CUDAExecutionProvider"
# Exhaustive search would tune the convolutions again for every batch size, seconds each; TF32 keeps 10 bits.
# The arena would grow by powers of two.
CUDA_OPTIONS = {
    "cudnn_conv_algo_search": "HEURISTIC",
    "use_tf32": "0",
    "arena_extend_strategy": "kSameAsRequested",
}
INT8_NOTE = "; int8 is for processors: a GPU computes it in float, in extra steps. Export fp32 or fp16 for it"
INSTALL = "pip install onnxruntime-gpu (onnxruntime on macOS and on ARM)"
FATAL = 4  # the runtime's level at which it reports nothing but its own end; what fails is raised anyway
SUM_TOLERANCE = 1e-3
ORDER_TOLERANCE = 1e-3  # equal logits may be told apart by the last digit alone
MEMORY_WORDS = ("Failed to allocate", "out of memory", "bad_alloc", "CUDA failure 2:")
LESS_MEMORY = "choose a smaller --batch_size, or --device cpu"


@dataclass(frozen=True, eq=False)
class Outputs:
    """What the network says of a batch.

    Args:
        logits: float32 (N, K).
        probs: float32 (N, K), at least 0, rows sum to 1.
        maps: class activation maps, float32 (N, K, h, w); None unless asked for and there.
    """

    logits: np.ndarray
    probs: np.ndarray
    maps: np.ndarray | None = None


@dataclass(frozen=True, eq=False)
class Prediction:
    """What the model predicts for one image.

    Args:
        class_name: the most probable class; the first of equal ones.
        class_index: its place in the model's order.
        probability: of that class.
        probs: of every class in the model's order, float64 (K,); several test crops are averaged.
        logits: float64 (K,); of several test crops the logarithm of `probs`.
        crop: the pixels that the network saw, uint8 (S, S, 3) RGB: the central ones.
        class_names: the K classes.
        maps: class activation maps over `crop`, float32 (K, h, w); None unless asked for and there.
    """

    class_name: str
    class_index: int
    probability: float
    probs: np.ndarray
    logits: np.ndarray
    crop: np.ndarray
    class_names: tuple[str, ...]
    maps: np.ndarray | None = None

    def top(self, count: int) -> list[tuple[str, float]]:
        """Return the `count` most probable classes, or all there are, with their probability; best first."""
        order = np.argsort(-self.probs, kind="stable")[:count]
        return [(self.class_names[index], float(self.probs[index])) for index in order.tolist()]


class OnnxClassifier:
    """An exported model, checked and loaded: one session that any number of threads may use.

    Args:
        path: the .onnx file.
        device: auto, cpu, cuda or cuda:1. auto takes the GPU where one can be used.
        threads: CPU threads of the session, at most one a core; 0 takes every core.
        alone: nothing else computes while it runs, as in a program that shows it one batch after another.

    Attributes: `path`; `facts`, `title`, `class_names` (K) and `size` (S, px) as the file records them, until
    `answer_in_order_of` gives the classes another order, of which `order_note` speaks;
    `has_maps`; `device` ("cpu" or "cuda") is what really runs, and `device_note` says what was asked and why
    it is another; `sha256` of the file.

    Raises ModelFileError, naming the file, for one that must not or cannot be run; ResourceError for a
    runtime or a device that is missing; UsageError for another word as the device.
    """

    def __init__(
        self, path: Path | str, *, device: str = "auto", threads: int = 0, alone: bool = False
    ) -> None:
        index = _device_index(device)
        if threads < 0:
            raise UsageError(f"threads must be 0 (every core) or more, got {threads}")
        self.path = Path(path)
        content, self.facts, outline = read_model_file(self.path)
        self.title, self.class_names = self.facts.title, self.facts.class_names
        self.size, self.sha256 = self.facts.preprocess.image_size, outline.sha256
        self.has_maps = "cams" in outline.outputs
        threads = min(threads or core_count(), core_count())
        spin = alone and threads > 1 and cores_are_idle()
        session, why = _open_session(content, self.path, device, index, threads, spin)
        self._session = session
        self._order: list[int] | None = None
        self.order_note = ""
        self.device = "cuda" if session.get_providers()[0] == CUDA else "cpu"
        self.device_note = f"device: asked {device}, using {self.device} (ONNX Runtime{why})"
        if self.device == "cuda":
            self._session = BoundSession(session, _lock_pages)
            self.device_note += INT8_NOTE if self.facts.precision == "int8" else ""
        # The first answer shows at once whether the graph keeps what the file promises.
        grey = self.run(np.full((1, self.size, self.size, 3), 128, np.uint8), maps=True)
        self._check_order(grey)

    def prepare(self, image: np.ndarray) -> np.ndarray:
        """Return the image, uint8 (H, W, 3) RGB, as the network sees it: uint8 (S, S, 3)."""
        check_picture(image, self.facts.preprocess)
        return preprocess(image, self.facts.preprocess)

    def run(self, batch: np.ndarray, *, maps: bool = False) -> Outputs:
        """Return what the network predicts for prepared images, uint8 (N, S, S, 3); N may be 0.

        Safe from any thread. `maps` asks for the class activation maps, where the model has them.

        Raises UsageError for another shape or type; ModelFileError where the answer has not the shape that
        the file promises, is not finite or does not sum to 1; ResourceError without enough memory;
        InterruptedRunError where a signal ended it.
        """
        if batch.dtype != np.uint8 or batch.shape != (len(batch), self.size, self.size, 3):
            wanted = f"uint8 (N, {self.size}, {self.size}, 3)"
            raise UsageError(f"a batch for {self.title} is {wanted}, got {batch.dtype} {batch.shape}")
        if not len(batch):
            nothing = np.zeros((0, len(self.class_names)), np.float32)
            return Outputs(nothing, nothing)
        names = ["logits", "probs", *(["cams"] if maps and self.has_maps else [])]
        try:
            options = load_runtime().RunOptions()
            found = run_endable(self._session, options, names, {"images": np.ascontiguousarray(batch)})
        except InterruptedRunError:
            raise
        except Exception as error:  # the runtime has a dozen kinds of its own; the cause stays attached
            raise _failure(self.path, f"run it on {len(batch)} images at once", error) from error
        self._check_answer(found, len(batch))
        if self._order is not None:
            found = [values[:, self._order] for values in found]
        return Outputs(*found)

    def answer_in_order_of(self, other: OnnxClassifier) -> None:
        """Give the classes in the order and spelling of another model from now on; both must have the same.

        Names are the same where they differ in "/" and "-" alone: a class folder cannot hold the one. To be
        called before other threads use the model.
        """
        place = {normalised(name): index for index, name in enumerate(self.facts.class_names)}
        self._order = [place[normalised(name)] for name in other.class_names]
        self.class_names = other.class_names
        self.order_note = f"classes put into the order of {other.title}, by their names"

    def predict(
        self,
        images: Picture | Sequence[Picture],
        *,
        batch_size: int = 32,
        maps: bool = False,
        test_crops: str | None = None,
    ) -> list[Prediction]:
        """Return one prediction per image, in their order: a list, of one where a single image is given.

        Args:
            images: one image or a list of them, mixed as you like: RGB pixels uint8 (H, W, 3), paths (Path or
                str), the bytes of files, PIL images; also an array (N, H, W, 3).
            batch_size: views shown to the network at once.
            maps: also return class activation maps, where the model has them.
            test_crops: center, flip or ten views of each image, averaged; None is the centre alone, "run"
                what the reported scores were measured with.

        Raises BadImageError, naming the file, for an image that cannot be read; UsageError, saying what
        arrived, for anything else.
        """
        crops = self.facts.test_crops if test_crops == "run" else test_crops or "center"
        if crops not in TEST_CROPS:
            raise UsageError(f"test_crops {crops!r} is not offered; choose from {', '.join(TEST_CROPS)}, run")
        if batch_size < 1:
            raise UsageError(f"batch_size must be at least 1, got {batch_size}")
        at_once, spec = max(1, batch_size // TEST_CROPS[crops]), self.facts.preprocess
        answers: list[Prediction] = []
        shown = in_batches(one_or_many(images), lambda picture: views(picture, spec, crops), at_once)
        runs = UNDER_WAY if self.device == "cuda" else 1
        for made, outputs in under_way(
            lambda made: self.run(np.concatenate(made), maps=maps), shown, at_once=runs
        ):
            answers += self._predictions(outputs, np.stack(made))
        return answers

    def _predictions(self, outputs: Outputs, shown: np.ndarray) -> list[Prediction]:
        count, crops = shown.shape[:2]
        probs = outputs.probs.astype(np.float64).reshape(count, crops, -1).mean(axis=1)
        logits = outputs.logits.astype(np.float64)
        if crops > 1:
            logits = np.log(np.maximum(probs, np.finfo(np.float32).tiny))
        return [
            Prediction(
                class_name=self.class_names[index],
                class_index=index,
                probability=float(probs[row, index]),
                probs=probs[row],
                logits=logits[row],
                crop=shown[row, 0],
                class_names=self.class_names,
                maps=None if outputs.maps is None else outputs.maps[row * crops],
            )
            for row, index in enumerate(probs.argmax(axis=1).tolist())
        ]

    def _check_order(self, answer: Outputs) -> None:
        """Raise ModelFileError where probs, unless they may, name another class than logits."""
        best = answer.probs.argmax(axis=1, keepdims=True)
        short = answer.logits.max() - float(np.take_along_axis(answer.logits, best, 1)[0, 0])
        allowed = np.inf if may_reorder(self.facts.calibration) else ORDER_TOLERANCE
        if short > allowed * max(1.0, float(np.abs(answer.logits).max())):
            raise ModelFileError(f"{self.path}: its probabilities name another class than its logits")

    def _check_answer(self, found: Sequence[np.ndarray], count: int) -> None:
        wanted = (count, len(self.class_names))
        shapes = [values.shape for values in found]
        if shapes[:2] != [wanted, wanted] or any(shape[:2] != wanted for shape in shapes):
            raise ModelFileError(f"{self.path}: answers with shapes {shapes}, promised are rows of {wanted}")
        if not all(np.isfinite(values).all() for values in found):
            raise ModelFileError(f"{self.path}: some of its answers are not finite numbers")
        probs = found[1]
        error = float(np.abs(probs.sum(axis=1, dtype=np.float64) - 1).max())
        if error > SUM_TOLERANCE or probs.min() < 0:
            told = f"miss a sum of 1 by {error:.3g}, the smallest is {probs.min():.3g}"
            raise ModelFileError(f"{self.path}: its probabilities {told}")


def cuda_problem(index: int = 0) -> Problem | None:
    """Return why ONNX Runtime cannot use GPU `index`; None where nothing speaks against it.

    Loads CUDA's libraries from the installed nvidia packages, where they are.
    """
    runtime = load_runtime()
    if CUDA not in runtime.get_available_providers():
        what = f"the installed onnxruntime {runtime.__version__} is built without CUDA"
        return Problem(what, "pip uninstall onnxruntime && pip install onnxruntime-gpu")
    problem = driver_problem(index)
    if problem is not None:
        return problem
    with contextlib.redirect_stdout(io.StringIO()):  # it prints what library_problem says better
        runtime.preload_dlls()
    return library_problem(runtime.cuda_version)


def _lock_pages(array: np.ndarray) -> bool:
    return lock_pages(array, load_runtime().cuda_version)


def load_runtime() -> Any:
    """Return the onnxruntime module, its chatter off.

    Raises ResourceError, with the commands that fix it, where it is missing, cannot be loaded, or is
    installed twice (`refuse_twins`).
    """
    if "onnxruntime" not in sys.modules:
        refuse_twins()
    # Before the import: from 1.29 on, on Linux too, it keeps an identity in ~/.cache/Microsoft and reports.
    os.environ["ORT_DISABLE_TELEMETRY"] = "1"
    try:
        import onnxruntime
    except ImportError as error:
        raise ResourceError(f"onnxruntime cannot be loaded ({error}): {INSTALL}") from None
    onnxruntime.set_default_logger_severity(FATAL)
    onnxruntime.disable_telemetry_events()  # Windows has its own way
    return onnxruntime


def _device_index(device: str) -> int:
    """Return the number of the GPU in a device's name, 0 where it has none."""
    match = re.fullmatch(r"auto|cpu|cuda(?::([0-9]{1,3}))?", device)
    if match is None:
        raise UsageError(f"device {device!r} is not offered; choose auto, cpu, cuda or cuda:1")
    return int(match[1] or 0)


def _open_session(
    content: bytes, path: Path, device: str, index: int, threads: int, spin: bool
) -> tuple[Any, str]:
    """Return the session, and why it does not run on a GPU that it might have run on."""
    if device == "cpu":
        return _start(content, path, threads, [CPU], spin), ""
    problem = cuda_problem(index)
    if problem is None:
        card = (CUDA, {"device_id": str(index), **CUDA_OPTIONS})
        what = "the runtime was offered the GPU and did not take it"
        try:
            session = _start(content, path, threads, [card, CPU])
            if session.get_providers()[0] == CUDA:
                return session, ""
        except CrlError as error:
            what = f"the runtime failed on the GPU ({error})"
        problem = Problem(what, "crl doctor looks further")
    if device != "auto":
        raise ResourceError(f"device {device} cannot be used: {problem}. Or say --device cpu")
    return _start(content, path, threads, [CPU], spin), f"; {problem.what}"


def _start(content: bytes, path: Path, threads: int, providers: list[Any], spin: bool = False) -> Any:
    runtime = load_runtime()
    options = runtime.SessionOptions()
    options.intra_op_num_threads, options.inter_op_num_threads = threads, 1
    options.add_session_config_entry("session.intra_op.allow_spinning", "1" if spin else "0")
    # Only what was checked may be loaded: the runtime knows a second file format by its fifth to eighth byte.
    options.add_session_config_entry("session.load_model_format", "ONNX")
    try:
        return runtime.InferenceSession(
            content, options, providers=providers, enable_fallback=0, read_config_from_model=0
        )
    except Exception as error:  # the runtime has a dozen kinds of its own; the cause stays attached
        raise _failure(path, "load it", error) from error


def _failure(path: Path, what: str, error: Exception) -> CrlError:
    told = (str(error).splitlines() or [type(error).__name__])[0][:300]
    if any(word in str(error) for word in MEMORY_WORDS):
        return ResourceError(f"{path}: not enough memory to {what} ({told}): {LESS_MEMORY}")
    return ModelFileError(f"{path}: ONNX Runtime cannot {what}: {told}")
