"""An exported file against the trained model: real and random pictures, three batch sizes, every output."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from finetune.cli.console import say
from finetune.errors import ModelFileError, UsageError

if TYPE_CHECKING:
    from apps.export.graph import EnsembleGraph, ExportGraph
    from apps.runtime.session import OnnxClassifier

BATCHES = (1, 2, 7)
FEWEST_REAL = 16
RANDOM = 16
TOLERANCE = 1e-4

Answers = dict[str, np.ndarray]


def check_parity(
    file: Path,
    graph: ExportGraph | EnsembleGraph,
    real: np.ndarray,
    *,
    tolerance: float = TOLERANCE,
    same_class: float = 1.0,
) -> dict[str, Any]:
    """Compare an .onnx file in ONNX Runtime on the CPU with its graph in eager float32, or refuse it.

    Both see the real pictures and 16 random ones; the file sees them in batches of 1, 2 and 7. Every answer
    at every batch size must hold: max |a - b| / max |a| per output within the tolerance, and the most
    probable class, by logits and by probs, the same for at least the share `same_class` of the pictures.

    Args:
        file: an exported model, facts and all.
        graph: the graph it was exported from.
        real: prepared pictures, uint8 (M, S, S, 3), M >= 16.
        tolerance: largest relative difference; infinity only tells it.
        same_class: share in [0, 1] of pictures, real and random each, with the same most probable class.

    Returns a record of what was compared, over how much, and how far apart they were.
    Raises ModelFileError, naming output and batch size, where they are further apart; UsageError for fewer
    than 16 real pictures.
    """
    from apps.runtime.session import OnnxClassifier

    if len(real) < FEWEST_REAL:
        raise UsageError(f"a check needs {FEWEST_REAL} real pictures or more, got {len(real)}")
    noise = np.random.default_rng(0).integers(0, 256, (RANDOM, *real.shape[1:]), dtype=np.uint8)
    model = OnnxClassifier(file, device="cpu")
    parts = {"real": real, "random": noise}
    wanted = {name: eager_answers(graph, pictures) for name, pictures in parts.items()}
    shares: dict[str, float] = {}
    worst: dict[str, float] = {}
    for size in BATCHES:
        for name, pictures in parts.items():
            found = onnx_answers(model, pictures, size)
            where = f"{name} pictures, batch {size}"
            for output, value in _differences(wanted[name], found, tolerance, where).items():
                worst[output] = max(worst.get(output, 0.0), value)
            share = _share_of_same_class(wanted[name], found, same_class, where)
            shares[name] = min(shares.get(name, 1.0), share)
    return {
        "against": "the trained model in eager float32",
        "batches": list(BATCHES),
        "real_images": len(real),
        "random_images": RANDOM,
        **({"tolerance": tolerance} if np.isfinite(tolerance) else {}),
        "max_relative_difference": {output: float(f"{value:.2g}") for output, value in worst.items()},
        "same_class_percent": {name: round(100 * share, 2) for name, share in shares.items()},
    }


def eager_answers(graph: ExportGraph | EnsembleGraph, pictures: np.ndarray, batch_size: int = 8) -> Answers:
    """Return every output of the graph in torch, by name, for pictures uint8 (N, S, S, 3)."""
    import torch

    pieces: list[list[np.ndarray]] = []
    with torch.inference_mode():
        for start in range(0, len(pictures), batch_size):
            batch = torch.from_numpy(np.ascontiguousarray(pictures[start : start + batch_size]))
            pieces.append([values.numpy() for values in graph(batch)])
    return {
        name: np.concatenate([piece[place] for piece in pieces])
        for place, name in enumerate(graph.output_names)
    }


def onnx_answers(model: OnnxClassifier, pictures: np.ndarray, batch_size: int) -> Answers:
    """Return every output of a file, by name, for pictures uint8 (N, S, S, 3) shown in batches."""
    found = [
        model.run(pictures[start : start + batch_size], maps=True)
        for start in range(0, len(pictures), batch_size)
    ]
    joined = {name: np.concatenate([getattr(piece, name) for piece in found]) for name in ("logits", "probs")}
    maps = [piece.maps for piece in found if piece.maps is not None]
    return {**joined, **({"cams": np.concatenate(maps)} if maps else {})}


def _differences(
    wanted: Mapping[str, np.ndarray], found: Mapping[str, np.ndarray], tolerance: float, where: str
) -> dict[str, float]:
    if wanted.keys() != found.keys():
        raise ModelFileError(
            f"the exported file gives {', '.join(found)}, the trained model {', '.join(wanted)}"
        )
    worst = {}
    for name, values in wanted.items():
        largest = max(float(np.abs(values).max()), float(np.finfo(np.float32).tiny))
        worst[name] = float(np.abs(values - found[name]).max()) / largest
        if not worst[name] <= tolerance:
            raise ModelFileError(
                f"the exported file is off from the trained model: {name} differ by {worst[name]:.2g} of the "
                f"largest, allowed is {tolerance:g} ({where}). Nothing was written"
            )
    return worst


def _share_of_same_class(
    wanted: Mapping[str, np.ndarray], found: Mapping[str, np.ndarray], least: float, where: str
) -> float:
    same: Sequence[np.ndarray] = [
        wanted[name].argmax(1) == found[name].argmax(1) for name in ("logits", "probs")
    ]
    share = float(np.logical_and(*same).mean())
    if share < least:
        count = int(np.logical_and(*same).sum())
        raise ModelFileError(
            f"the exported file names another class than the trained model for {len(same[0]) - count} of "
            f"{len(same[0])} {where}; allowed is {100 * (1 - least):g} %. Nothing was written"
        )
    return share


def check_accuracy(
    exact: Path,
    small: Path,
    batches: Iterable[np.ndarray],
    target: np.ndarray,
    *,
    max_drop: float,
) -> dict[str, Any]:
    """Compare the accuracies of a float32 file and a smaller one on the same test images, or refuse.

    Args:
        exact: the float32 file.
        small: the converted file.
        batches: prepared test images, uint8 (n, S, S, 3) each, the centre of each picture.
        target: their classes, int64 (N,).
        max_drop: percentage points that the smaller file may lose.

    Returns n, both accuracies in percent, the drop in percentage points, and the share of images for which
    both name the same class. Raises ModelFileError where the drop is larger.
    """
    from apps.runtime.session import OnnxClassifier

    models = [OnnxClassifier(file, device="cpu") for file in (exact, small)]
    named = [[model.run(batch).probs.argmax(1) for model in models] for batch in batches]
    first, second = (np.concatenate(classes) for classes in zip(*named, strict=True))
    right = [int((classes == target).sum()) for classes in (first, second)]
    before, after = (100 * count / len(target) for count in right)
    same = 100 * float((first == second).mean())
    told = (
        f"{len(target)} test images: float32 names {right[0]} right ({before:.2f} %), the smaller file "
        f"{right[1]} ({after:.2f} %), and the same class for {same:.1f} %"
    )
    say(told)
    if before - after > max_drop:
        raise ModelFileError(
            f"{told}: a loss of {before - after:.2f} percentage points, allowed are {max_drop:g} "
            f"(--max_drop; one image is {100 / len(target):.2g}). Nothing was written. Other ranges may do "
            "better (--calibration_images); fp16 loses far less"
        )
    return {
        "n": len(target),
        "float32_percent": round(before, 2),
        "percent": round(after, 2),
        "drop_points": round(before - after, 2),
        "max_drop_points": max_drop,
        "same_class_percent": round(same, 2),
    }
