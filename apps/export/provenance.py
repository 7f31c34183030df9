"""Whether a run's weights are those whose scores its record tells: files are copied by hand, too."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from finetune.errors import ModelFileError

if TYPE_CHECKING:
    from apps.export.graph import EnsembleGraph, ExportGraph
    from apps.export.images import RunPictures
    from apps.export.plan import Plan
    from finetune.experiments.record import RunRecord

SAME = {"manifest": "table of images", "split": "split", "seed": "seed", "backbone": "backbone"}
# The processor repeats itself to about 1e-6; a graphics card may have multiplied with ten bits.
TOLERANCE, TOLERANCE_CARD = 1e-3, 1e-2
REMEDY = "put the run's own file back, or train it again"


def check_member(file: Path, fold: int, facts: Mapping[str, Any], record: RunRecord) -> None:
    """Raise ModelFileError where a model's own facts are of another fold or another run than its folder's.

    Args:
        file: the model, for the message.
        fold: the one whose scores would stand in its card; -1 where the run tested none.
        facts: what the model's file tells.
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
    """Show each model those of the check's pictures it was tested on; return how many rows were compared.

    Nothing is compared where the run averaged several views of a picture, or never tested these weights.

    Args:
        folder: the run.
        plan: the models in the graph, and their folds.
        graph: the trained models.
        pictures: of the run.
        rows: of the run's table, int64 (M,).
        real: their prepared pictures, uint8 (M, S, S, 3).

    Raises ModelFileError where the probabilities are not those in predictions.parquet.
    """
    if (pictures.record.test_crops or "center") != "center":
        return 0
    device = pictures.record.device or {}
    tolerance = TOLERANCE if device.get("used", "cpu") == "cpu" else TOLERANCE_CARD
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
            _compare(own, member, real[here], wanted, tolerance)
        compared += len(here)
    return compared


def _compare(
    file: Path, graph: ExportGraph | EnsembleGraph, real: np.ndarray, wanted: np.ndarray, tolerance: float
) -> None:
    from apps.export.parity import eager_answers

    found = eager_answers(graph, real)["probs"].astype(np.float64)
    apart = float(np.abs(found - wanted).max())
    # Two classes that are equally probable within the tolerance may change places.
    chosen = np.take_along_axis(wanted, found.argmax(1)[:, None], 1)[:, 0]
    other = int((wanted.max(1) - chosen > tolerance).sum())
    if apart > tolerance or other:
        raise ModelFileError(
            f"{file} does not repeat what its run predicted for {len(real)} of its test images: "
            f"probabilities differ by up to {apart:.2g} (allowed {tolerance:g}), {other} images get another "
            f"class. Either the weights are not those that were tested ({REMEDY}), or the pictures have "
            "changed since, or are decoded by other versions of the libraries"
        )
