"""Both tasks at the size of seconds, so that one test asks the same of each."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any

import pytest

from agecls.config import AgeStudyConfig
from agecls.synthetic.adience import write_lookalike_adience
from agecls.task import TASK as AGE
from finegrained.config import FineStudyConfig
from finegrained.task import TASK as FINE
from finetune.experiments.task import Task
from tests.agecls import tiny_ages
from tests.finegrained import tiny_birds

NAMES = ("age", "fine")
# For what depends on no task and takes long: `@pytest.mark.parametrize("tiny", MAINLY_FINE, indirect=True)`.
MAINLY_FINE = (pytest.param("age", marks=pytest.mark.exhaustive), "fine")


@dataclass(frozen=True)
class TinyTask:
    """A task with a small data set.

    Args:
        task: the task.
        package: whose `python -m` is its program.
        root: the folder of its data.
        images: how many there are.
        run: folder -> the configuration of a tiny run there.
        words: what a command needs to read the data as that configuration does.
        study_type: the options of its studies.
        study_options: what makes a cell a single run.
    """

    task: Task
    package: str
    root: Path
    images: int
    run: Callable[[Path], Any]
    words: tuple[str, ...]
    study_type: type[Any]
    study_options: dict[str, Any]

    def study(self, folder: Path, losses: tuple[str, ...] = ("crl",), **changes: Any) -> Any:
        """Return a study of tiny runs: cross-entropy and `losses`, two seeds, no controls."""
        parts = {item.name: getattr(self.run(folder), item.name) for item in fields(self.task.config_type)}
        chosen = {"losses": losses, "seeds": 2, "controls": False} | self.study_options | changes
        return self.study_type(**(parts | chosen))

    def training(self, folder: Path) -> list[str]:
        """Return the options of a tiny run in a folder, as a command line gives them."""
        options = [*self.words, "--model.backbone=test_resnet", "--model.weights=none"]
        options += ["--model.image_size=32", "--train.epochs=1", "--train.batch_size=8"]
        options += ["--run.workers=0", "--run.cache=none", "--device=cpu", f"--run.dir={folder}"]
        return [*options, "--train.warmup_epochs=0"]


def make_tiny(name: str, folder: Path) -> TinyTask:
    """Write the data of a task into a folder and return the task with them."""
    if name == "age":
        root = folder / "faces"
        drawn = write_lookalike_adience(root, users=10, images_per_subject=2, image_size=32)
        return TinyTask(
            AGE,
            "agecls",
            root,
            drawn.images,
            lambda place: tiny_ages.single(tiny_ages.tiny(root, place)),
            (f"--data.root={root}",),
            AgeStudyConfig,
            {"cell": "train"},
        )
    root = tiny_birds.birds(folder / "CUB_200_2011")
    return TinyTask(
        FINE,
        "finegrained",
        root,
        30,
        lambda place: tiny_birds.tiny(root, place),
        (f"--data.root={root}", "--data.subset", "--data.val_share=0.2"),
        FineStudyConfig,
        {},
    )


def again(config: Any, **changes: Any) -> Any:
    """Return the configuration that goes on with what lies in its folder."""
    return replace(config, run=replace(config.run, resume="auto"), **changes)


def leave_out_pictures(monkeypatch: pytest.MonkeyPatch) -> None:
    """Draw no figures, which take most of a tiny run's time."""
    for name in ("agecls.report.report.draw_figures", "finegrained.report.draw_class_figures"):
        monkeypatch.setattr(name, lambda *_: [])
    monkeypatch.setattr("finetune.experiments.report.draw_shared", lambda *_: [])
    monkeypatch.setattr("finegrained.report.draw_model_pictures", lambda *_: ([], []))
    monkeypatch.setattr("finetune.experiments.study.report.draw_study", lambda *_: {})
