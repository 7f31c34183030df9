"""`crl quickstart`: a first result on synthetic (drawn) faces, in minutes, with nothing downloaded."""

from __future__ import annotations

import shlex
import shutil
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from agecls.config import (
    AgeCompareConfig,
    AgeDataConfig,
    AgeEvaluateConfig,
    AgeTrainConfig,
    CrossValidationConfig,
)
from agecls.cross_validation import cross_validate
from agecls.synthetic.adience import write_lookalike_adience
from agecls.task import TASK
from apps.runtime.installed import TOOLKIT, installed_version
from finetune.cli.command import resumed_by_repeating
from finetune.errors import UsageError
from finetune.runs.files import check_writable, json_text, write_bytes

if TYPE_CHECKING:
    from apps.config import QuickstartConfig
    from finetune.images.manifest import Manifest

MARKER, DRAWN = ".crl-quickstart", ".drawn"
MADE = ("lookalike", "cache", "cel", "nllr", "crl", "comparison", "examples")
TEST_FOLD = 0
EXAMPLES = 12
HOST = "127.0.0.1"


LOSSES = {
    "cel": ("CE", "cross-entropy"),
    "nllr": ("NLLR", "negative log likelihood ratio"),
    "crl": ("CRL", "competing ratio loss"),
}
# A learning rate at which one loss trains badly would decide the comparison before it begins. Each loss was
# tried at 0.002, 0.005, 0.01 and 0.02 for six epochs, in five folds on drawings of another seed (1). Exact
# accuracy in %, in this order: CE 49, 54, 51, 48; NLLR 47, 51, 48, 43; CRL 49, 53, 53, 53. The largest group
# has 30 %.
LEARNING_RATE = 5e-3
IMAGE_SIZE = 48  # px
COMPARISONS = (("cel", "crl"), ("cel", "nllr"))


def run_quickstart(config: QuickstartConfig) -> dict[str, Any]:
    """Draw faces, cross-validate three losses on them, compare, export fold 0 of each, and open the demo.

    Returns dir, runs (loss -> report), comparison (CRL against CE), comparisons (both), models, examples, and
    what the demo returned when it was stopped (None where it was not asked for).
    """
    from finetune.cli.console import say

    folder = claim(config)
    faces = draw_faces(config, folder)
    say(f"learning rate {LEARNING_RATE:g} for all losses")
    with resumed_by_repeating():
        reports = {loss: train(config, faces, folder, loss) for loss in LOSSES}
    comparisons = [compare(folder, *pair) for pair in COMPARISONS]
    models = [export(folder, loss) for loss in LOSSES]
    examples = copy_examples(folder / COMPARISONS[0][0], folder / "examples")
    tell_what_is_there(folder, comparisons, models, examples)
    return {
        "dir": str(folder),
        "runs": reports,
        "comparison": comparisons[0],
        "comparisons": comparisons,
        "models": [str(model) for model in models],
        "examples": str(folder / "examples"),
        "demo": serve(config, models, folder / "examples"),
    }


def draw_faces(config: QuickstartConfig, folder: Path) -> Path:
    """Draw the faces unless an earlier call has, and return their folder."""
    from finetune.cli.console import say

    faces, done = folder / "lookalike", folder / "lookalike" / DRAWN
    if not done.is_file():
        shutil.rmtree(faces, ignore_errors=True)
        drawn = write_lookalike_adience(faces, users=config.users, seed=config.seed)
        said = f"{drawn.images} drawn faces of {drawn.subjects} subjects in Adience's layout: {faces}"
        write_bytes(done, said.encode())
    say(done.read_text(encoding="utf-8"))
    return faces


def train(config: QuickstartConfig, faces: Path, folder: Path, loss: str) -> dict[str, Any]:
    """Cross-validate one loss and return its report."""
    from finetune.cli.console import say
    from finetune.experiments.shared_precision import kept_choice

    short, title = LOSSES[loss]
    say(f"\n{title} ({short}): five folds, no subject in both training and test")
    choice = kept_choice(folder / next(iter(LOSSES)))  # they are compared with each other
    with one_thread():
        return cross_validate(TASK, loss_config(config, faces, folder, loss), choice=choice)


def compare(folder: Path, first: str, second: str) -> dict[str, Any]:
    """Compare two losses on the same faces, image by image."""
    from finetune.cli.console import say
    from finetune.experiments.compare.compare import compare_folders

    say(f"\nthe same faces, {second} against {first}")
    out = folder / "comparison" / f"{second}-against-{first}"
    options = AgeCompareConfig(out=str(out), thumbnails=True)  # the faces are drawings
    return compare_folders(TASK, [folder / first], [folder / second], options)


def export(folder: Path, loss: str) -> Path:
    """Export the model of fold 0 and return its file."""
    from apps.config import ExportConfig
    from apps.export.run import export_run

    config = ExportConfig(fold=TEST_FOLD, title=f"{LOSSES[loss][0]} on drawn faces")
    with one_thread():
        [made] = export_run(folder / loss, config)["exports"]
    return Path(made["file"])


def copy_examples(run: Path, out: Path) -> list[Path]:
    """Copy drawn faces that fold 0's models never saw into a folder per group; return the copies."""
    from finetune.images.manifest import Manifest
    from finetune.runs.folder import read_json

    manifest = Manifest.load(run / "manifest.parquet", Path(read_json(run / "run.json")["data_root"]))
    copies: list[Path] = []
    shutil.rmtree(out, ignore_errors=True)
    for row in choose_examples(manifest):
        place = out / manifest.class_names[manifest.label[row]]
        place.mkdir(parents=True, exist_ok=True)
        copies.append(Path(shutil.copyfile(manifest.file(row), place / f"drawn{len(copies) + 1:02d}.jpg")))
    return copies


