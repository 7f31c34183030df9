"""A cell of a study: one arm with one seed, trained once and tested once, and where that is kept."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Any

from finetune.errors import DataError, listing
from finetune.experiments.study.arms import Arm
from finetune.runs.files import json_text, write_bytes
from finetune.runs.former_epochs import counted_from_one
from finetune.runs.former_losses import todays_arm
from finetune.runs.parse import parse_json

CELL_FILE = "cell.json"
LOSS = "loss"  # a cell's fact: its loss with all options; those of former releases lack it
SEED = "seed-"


@dataclass(frozen=True)
class CellPlan:
    """A cell that is to be trained.

    Args:
        arm: what is trained.
        seed: of everything random; the same seed of another arm starts and shuffles alike.
        lr_factor: the learning rate is multiplied by it; 1 unless the arm's learning rate is matched to
            another's.
        folder: the cell's own.
    """

    arm: Arm
    seed: int
    lr_factor: float
    folder: Path


@dataclass(frozen=True)
class Cell:
    """A finished cell.

    Args:
        arm: the arm's name.
        seed: the seed.
        scores: per cent by measure, on the test images at the end of the training; None where not defined.
        history: a row per epoch: `epoch` from 1, `train_loss`, `train_accuracy` (fraction), `test_error` (per
            cent; absent where not measured), `gradient_factor` and `gradient_ratio`.
        gradient_factor: mean over the training of grad / grad_ce (see `Arm.matches_by`); None where not
            defined.
        gradient_ratio: sum over the training of grad over that of grad_ce; None where not defined.
        lr_factor: what the learning rate was multiplied by.
        seconds: of training and testing; a share of the whole where cells trained together.
        device: that ran it.
        facts: what else is worth printing: parameters, learning rate, precision, the loss with all options.
    """

    arm: str
    seed: int
    scores: Mapping[str, float | None]
    history: Sequence[Mapping[str, Any]]
    gradient_factor: float | None
    gradient_ratio: float | None
    lr_factor: float
    seconds: float
    device: str
    facts: Mapping[str, Any] = field(default_factory=dict)


def cell_folder(study: Path, arm: Arm, seed: int) -> Path:
    """Return the folder of a cell in the study's folder.

    >>> from finetune.training.config import LossConfig
    >>> cell_folder(Path("study"), Arm("cel", LossConfig()), 3).as_posix()
    'study/cells/cel/seed-3'
    """
    return study / "cells" / arm.name / f"{SEED}{seed}"


def study_hint(folder: Path) -> str:
    """Return what to name in place of a study's folder, its cells/ or an arm's folder; "" for any other."""
    if (folder / "cells").is_dir():
        below = f"cells/*/{SEED}*"
    elif folder.name == "cells":
        below = f"*/{SEED}*"
    elif folder.resolve().parent.name == "cells":
        below = f"{SEED}*"
    else:
        return ""
    if not any(folder.glob(below)):
        return ""
    if any(folder.glob(f"{below}/{CELL_FILE}")):
        return f"{folder} is of the general study, whose cells are no runs: its report compares them"
    cells = [file.parent for file in folder.glob(f"{below}/run.json")]
    cells.sort(key=lambda cell: (cell.parent.name, len(cell.name), cell.name))
    if not cells:
        return f"{folder} is of a study none of whose cells here is finished"
    return f"{folder} is of a study, whose cells are the results; name one of them:\n" + listing(
        [str(cell) for cell in cells]
    )


def write_cell(cell: Cell, folder: Path) -> None:
    """Write cell.json into the folder in one step; once it is there the cell is finished."""
    folder.mkdir(parents=True, exist_ok=True)
    write_bytes(folder / CELL_FILE, json_text(asdict(cell), indent=1).encode())


def read_cell(folder: Path) -> Cell | None:
    """Return the cell that is kept in the folder; None where none is finished.

    Raises:
        DataError: when cell.json is there but is not a whole cell.
    """
    file = folder / CELL_FILE
    if not file.is_file():
        return None
    try:
        content = parse_json(file.read_text(encoding="utf-8"))
        if LOSS not in content["facts"]:
            content["arm"] = todays_arm(content["arm"])
        content["history"] = counted_from_one(content["history"])
        return Cell(**{item.name: content[item.name] for item in fields(Cell)})
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise DataError(
            f"{file} does not hold a finished cell ({type(error).__name__}: {error}); remove {folder}, and "
            "the study trains this cell again"
        ) from None
