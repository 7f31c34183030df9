"""What a user may choose when exporting, predicting, serving and looking after an installation."""

from __future__ import annotations

from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Literal

from agecls.config import AgeDataConfig
from core_losses import LOSSES
from finetune.cli.options import GENERATED_HELP, REWORDED_HELP, described_fields
from finetune.cli.words import WithOldKeys
from finetune.errors import UsageError
from finetune.experiments.config import DataConfig
from finetune.runs.config_file import OLD_LOSS_OPTIONS

# Float16 keeps 11 bits; through a hundred layers a logit moves by a hundredth of the largest at most.
FP16_TOLERANCE = 0.02


@dataclass(frozen=True)
class ExportConfig:
    """A finished run as self-describing ONNX files, each checked against the trained model before it exists.

    Args:
        fold: the fold of a cross-validation to export; null exports every fold.
        all: export every fold, each into a folder of its own.
        ensemble: export one file that averages the probabilities of all folds.
        precision: fp32, fp16, or int8 (static, calibrated on training images, behind an accuracy gate).
        out: folder for the exports; null puts them into the run folder, under export.
        title: what the model is called in tables and in the demo; null names it after the run and the fold.
        face_crop: how a photograph's face is cut out for this model: aligned, faces, plain, or auto (as its
            training images were: known from Adience's layout, measured on others).
        face_margin: fraction of the face box added on every side for faces and plain; null is the style's
            own.
        detector: the YuNet face detector's ONNX file, to measure how this run's images frame their faces;
            null looks in the usual places.
        max_difference: how far fp16's outputs may be from the trained model's, as a fraction of the largest,
            before the export is refused; the card tells of more than the default.
        max_drop: percentage points of accuracy that int8 may lose before the export is refused.
        calibration_images: training images that int8's ranges are taken from.
        images: real images, besides random ones, on which the file must agree with the trained model (>= 16).
        calibrate: put the run's calibration into the file: probs = softmax(logits / T). What crl age or fine
            calibrate found is taken; where nothing was, it is fitted now, on images held out.
        overwrite: replace a previous export in the same place; without, a finished one of this very run and
            with these options is kept.
    """

    fold: int | None = None
    all: bool = False
    ensemble: bool = False
    precision: Literal["fp32", "fp16", "int8"] = "fp32"
    out: str | None = None
    title: str | None = None
    face_crop: Literal["auto", "aligned", "faces", "plain"] = "auto"
    face_margin: float | None = None
    detector: str | None = None
    max_difference: float = FP16_TOLERANCE
    max_drop: float = 1.0
    calibration_images: int = 128
    images: int = 32
    calibrate: bool = False
    overwrite: bool = False


@dataclass(frozen=True)
class PredictConfig:
    """Images, folders, videos or a list of them, classified by one model or several.

    Args:
        out: file for the predictions, one row per image, face and model: .csv, .jsonl or .parquet.
        heatmap: file for the softmax heat map: .png, .html or .csv.
        explain: folder for figures of where the network looked: the class activation map over each crop.
        faces: find every face in an image, cut it out as the model expects, and classify each.
        detector: the YuNet face detector's ONNX file; null looks in the usual places.
        box: x,y,width,height in px of the one face in every image, where it is known; no detector is run.
        groups: other groups that the answers of a model of years are read as, young to old, such as
            "0-12,13-17,18+": their years' probabilities are summed up.
        recursive: look into the folders of a folder too.
        fps: frames of a video to look at, per second of it.
        test_crops: views of each image whose probabilities are averaged: center, flip (with its mirror),
            ten (corners and centre, mirrored), or run (those that the model's own scores were measured with).
        batch_size: images at once; one of several views counts as so many.
        device: auto, cpu, cuda or cuda:1.
        threads: CPU threads of the runtime; 0 takes every core.
    """

    out: str | None = None
    heatmap: str | None = None
    explain: str | None = None
    faces: bool = False
    detector: str | None = None
    box: str | None = None
    groups: str | None = None
    recursive: bool = True
    fps: float = 1.0
    test_crops: Literal["run", "center", "flip", "ten"] = "run"
    batch_size: int = 32
    device: str = "auto"
    threads: int = 0


@dataclass(frozen=True)
class ExplainConfig:
    """Where a model found its evidence, drawn over the crop that it saw.

    Args:
        out: a new folder for the figures.
        fold: the fold of a cross-validation whose model is asked.
        class_name: the class to explain; null explains the predicted one.
        device: auto, cpu, cuda or cuda:1, for .onnx files.
    """

    out: str = "explained"
    fold: int | None = None
    class_name: str | None = None
    device: str = "auto"


def _for_which_models(name: str, told: str) -> str:
    """Return the help of an option of other data, which says where it acts for age models alone."""
    if not name:
        return "Other data than the run's: a folder or a table, of the kind that the models were trained on"
    return described_fields(DataConfig).get(name) or f"age models only: {told}"