def choose_examples(manifest: Manifest, count: int = EXAMPLES) -> list[int]:
    """Return rows of fold 0, a subject at most once: the first of every group, then the second, and so on.

    Nobody looks at what the models say of them. Fewer than `count` where there are fewer subjects.
    """
    seen: set[str] = set()
    per_group: list[list[int]] = [[] for _ in manifest.class_names]
    for row in range(len(manifest)):
        if manifest["fold"][row] == TEST_FOLD and manifest["subject"][row] not in seen:
            seen.add(manifest["subject"][row])
            per_group[manifest.label[row]].append(row)
    rounds = range(max(map(len, per_group)))
    turns = [rows[place] for place in rounds for rows in per_group if place < len(rows)]
    return turns[:count]


def tell_what_is_there(
    folder: Path, comparisons: Sequence[dict[str, Any]], models: Sequence[Path], examples: Sequence[Path]
) -> None:
    """Say where everything lies, what it is worth, and what to do with faces of one's own."""
    from finetune.cli.console import say

    reports = [str(folder / loss / "report.md") for loss in LOSSES]
    pages = [comparison["page"] for comparison in comparisons]
    say("\nreports, comparisons and exported models:")
    say("\n".join(f"  {place}" for place in (*reports, *pages, *models)))
    say(f"{len(examples)} example faces that these models never saw: {folder / 'examples'}")
    say("these are drawings: the numbers show that everything works, not which loss is better on real faces")
    say("your own faces next: crl age cv --data.table faces.csv --run.dir runs/mine   (docs/age.md)")


def serve(config: QuickstartConfig, models: Sequence[Path], examples: Path) -> dict[str, Any] | None:
    """Open the demo on the next free port until it is stopped; only say how to, where it is not asked for."""
    from apps.config import DemoConfig
    from finetune.cli.console import say

    if not config.serve:
        words = ["crl", "demo", *map(str, models), "--examples", str(examples), "--cropped"]
        say(f"the demo: {shlex.join(words)}")
        return None
    from apps.demo.page import serve_demo
    from apps.demo.security.startup import free_port

    port = free_port(HOST, config.port, auto=True)
    say(f"the demo: http://{HOST}:{port}   (Ctrl+C stops it)")
    # The drawings are cropped faces already; a photograph needs the page's switch turned off.
    options = DemoConfig(examples=str(examples), cropped=True, host=HOST, port=port, auto_port=True)
    return serve_demo(list(models), options)


@contextmanager
def one_thread() -> Iterator[None]:
    """Compute on one core meanwhile: threads that share so small a network mostly wait for each other."""
    import torch

    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)


def claim(config: QuickstartConfig) -> Path:
    """Return the folder; an earlier quickstart of the same settings in it goes on, of others it is replaced.

    Which of the two is said. Raises UsageError where the folder holds anything else.
    """
    from finetune.cli.console import say

    folder, settings = Path(config.dir), told_settings(config)
    if folder.exists() and not folder.is_dir():
        raise UsageError(f"{folder} is a file: give --dir a folder")
    if folder.exists() and any(folder.iterdir()):
        names = {entry.name for entry in folder.iterdir()} - {MARKER, *MADE}
        strangers = sorted(name for name in names if "-against-" not in name)  # comparisons of its runs
        if strangers or not (folder / MARKER).is_file():
            found = f" ({', '.join(strangers[:5])})" if strangers else ""
            raise UsageError(
                f"{folder} holds files that are not a quickstart's{found}: give --dir another folder"
            )
        if (folder / MARKER).read_text(encoding="utf-8") == settings:
            say(f"{folder} holds this quickstart already: what is finished is kept")
            return folder
        say(f"{folder} holds a quickstart of other settings, or of another release: it is replaced")
        for name in MADE:
            shutil.rmtree(folder / name, ignore_errors=True)
    check_writable(folder)
    folder.mkdir(parents=True, exist_ok=True)
    write_bytes(folder / MARKER, settings.encode())
    return folder


def told_settings(config: QuickstartConfig) -> str:
    """Return what decides a quickstart's results, as the marker in its folder keeps it."""
    own = {name: getattr(config, name) for name in ("backbone", "epochs", "users", "seed")}
    size = {"image_size": IMAGE_SIZE}
    return json_text({**own, **size, "lr": LEARNING_RATE, "toolkit": installed_version(TOOLKIT)})


def loss_config(config: QuickstartConfig, faces: Path, folder: Path, loss: str) -> CrossValidationConfig:
    """Return the cross-validation of one loss: a tiny network from scratch, equal in everything else."""
    from finetune.training.config import LossConfig, ModelConfig, RunConfig

    return CrossValidationConfig(
        data=AgeDataConfig(root=str(faces)),
        evaluate=AgeEvaluateConfig(thumbnails=True),
        model=ModelConfig(backbone=config.backbone, weights="none", image_size=IMAGE_SIZE, resize_ratio=1.0),
        loss=LossConfig(name=loss),
        train=AgeTrainConfig(
            epochs=config.epochs,
            batch_size=32,
            optimizer="adamw",
            lr=LEARNING_RATE,
            head_lr_multiplier=10.0,
            weight_decay=0.05,
            warmup_epochs=1,
            augment="flip",
            seed=config.seed,
        ),
        run=RunConfig(
            dir=str(folder / loss), cache=str(folder / "cache"), precision="float32", resume="auto"
        ),
        device="auto",
    )
