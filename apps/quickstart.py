"""`crl quickstart`: a first result on drawn look-alike faces, in minutes, with nothing downloaded."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from finetune.errors import UsageError

if TYPE_CHECKING:
    from agecls.config import CrossValidationConfig
    from apps.commands import QuickstartConfig

MARKER = ".crl-quickstart"
MADE = ("lookalike", "cache", "cel", "crl", "comparison")
LOSSES = {"cel": "cross-entropy", "crl": "competing ratio loss"}


def run_quickstart(config: QuickstartConfig) -> dict[str, Any]:
    """Draw faces, cross-validate both losses on them, and compare the two image by image."""
    from agecls.comparison import compare_folders
    from agecls.config import CompareConfig
    from agecls.crossval import cross_validate
    from agecls.lookalike import write_lookalike_adience
    from finetune.console import say

    folder = claim(Path(config.dir))
    faces = folder / "lookalike"
    drawn = write_lookalike_adience(faces, users=config.users, seed=config.seed)
    say(f"{drawn.images} drawn faces of {drawn.subjects} people in Adience's layout: {faces}")
    reports = {}
    for name, title in LOSSES.items():
        say(f"\n{title}: five folds, no person on two sides")
        with one_thread():
            reports[name] = cross_validate(loss_config(config, faces, folder, name))
    say("\nthe same faces, loss against loss")
    first, second = (folder / name for name in LOSSES)
    comparison = compare_folders([first], [second], CompareConfig(out=str(folder / "comparison")))
    say(f"\nreports: {', '.join(str(folder / name / 'report.md') for name in LOSSES)}, {comparison['page']}")
    say("these are drawings: the numbers show that everything works, not which loss is better on real faces")
    return {"dir": str(folder), "runs": reports, "comparison": comparison}


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


def claim(folder: Path) -> Path:
    """Return the folder without a former quickstart's results; UsageError when it holds anything else."""
    if folder.exists() and not folder.is_dir():
        raise UsageError(f"{folder} is a file: give --dir a folder")
    if folder.exists() and any(folder.iterdir()):
        strangers = sorted({entry.name for entry in folder.iterdir()} - {MARKER, *MADE})
        if strangers or not (folder / MARKER).is_file():
            found = f" ({', '.join(strangers[:5])})" if strangers else ""
            raise UsageError(
                f"{folder} holds files that are not a quickstart's{found}: give --dir another folder"
            )
        for name in MADE:
            shutil.rmtree(folder / name, ignore_errors=True)
    folder.mkdir(parents=True, exist_ok=True)
    (folder / MARKER).touch()
    return folder


def loss_config(config: QuickstartConfig, faces: Path, folder: Path, loss: str) -> CrossValidationConfig:
    """Return the cross-validation of one loss: a tiny network from scratch, equal in everything else."""
    from agecls.config import AgeDataConfig, CrossValidationConfig
    from finetune.config import LossConfig, ModelConfig, RunConfig, TrainConfig

    return CrossValidationConfig(
        data=AgeDataConfig(root=str(faces)),
        model=ModelConfig(backbone=config.backbone, weights="none", image_size=64, resize_ratio=1.0),
        loss=LossConfig(name=loss),
        train=TrainConfig(
            epochs=config.epochs,
            batch_size=32,
            optimizer="adamw",
            lr=2e-3,
            weight_decay=0.05,
            warmup_epochs=1,
            augment="flip",
            seed=config.seed,
        ),
        run=RunConfig(dir=str(folder / loss), cache=str(folder / "cache")),
        device="auto",
    )