@dataclass(frozen=True)
class EvaluateOnnxConfig:
    """Exported models scored without torch, on the test images of the run they came from or on other data.

    Args:
        run: the run folder that the models were exported from: each is shown the test images of its own fold,
            and must repeat the trained model's predictions to the last image.
        batch_size: images at once.
        device: auto, cpu, cuda or cuda:1.
        threads: CPU threads of the runtime; 0 takes every core.
        out: folder for predictions.parquet and evaluation.json; null writes nothing.
    """

    data: AgeDataConfig = field(default_factory=AgeDataConfig, metadata={REWORDED_HELP: _for_which_models})
    run: str | None = None
    batch_size: int = 64
    device: str = "auto"
    threads: int = 0
    out: str | None = None


@dataclass(frozen=True)
class DemoConfig:
    """A web page that shows what exported models predict for uploaded images.

    Args:
        examples: folder of images to choose from on the page; a folder per class gives their true class.
        audit: folder of an audit (crl age audit): a page with a slider for the challenge age.
        detector: the YuNet face detector's ONNX file; null looks in the usual places.
        cropped: start with the switch on that takes every image for one cropped face.
        device: auto, cpu, cuda or cuda:1.
        host: address to listen on; any but a loopback address needs auth.
        port: port to listen on.
        public_url: address at which another server (nginx, Caddy) offers the demo, with its path if it has
            one: https://faces.example.org/ages. The page is then used at that address.
        auto_port: take the next free port when this one is in use.
        auth: file with a line user:password for each person who may come in.
        max_files: images at once.
        max_mb: size of one image's file, in MB (10^6 bytes).
        keep_minutes: how long an uploaded image may stay on this machine.
        queue: requests that may wait; further ones are told so.
        concurrency: requests answered at the same time; 0 takes the number of cores.
        check: answer one image over the port, say how it went, and stop.
    """

    examples: str | None = None
    audit: str | None = None
    detector: str | None = None
    cropped: bool = False
    device: str = "auto"
    host: str = "127.0.0.1"
    port: int = 7860
    public_url: str | None = None
    auto_port: bool = False
    auth: str | None = None
    max_files: int = 16
    max_mb: float = 10.0
    keep_minutes: float = 10.0
    queue: int = 64
    concurrency: int = 0
    check: bool = False


@dataclass(frozen=True)
class CacheConfig:
    """Decoded images kept between runs: listed, or removed where no run holds them.

    Args:
        folder: the image cache: auto (the user's cache folder), or the folder given to --run.cache.
        keep_gb: what clean leaves, in GB (10^9 bytes), the most recently used first; 0 removes all it may.
    """

    folder: str = "auto"
    keep_gb: float = 0.0


@dataclass(frozen=True)
class DoctorConfig:
    """A look at the installation: versions, devices, providers, weights, disk and threads.

    Args:
        backbone: also look for the pretrained weights of this backbone.
        weights: file or folder of weights to look at.
        detector: the YuNet face detector's ONNX file; null looks in the usual places.
        gpu: try the GPU instead (alone, or as cuda:1): twelve checks of what it computes, in about five
            minutes. Random weights, drawn images, no download; nothing is sent.
        quick: with --gpu, leave out the checks of two processes, speed and memory.
        out: with --gpu, the file for every number that was measured; null writes gpu-check.json here.
    """

    backbone: str | None = None
    weights: str | None = None
    detector: str | None = None
    gpu: bool | str = False
    quick: bool = False
    out: str | None = None

    def __post_init__(self) -> None:
        other = {"backbone": self.backbone, "weights": self.weights, "detector": self.detector}
        given = [f"--{name}" for name, value in other.items() if value is not None]
        if self.gpu and given:
            raise UsageError(
                f"--gpu looks at the GPU alone: leave out {', '.join(given)}, or run crl doctor twice"
            )
        if not self.gpu and (self.quick or self.out is not None):
            raise UsageError("--quick and --out belong to --gpu: crl doctor --gpu --quick")


@dataclass(frozen=True)
class QuickstartConfig:
    """The first result: drawn faces, three losses, five folds each, one comparison, exports and the demo.

    Args:
        dir: where everything goes. The same command again goes on and keeps what is finished; other settings
            replace an earlier quickstart; refused when the folder holds anything else.
        backbone: a small timm backbone, trained from scratch.
        epochs: passes over the drawn training faces.
        users: albums of four drawn subjects each.
        seed: of the faces, the weights and the batches.
        serve: start the demo with the exported models when everything is made.
        port: port of the demo; the next free one is taken when it is in use.
    """

    dir: str = "demo-run"
    backbone: str = "test_efficientnet"
    epochs: int = 5
    users: int = 30
    seed: int = 0
    serve: bool = True
    port: int = 7860


@dataclass(frozen=True)
class CurvesConfig(WithOldKeys):
    """The losses that read the posterior of the true class alone, and their true gradients, against it.

    Args:
        out: folder for curves.png and curves.csv.
        losses: words NAME or NAME:OPTION=VALUE (crl:alpha=1); an empty list takes every loss that reads the
            posterior of the true class alone. There are
        options: settings by name for every loss that takes them, where its word does not (--options.alpha 2).
        points: posteriors, evenly spaced inside (0, 1).
    """

    OLD_KEYS = MappingProxyType({name: f"options.{name}" for name in OLD_LOSS_OPTIONS})

    out: str = "curves"
    losses: tuple[str, ...] = field(default=(), metadata={GENERATED_HELP: lambda: f"{', '.join(LOSSES)}."})
    options: dict[str, float] = field(default_factory=dict)
    points: int = 199
