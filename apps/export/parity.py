"""An exported file against the trained model, and the trained model against its run's record.

Real and random images, three batch sizes, every output. A run's weights must be those whose scores its
record says: files are copied by hand, too.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from finetune.cli.console import say
from finetune.errors import ModelFileError, UsageError
from finetune.metrics.calibration import softmax

if TYPE_CHECKING:
    from apps.export.graph import EnsembleGraph, ExportGraph
    from apps.export.images import RunPictures
    from apps.export.plan import Plan
    from apps.runtime.session import OnnxClassifier
    from finetune.experiments.records.record import RunRecord

BATCHES = (1, 2, 7)
FEWEST_REAL = 16
RANDOM = 16
TOLERANCE = 1e-4
SAME = {"manifest": "table of images", "split": "split", "seed": "seed", "backbone": "backbone"}
# The CPU repeats itself to about 1e-6; a GPU may have multiplied with ten bits.
REPEAT_TOLERANCE, REPEAT_TOLERANCE_CARD = 1e-3, 1e-2
REMEDY = "put the run's own file back, or train it again"

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

    Both see the real images and 16 random ones; the file sees them in batches of 1, 2 and 7. Every answer
    at every batch size must hold: max |a - b| / max |a| per output within the tolerance, and the most
    probable class, by logits and by probs, the same for at least the fraction `same_class` of the images.

    Args:
        file: an exported model, facts and all.
        graph: the graph it was exported from.
        real: prepared images, uint8 (M, S, S, 3), M >= 16.
        tolerance: largest relative difference; infinity only reports it.
        same_class: fraction in [0, 1] of images, real and random each, with the same most probable class.

    Returns a record of what was compared, over how much, and how far apart they were.
    Raises ModelFileError, naming output and batch size, where they are further apart; UsageError for fewer
    than 16 real images.
    """
    from apps.runtime.session import OnnxClassifier

    if len(real) < FEWEST_REAL:
        raise UsageError(f"a check needs {FEWEST_REAL} real images or more, got {len(real)}")
    noise = np.random.default_rng(0).integers(0, 256, (RANDOM, *real.shape[1:]), dtype=np.uint8)
    model = OnnxClassifier(file, device="cpu")
    parts = {"real": real, "random": noise}
    wanted = {name: eager_answers(graph, pictures) for name, pictures in parts.items()}
    shares: dict[str, float] = {}
    worst: dict[str, float] = {}
    for size in BATCHES:
        for name, pictures in parts.items():
            found = onnx_answers(model, pictures, size)
            where = f"{name} images, batch {size}"
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
    """Return every output of the graph in torch, by name, for images uint8 (N, S, S, 3)."""
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
    """Return every output of a file, by name, for images uint8 (N, S, S, 3) shown in batches."""
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
        batches: prepared test images, uint8 (n, S, S, 3) each, the centre of each image.
        target: their classes, int64 (N,).
        max_drop: percentage points that the smaller file may lose.

    Returns n, both accuracies in percent, the drop in percentage points, and the fraction of images for which
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
        f"{len(target)} test images: float32 has {right[0]} correct ({before:.2f} %), the smaller file "
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


def check_member(file: Path, fold: int, facts: Mapping[str, Any], record: RunRecord) -> None:
    """Raise ModelFileError where a model's own facts are of another fold or another run than its folder's.

    Args:
        file: the model, for the message.
        fold: the one whose scores would stand in its card; -1 where the run tested none.
        facts: what the model's file records.
        record: the run's own.
    """
    own = facts.get("fold", -1)
    if own != fold:
        told = "no test fold" if own == -1 else f"fold {own}"
        wanted = "no test fold" if fold == -1 else f"fold {fold}"
        raise ModelFileError(f"{file} holds the model of {told}, its place is that of {wanted}: {REMEDY}")
    for key, words in SAME.items():
        here, there = facts.get(key), getattr(record, key)
        if here is not None and there is not None and here != there:
            raise ModelFileError(f"{file} is of another run: its {words} is {here}, not {there}: {REMEDY}")


def check_repeats(
    folder: Path,
    plan: Plan,
    graph: ExportGraph | EnsembleGraph,
    pictures: RunPictures,
    rows: np.ndarray,
    real: np.ndarray,
) -> int:
    """Show each model those of the check's images it was tested on; return how many rows were compared.

    Nothing is compared where the run averaged several views of an image, or never tested these weights.

    Args:
        folder: the run.
        plan: the models in the graph, and their folds.
        graph: the trained models.
        pictures: of the run.
        rows: of the run's table, int64 (M,).
        real: their prepared images, uint8 (M, S, S, 3).

    Raises ModelFileError where the probabilities are not those in predictions.parquet.
    """
    if (pictures.record.test_crops or "center") != "center":
        return 0
    device = pictures.record.device or {}
    tolerance = REPEAT_TOLERANCE if device.get("used", "cpu") == "cpu" else REPEAT_TOLERANCE_CARD
    paths = pictures.manifest["path"][rows].tolist()
    members = [graph] if len(plan.files) == 1 else list(graph.members)  # type: ignore[arg-type]
    compared = 0
    for member, own, fold in zip(members, plan.files, plan.folds, strict=True):
        tested = pictures.tested(folder, own, fold)
        if tested is None:
            continue
        place = {path: row for row, path in enumerate(tested.path.tolist())}
        here = [row for row, path in enumerate(paths) if path in place]
        if here:
            wanted = tested.probs[[place[paths[row]] for row in here]]
            _compare_repeats(own, member, real[here], wanted, tolerance)
        compared += len(here)
    return compared


def _compare_repeats(
    file: Path, graph: ExportGraph | EnsembleGraph, real: np.ndarray, wanted: np.ndarray, tolerance: float
) -> None:
    found = softmax(eager_answers(graph, real)["logits"])  # before any calibration, as the run predicted
    apart = float(np.abs(found - wanted).max())
    # Two classes that are equally probable within the tolerance may change places.
    chosen = np.take_along_axis(wanted, found.argmax(1)[:, None], 1)[:, 0]
    other = int((wanted.max(1) - chosen > tolerance).sum())
    if apart > tolerance or other:
        raise ModelFileError(
            f"{file} does not repeat what its run predicted for {len(real)} of its test images: "
            f"probabilities differ by up to {apart:.2g} (allowed {tolerance:g}), {other} images get another "
            f"class. Either the weights are not those that were tested ({REMEDY}), or the images have "
            "changed since, or are decoded by other versions of the libraries"
        )
