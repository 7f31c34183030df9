"""Which files `crl export` is to write: one per fold or an ensemble, each in a folder of its own."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

from apps.config import ExportConfig
from finetune.errors import UsageError, listing
from finetune.experiments.exported.lookup import exported_task
from finetune.experiments.records.record import RECORD_FILE
from finetune.experiments.result import model_files
from finetune.experiments.study.cells import CELL_FILE, study_hint
from finetune.experiments.task import Task
from finetune.runs.files import check_writable
from finetune.runs.folder import read_json

CARD = "README.md"
GENERAL = "general_run"
NOT_EXPORTED = (
    "cannot be exported: its networks are small ones for comparing losses. Train a model on the same "
    "images as class folders with crl fine train --data.layout folders --data.root FOLDER, and export that "
    "run"
)


@dataclass(frozen=True)
class Plan:
    """One file to be: what it is called, the folder it gets, and the models in it with their folds."""

    title: str
    place: Path
    files: tuple[Path, ...]
    folds: tuple[int, ...]
    fold: int | None

    @property
    def target(self) -> Path:
        """The .onnx file."""
        slug = re.sub(r"[^a-z0-9]+", "-", self.title.lower()).strip("-")[:100]
        return self.place / f"{slug or 'model'}.onnx"


def run_and_weights(named: Path) -> tuple[Path, Path | None]:
    """Return the run's folder, and its file of weights where one was named in place of the folder.

    >>> run_and_weights(Path("runs/dcl/model-best.safetensors"))[0].as_posix()
    'runs/dcl'
    """
    return (named.parent, named) if named.suffix == ".safetensors" else (named, None)


def plan_exports(named: Path, config: ExportConfig) -> list[Plan]:
    """Return what is to be written for a run, or a file of its weights, under these options.

    See `apps.export.run.export_run` for what is refused.
    """
    _check_options(config)
    folder, weights = run_and_weights(named)
    _check_folder(folder)
    if weights is not None and not weights.is_file():
        there = ", ".join(sorted(file.name for file in folder.glob("*.safetensors"))) or "none"
        raise UsageError(f"there is no {weights}; {folder} holds {there}")
    files = [weights] if weights is not None else model_files(folder)
    several = files[0].parent != folder
    if several:
        folds = [int(file.parent.name.removeprefix("fold")) for file in files]
    else:
        folds = [int(read_json(folder / "run.json").get("fold", -1))]
        if config.ensemble:
            raise UsageError(f"--ensemble averages the models of a cross-validation; {folder} holds one")
    if config.fold is not None and config.fold not in folds:
        there = ", ".join(map(str, folds))
        raise UsageError(f"--fold {config.fold}: {folder} holds the models of fold {there}")
    name = folder.resolve().name
    out = Path(config.out) if config.out else folder / "export"
    suffix = "" if config.precision == "fp32" else f"-{config.precision}"
    marked = f" {config.precision}" if suffix and config.title is None else ""
    check_writable(out)
    plans = []
    for file, fold in zip(files, folds, strict=True):
        if config.fold in (None, fold) and (config.all or not config.ensemble):
            one_title = config.title is not None and config.fold is not None
            title = (config.title or name) + (f" fold {fold}" if several and not one_title else "")
            title += file.stem.removeprefix("model").replace("-", " ") if config.title is None else ""
            place = out / ((f"fold{fold}" if several else file.stem) + suffix)
            plans.append(Plan(title + marked, place, (file,), (fold,), fold))
    if config.ensemble:
        title = config.title or f"{name} ensemble of {len(files)}"
        plans.append(Plan(title + marked, out / f"ensemble{suffix}", tuple(files), tuple(folds), None))
    return plans


def run_task(kind: str) -> Task:
    """Return the task of a run of this kind; UsageError lists the kinds that can be exported."""
    if kind == GENERAL:
        raise UsageError(f"a run of the general study {NOT_EXPORTED}")
    return exported_task(kind)


def check_exportable(folder: Path) -> None:
    """Raise UsageError, before any work, for a run that cannot be exported and for the folder of a study.

    A study's folder, or an arm's in it, is answered with the cells that can be named in its place.
    """
    if (folder / RECORD_FILE).is_file():
        run_task(str(read_json(folder / RECORD_FILE).get("kind", "")))
    elif (folder / CELL_FILE).is_file() or any(folder.glob(f"cells/*/*/{CELL_FILE}")):
        raise UsageError(f"{folder} is of the general study, whose model {NOT_EXPORTED}")
    elif hint := study_hint(folder):
        raise UsageError(hint)


def _check_folder(folder: Path) -> None:
    if folder.suffix == ".onnx":
        raise UsageError(f"{folder} is an exported model already; crl export takes the folder of a run")
    if not folder.is_dir():
        raise UsageError(f"there is no folder {folder}; crl export takes the folder of a finished run")
    check_exportable(folder)
    if not (folder / "run.json").is_file():
        runs = sorted(str(file.parent) for file in folder.glob("*/run.json"))
        if runs and not folder.joinpath("config.yaml").exists():
            raise UsageError(f"{folder} is no run, but holds some; export one of them:\n{listing(runs)}")


def _check_options(config: ExportConfig) -> None:
    if config.fold is not None and (config.all or config.ensemble):
        raise UsageError("--fold names one model: leave out --all and --ensemble")
    if config.ensemble and config.precision == "int8":
        raise UsageError(
            "int8 needs test images to measure what it loses, and no image was kept from every member of an "
            "ensemble: export the folds as int8 and give them all to crl predict, or the ensemble as fp16"
        )
    if config.images < 16 or config.calibration_images < 16:
        asked = f"{config.images} and {config.calibration_images}"
        raise UsageError(f"--images and --calibration_images must be at least 16, got {asked}")
    if not 0 < config.max_difference < 1:
        raise UsageError(
            "--max_difference is a fraction of an output's largest value, above 0 and below 1, got "
            f"{config.max_difference:g}"
        )
    if config.max_drop < 0:
        raise UsageError(f"--max_drop is a number of percentage points from 0 on, got {config.max_drop:g}")
