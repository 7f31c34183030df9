"""What every study's predictions.parquet has in common: the probabilities' columns, and what must hold."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from finetune.errors import DataError, listing
from finetune.metrics.classification import SMALLEST_PROBABILITY
from finetune.runs.files import atomic_file

# How far a row's probabilities may be from a sum of one: float32 softmax is off by 1e-6, a forgotten softmax
# by 1.
SUM_TOLERANCE = 1e-3


def check_predictions(
    columns: Mapping[str, np.ndarray], probs: np.ndarray, num_classes: int, *, names: str = "path"
) -> None:
    """Raise DataError, naming rows, unless these are predictions of `num_classes` classes.

    Args:
        columns: arrays of one length N, `target` (int) among them.
        probs: float (N, K); rows at least 0 that sum to 1.
        num_classes: K.
        names: the column that names a row in messages.
    """
    lengths = {name: len(values) for name, values in columns.items()} | {"probs": len(probs)}
    if len(set(lengths.values())) > 1:
        raise DataError(f"columns of predictions differ in length: {lengths}")
    if probs.ndim != 2 or probs.shape[1] != num_classes:
        raise DataError(f"probabilities must have shape (N, {num_classes}), got {probs.shape}")
    target, name = columns["target"], columns[names]
    bad = np.flatnonzero((target < 0) | (target >= num_classes))
    if len(bad):
        rows = [f"row {row} ({name[row]}): target {target[row]}" for row in bad]
        raise DataError(f"targets must lie in [0, {num_classes - 1}]:\n{listing(rows)}")
    sums = probs.sum(axis=1)
    bad = np.flatnonzero(~((np.abs(sums - 1) <= SUM_TOLERANCE) & (probs >= 0).all(axis=1)))
    if len(bad):
        rows = [f"row {row} ({name[row]}): sum {sums[row]:g}, smallest {probs[row].min():g}" for row in bad]
        raise DataError(f"probabilities of an image must be at least 0 and sum to 1:\n{listing(rows)}")


def write_predictions(file: Path, columns: Mapping[str, np.ndarray], probs: np.ndarray) -> None:
    """Write the columns and probs (N, K) as float32 prob_0 ... prob_{K-1} to a parquet file, atomically."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    table = {name: pa.array(values) for name, values in columns.items()}
    for index in range(probs.shape[1]):
        table[f"prob_{index}"] = pa.array(probs[:, index].astype(np.float32))
    with atomic_file(file) as stream:
        pq.write_table(pa.table(table), stream)


def read_predictions(
    file: Path, columns: Sequence[str], num_classes: int, *, may_be_empty: Sequence[str] = ()
) -> tuple[dict[str, np.ndarray], np.ndarray]:
    """Return the columns and the probabilities (N, K) that `write_predictions` wrote.

    Raises DataError, naming the file, where it cannot be read, where columns are missing, where there are
    probabilities of more classes, and for empty cells outside the columns `may_be_empty`.
    """
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        table = pq.read_table(file)
    except (OSError, pa.ArrowInvalid) as error:
        raise DataError(f"{file} cannot be read as parquet: {error}") from None
    prob_names = [f"prob_{index}" for index in range(num_classes)]
    missing = [name for name in (*columns, *prob_names) if name not in table.column_names]
    if missing:
        found = listing(table.column_names)
        raise DataError(f"{file} lacks the columns {', '.join(missing[:5])}; it has\n{found}")
    extra = [name for name in table.column_names if name.startswith("prob_") and name not in prob_names]
    if extra:
        raise DataError(f"{file} has {', '.join(extra)} beyond the {num_classes} class names of its run")
    wanted = [name for name in table.column_names if name not in may_be_empty]
    empty = [name for name in wanted if table[name].null_count]
    if empty:
        raise DataError(f"{file} has empty cells in {', '.join(empty)}")
    probs = np.stack([table[name].to_numpy() for name in prob_names], axis=1)
    return {name: table[name].to_numpy() for name in columns}, probs


def log_odds(probs: np.ndarray) -> np.ndarray:
    """Return log p_k - log sum_{j != k} p_j, float64 (N, K), for probs (N, K).

    The sum over the others keeps the digits of a p near 1, which 1 - p would lose. Below 1.2e-38 both count
    as 1.2e-38.

    >>> log_odds(np.array([[0.5, 0.25, 0.25]])).round(3).tolist()
    [[0.0, -1.099, -1.099]]
    """
    others = probs @ (1 - np.eye(probs.shape[1]))
    return np.asarray(
        np.log(np.maximum(probs, SMALLEST_PROBABILITY)) - np.log(np.maximum(others, SMALLEST_PROBABILITY))
    )


def check_result_files(folder: Path, what: str, written_by: str) -> None:
    """Raise DataError unless a folder holds run.json and predictions.parquet; of a study it names the cells.

    `what` the folder should be and by which command it is `written_by` are told in words.
    """
    from finetune.experiments.study.cells import study_hint

    needed = ("run.json", "predictions.parquet")
    missing = [name for name in needed if not (folder / name).is_file()]
    if missing:
        if hint := study_hint(folder):
            raise DataError(hint)
        found = "it does not exist" if not folder.is_dir() else f"it lacks {' and '.join(missing)}"
        raise DataError(
            f"{folder} is not the result of {what}: {found}. A result folder holds "
            f"{' and '.join(needed)} ({written_by})"
        )
