"""The public door to exported models: `export_run` makes them, `OnnxClassifier` runs one without torch."""

from __future__ import annotations

from os import PathLike, fspath
from pathlib import Path
from typing import Literal, Never, Protocol

from apps.commands import COMMANDS
from apps.config import ExportConfig
from apps.runtime.session import OnnxClassifier
from finetune.cli.keywords import read_keywords
from finetune.seeding import torch_left_as_it_was

__all__ = ["OnnxClassifier", "export_run"]


class InFolder(Protocol):
    """A finished run's result: it says which folder it lies in."""

    @property
    def folder(self) -> Path:
        """The run folder."""


def export_run(
    run: InFolder | str | PathLike[str],
    config: ExportConfig | str | PathLike[str] | None = None,
    *,
    fold: int | None = None,
    all: bool | None = None,
    ensemble: bool | None = None,
    precision: Literal["fp32", "fp16", "int8"] | None = None,
    out: str | PathLike[str] | None = None,
    title: str | None = None,
    face_crop: Literal["auto", "aligned", "faces", "plain"] | None = None,
    face_margin: float | None = None,
    detector: str | PathLike[str] | None = None,
    max_difference: float | None = None,
    max_drop: float | None = None,
    calibration_images: int | None = None,
    images: int | None = None,
    calibrate: bool | None = None,
    overwrite: bool | None = None,
    **unknown: Never,
) -> list[Path]:
    """Export the models of a finished run as checked .onnx files, as `crl export` does.

    Args:
        run: the result that `train` or `cross_validate` returned, or its folder.
        config: the options as an object, or a YAML file; the other arguments override it.
        fold: the fold to export; every fold without.
        all: export every fold.
        ensemble: export one file that averages all folds.
        precision: fp32, fp16 or int8.
        out: folder for the exports; under the run folder without.
        title: what the model is called.
        face_crop, face_margin, detector: how a photograph's face is cut out.
        max_difference: how far fp16's outputs may be from the trained model's.
        max_drop, calibration_images: what int8 may lose, and the number of images for its ranges.
        images: real images on which the file must agree with the trained model.
        calibrate: put the run's calibration into the file.
        overwrite: replace a previous export.
        unknown: refused, with the nearest known name.

    Returns the .onnx files. Raises CrlError, such as ModelFileError for a file unlike the trained model.
    """
    given = {name: value for name, value in locals().items() if name != "run"}
    folder = Path(fspath(run)) if isinstance(run, str | PathLike) else run.folder
    call = read_keywords(COMMANDS["export"], "crl export", given, [str(folder)])
    with call.running(), torch_left_as_it_was():
        from apps.export.run import export_run as export

        return [Path(made["file"]) for made in export(folder, call.config)["exports"]]
