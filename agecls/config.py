"""What a user may choose about age data, training, folds and evaluation, beside what every task has.

The optimiser and both learning rates were found by `crl age tune` (configs/short.yaml says how): with SGD at
0.01, and ten times that for the head, short trainings end far lower.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from agecls.data.groups import AgeGroups
from finetune.errors import CrlError, DataError, UsageError
from finetune.experiments.config import (
    CalibrateConfig,
    CompareConfig,
    ComparisonConfig,
    DataConfig,
    EvaluateAgainConfig,
    EvaluateConfig,
    EvaluateRunConfig,
    OwnRates,
    VerifyConfig,
    arms_of,
)
from finetune.experiments.tune.config import TuneConfig
from finetune.training.config import FitConfig, TrainConfig

ADIENCE_GROUPS = "0-2,4-6,8-12,15-20,25-32,38-43,48-53,60+"
AgeCrops = Literal["center", "flip", "ten"]


@dataclass(frozen=True)
class AgeDataConfig(DataConfig):
    """Faces with age groups: Adience's own folder and fold files, or any table of path, age and subject.

    Args:
        root: Adience's folder (fold files and faces/ or aligned/), a published set's, or the image root of a
            table.
        name: a published set of faces in root, such as utkface or fgnet; `crl age table` lists all.
        odd_names: what to do with names and rows of that set that cannot be read: error, or drop (counted).
        crops: folder for faces that are cut out by their marks; null is one in the user's cache.
        crop_margin: fraction of a marked face's sides that is added on each side.
        faeb: a database (.json) or benchmark (.yaml) of the CVPR 2024 benchmark, with its images in root.
        splits: that benchmark's own (faeb: some images are tested twice, some never), or disjoint ones.
        folds_dir: folder of the Adience fold files when they do not lie in root.
        policy: which Adience age strings belong to which group.
        layout: which Adience images: auto, faces or aligned.
        groups: the age groups of a table, young to old.
        path_column: the table's column of image paths.
        age_column: the table's column of ages in years.
        group_column: the table's column of group names (as in groups), instead of ages.
        subject_column: the table's column of subjects; "none" makes each image its own subject.
        user_column: the table's column of albums or accounts that hold several subjects.
        gender_column: the table's column of genders (m, f, u), for slices only.
        slice_columns: further columns of text to slice results by, such as camera,ethnicity: never a target.
        fold_column: the table's column of official folds (0, 1, ...).
        protocol: fixed (no validation), grouped (validation by user) or rotate (the fold before the test fold
            validates).
        n_folds: folds made for a table that has none.
        fold_seed: seed of those folds.
        fold: the test fold of `train`; -1 trains on everything and tests on nothing.
        allow_subject_overlap: allow one subject in both training and test (then no claim of exclusivity is
            made).
    """

    name: str | None = None
    odd_names: Literal["error", "drop"] = "error"
    crops: str | None = None
    crop_margin: float = 0.05
    faeb: str | None = None
    splits: Literal["faeb", "disjoint"] = "faeb"
    folds_dir: str | None = None
    policy: Literal["core8", "gillevi", "paper_table", "mivolo", "l2rclip"] = "core8"
    layout: Literal["auto", "faces", "aligned"] = "auto"
    groups: str = ADIENCE_GROUPS
    path_column: str = "path"
    age_column: str = "age"
    group_column: str | None = None
    subject_column: str = "subject"
    user_column: str | None = None
    gender_column: str | None = None
    slice_columns: tuple[str, ...] = ()
    fold_column: str | None = None
    protocol: Literal["fixed", "grouped", "rotate"] = "fixed"
    n_folds: int = 5
    fold_seed: int = 0
    fold: int = 0
    allow_subject_overlap: bool = False

    def faults(self, *, needed: bool) -> list[CrlError]:
        """Return why no data can be read; the folder of fold files and the groups are looked at too."""
        found = super().faults(needed=needed)
        if self.folds_dir is not None and not Path(self.folds_dir).is_dir():
            found.append(DataError(f"--data.folds_dir {self.folds_dir}: there is no such folder"))
        found += self._named_faults()
        try:
            AgeGroups.parse(self.groups)
        except UsageError as error:
            found.append(UsageError(f"--data.groups: {error}"))
        return found

    @property
    def rule(self) -> str:
        """By which rule the parts are made: the protocol, or what the splits of a benchmark stand for."""
        if self.faeb is None:
            return self.protocol
        return "faeb" if self.splits == "faeb" else "rotate"

    def _named_faults(self) -> list[CrlError]:
        found: list[CrlError] = []
        if self.faeb is not None:
            if not Path(self.faeb).is_file():
                found.append(DataError(f"--data.faeb {self.faeb}: there is no such file"))
            if self.root is None or self.table is not None or self.name is not None:
                found.append(
                    UsageError(
                        "--data.faeb needs --data.root FOLDER (its images), and no --data.table or .name"
                    )
                )
            if self.protocol != "fixed":
                found.append(
                    UsageError(f"--data.protocol {self.protocol}: --data.faeb brings its own (--data.splits)")
                )
        if self.name is None:
            return found
        from agecls.data.known.registry import known_set

        try:
            known_set(self.name)
        except UsageError as error:
            found.append(UsageError(f"--data.name: {error}"))
        if self.table is not None or self.root is None:
            found.append(UsageError(f"--data.name {self.name} needs --data.root FOLDER, and no --data.table"))
        return found

    @property
    def wanted(self) -> str:
        """What to give where no data are named."""
        return (
            "no data: give --data.root FOLDER (Adience; others with --data.name) or --data.table FILE (any "
            "table of faces)"
        )


@dataclass(frozen=True)
class AgeTrainConfig(TrainConfig):
    """How long, how fast and on which images the model learns."""

    optimizer: Literal["sgd", "adamw"] = "adamw"
    lr: float = 0.001
    head_lr_multiplier: float = 1.0


@dataclass(frozen=True)
class AgeEvaluateConfig(EvaluateConfig):
    """How test images are given to the network.

    Args:
        test_crops: center, flip (centre and its mirror) or ten (four corners and centre, mirrored).
        thumbnails: show faces of the data in the report; without, it can be passed on.
    """

    test_crops: AgeCrops = "center"
    thumbnails: bool = False


@dataclass(frozen=True)
class AgeEvaluateAgainConfig(EvaluateAgainConfig):
    """How images are given to a network that was tested before.

    Args:
        test_crops: center, flip or ten; null shows them as the run's own test did.
    """

    test_crops: AgeCrops | None = None


@dataclass(frozen=True)
class AgeCompareConfig(CompareConfig):
    """A paired comparison of two results.

    Args:
        pictures: draw the heat maps, and with thumbnails the gallery.
        thumbnails: show faces of the data in the figures; without, the page can be passed on.
    """

    thumbnails: bool = False

    @property
    def people(self) -> bool:
        """Whether the figures show faces."""
        return self.thumbnails


@dataclass(frozen=True)
class AgeConfig(FitConfig):
    """A whole age experiment: data, model, head, loss, training, evaluation and where it all goes."""

    train: AgeTrainConfig = field(default_factory=AgeTrainConfig)
    data: AgeDataConfig = field(default_factory=AgeDataConfig)
    evaluate: AgeEvaluateConfig = field(default_factory=AgeEvaluateConfig)

    def __post_init__(self) -> None:
        super().__post_init__()
        without = "--data.protocol fixed" if self.data.rule == "fixed" else "--data.fold -1"
        validates = self.data.rule != "fixed" and self.data.fold != -1
        if not validates and (self.train.select == "best" or self.train.patience):
            raise UsageError(
                f"train.select best and train.patience need a validation part, which {without} does not "
                "make: give --data.protocol grouped or rotate and a fold to test"
            )


@dataclass(frozen=True)
class CrossValidationConfig(AgeConfig):
    """An age experiment over all folds.

    Args:
        folds: the folds to run now; empty means all. A finished fold is never run again.
        devices: one fold at a time on each device named (cuda:0,cuda:1 or cpu,cpu); empty: one process.
        report: score and report once every fold is there; false leaves that to another call.
    """

    folds: tuple[int, ...] = ()
    devices: tuple[str, ...] = ()
    report: bool = True


@dataclass(frozen=True)
class AgeStudyConfig(CrossValidationConfig, ComparisonConfig, OwnRates):
    """A study of losses: one age experiment trained with every loss and every seed, under equal budgets.

    Args:
        cell: what one loss with one seed is: cv (a cross-validation over all folds) or train (one model that
            is tested on data.fold alone).
    """

    cell: Literal["cv", "train"] = "cv"

    def __post_init__(self) -> None:
        CrossValidationConfig.__post_init__(self)
        ComparisonConfig.__post_init__(self)
        self.refuse_unknown([arm.name for arm in arms_of(self)])
        if self.folds or not self.report:
            raise UsageError(
                "--folds and --report belong to cv: a study's cells have all folds and their reports; "
                "--cell train trains on one split alone (--data.fold)"
            )
        if self.cell == "train" and self.devices:
            raise UsageError("--devices shares out folds, and --cell train has one: give --device")
        if self.cell == "train" and self.data.fold < 0:
            raise UsageError("--data.fold -1 tests on nothing, so there would be nothing to compare")


@dataclass(frozen=True)
class AgeTuneConfig(AgeConfig, TuneConfig):
    """A search for the rates of an age experiment, on people beside its test fold."""

    def __post_init__(self) -> None:
        AgeConfig.__post_init__(self)
        TuneConfig.__post_init__(self)


@dataclass(frozen=True)
class VerifyAgeConfig(VerifyConfig):
    """A look at a data set without training.

    Args:
        export: folder to write every fold's train, validation and test lists to (relative paths, CSV).
        against: folder of such lists; it is an error when they are not the splits of this data.
    """

    data: AgeDataConfig = field(default_factory=AgeDataConfig)
    export: str | None = None
    against: str | None = None


@dataclass(frozen=True)
class AgeTableConfig:
    """A published set of faces, written as one checked table.

    Args:
        out: the table to write, a .csv that is not there yet.
    """

    data: AgeDataConfig = field(default_factory=AgeDataConfig)
    out: str | None = None


@dataclass(frozen=True)
class EvaluateAgeConfig(EvaluateRunConfig):
    """A trained run on its own test images, or on any other data.

    Args:
        crop: own (images as they are), or detector: also cut out again by a face detector, to measure what
            the crops made in use cost against those of the data.
        detector: the YuNet face detector's ONNX file; null looks in the usual places.
        face_crop: how the detector's faces are cut out: aligned, faces, plain, or auto (as the run's images
            are: known from Adience's layout, measured on others).
        face_margin: fraction of the face box added on every side for faces and plain; null is the style's
            own.
        cache: where decoded images of other data are kept: auto (the user's cache folder), none, or one
            named.
    """

    data: AgeDataConfig = field(default_factory=AgeDataConfig)
    evaluate: AgeEvaluateAgainConfig = field(default_factory=AgeEvaluateAgainConfig)
    crop: Literal["own", "detector"] = "own"
    detector: str | None = None
    face_crop: Literal["auto", "aligned", "faces", "plain"] = "auto"
    face_margin: float | None = None


@dataclass(frozen=True)
class AgeCalibrateConfig(CalibrateConfig):
    """A finished run's probabilities made honest, by images that its models never saw.

    Args:
        data: other data than the run's own; without, its validation or its test images calibrate.
    """

    data: AgeDataConfig = field(default_factory=AgeDataConfig)
