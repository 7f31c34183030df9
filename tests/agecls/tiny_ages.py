"""A cross-validation of seconds: drawn faces of 32 pixels, a tiny network, one epoch."""

from __future__ import annotations

import csv
import hashlib
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from agecls.config import AgeConfig, AgeDataConfig, CrossValidationConfig
from agecls.synthetic.adience import write_lookalike_adience
from agecls.task import TASK
from apps.cli import main
from finetune.cli.console import reset
from finetune.experiments.result import Result
from finetune.training.config import LossConfig, ModelConfig, RunConfig, TrainConfig

TINY = CrossValidationConfig(
    model=ModelConfig(backbone="test_resnet", weights="none", image_size=32, resize_ratio=1.125),
    train=TrainConfig(epochs=1, batch_size=8, lr=0.05, augment="flip"),
    run=RunConfig(workers=0, precision="float32"),
    device="cpu",
)


def drawn_faces(root: Path, **options: Any) -> Path:
    """Write ten albums of drawn people in Adience's layout; return the folder."""
    write_lookalike_adience(root, **({"users": 10, "images_per_subject": 2, "image_size": 32} | options))
    return root


def tiny(faces: Path, folder: Path, loss: str = "cel", **data: Any) -> CrossValidationConfig:
    """Return the tiny cross-validation of these faces in `folder`; `data` changes its data options."""
    run = replace(TINY.run, dir=str(folder), cache=str(faces.parent / "cache"))
    source = AgeDataConfig(**({"root": str(faces)} | data))
    return replace(TINY, data=source, loss=LossConfig(name=loss), run=run)


def single(config: CrossValidationConfig, **data: Any) -> AgeConfig:
    """Return the single run of a cross-validation's configuration."""
    names = ("model", "head", "loss", "train", "run", "device", "evaluate")
    parts = {name: getattr(config, name) for name in names}
    return AgeConfig(**parts, data=replace(config.data, **data))


def resumed(config: CrossValidationConfig, **changes: Any) -> CrossValidationConfig:
    """Return the configuration that goes on with what lies in its folder."""
    return replace(config, run=replace(config.run, resume="auto"), **changes)


def words(config: AgeConfig) -> list[str]:
    """Return the command line that gives a tiny configuration, without the command itself."""
    options = {
        "data.root": config.data.root,
        "model.backbone": config.model.backbone,
        "model.weights": config.model.weights,
        "model.image_size": config.model.image_size,
        "model.resize_ratio": config.model.resize_ratio,
        "loss.name": config.loss.name,
        "train.epochs": config.train.epochs,
        "train.batch_size": config.train.batch_size,
        "train.optimizer": config.train.optimizer,
        "train.lr": config.train.lr,
        "train.head_lr_multiplier": config.train.head_lr_multiplier,
        "train.augment": config.train.augment,
        "run.dir": config.run.dir,
        "run.cache": config.run.cache,
        "run.workers": config.run.workers,
        "run.precision": config.run.precision,
        "device": config.device,
    }
    return [f"--{name}={value}" for name, value in options.items() if value is not None]


def crl(capsys: pytest.CaptureFixture[str], *argv: object) -> tuple[int, str, str]:
    """Run `crl` in this process; return its exit code, standard output and standard error."""
    capsys.readouterr()
    try:
        code = main([str(word) for word in argv])
    finally:
        reset()
    out, err = capsys.readouterr()
    return code, out, err


def one_object(out: str) -> dict[str, Any]:
    """Return the one JSON object that a standard output holds, and nothing else."""
    lines = out.splitlines()
    assert len(lines) == 1, out
    value = json.loads(lines[0], parse_constant=lambda name: pytest.fail(f"{name} is no JSON"))
    assert isinstance(value, dict)
    return value


def same_predictions(first: Path, second: Path) -> bool:
    """Return whether two folders hold the same predictions, to the last bit."""
    a, b = Result.load(first, TASK.form).predictions, Result.load(second, TASK.form).predictions
    return (a.probs == b.probs).all() and (a.path == b.path).all() and (a.target == b.target).all()


def content(folder: Path) -> dict[str, tuple[str, int]]:
    """Return the hash and the time of writing of every file under a folder, lock files left out."""
    files = (file for file in folder.rglob("*") if file.is_file() and file.name != ".lock")
    return {
        file.relative_to(folder).as_posix(): (
            hashlib.sha256(file.read_bytes()).hexdigest(),
            file.stat().st_mtime_ns,
        )
        for file in files
    }


def listed_rows(faces: Path) -> list[dict[str, str]]:
    """Return the rows of the fold files as they are written, each with its fold."""
    rows = []
    for fold in range(5):
        with (faces / f"fold_{fold}_data.txt").open(newline="") as stream:
            rows += [{**row, "fold": str(fold)} for row in csv.DictReader(stream, delimiter="\t")]
    return rows


def picture(row: dict[str, str]) -> str:
    """Return the path of a fold row's aligned image."""
    return f"aligned/{row['user_id']}/landmark_aligned_face.{row['face_id']}.{row['original_image']}"


def as_table(faces: Path, file: Path, *, first_fold: int = 0, root: Path | None = None) -> Path:
    """Write the faces as a table of path, group, subject, user, gender and fold; return the table."""
    names = {"(0, 2)": "0-2", "(4, 6)": "4-6", "(8, 12)": "8-12", "(15, 20)": "15-20"}
    names |= {"(25, 32)": "25-32", "(38, 43)": "38-43", "(48, 53)": "48-53", "(60, 100)": "60+"}
    with file.open("w", newline="") as stream:
        writer = csv.writer(stream)
        writer.writerow(["path", "group", "subject", "user", "gender", "fold"])
        for row in listed_rows(faces):
            path = picture(row) if root is None else str(root / picture(row))
            person = [row["face_id"], row["user_id"], row["gender"]]
            writer.writerow([path, names[row["age"]], *person, int(row["fold"]) + first_fold])
    return file
