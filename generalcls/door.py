"""The general commands as functions in Python; the package's names lead here."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Never

from finetune.cli.keywords import Door, Place, Section
from finetune.errors import DataError
from finetune.experiments.study.arms import Matching
from finetune.figures.notebook import Outcome
from finetune.runs.folder import read_json
from finetune.runs.former_losses import loss_text, recorded_loss
from generalcls.commands import COMMANDS, VerifyConfig
from generalcls.config import (
    GeneralDataConfig,
    GeneralRunConfig,
    GeneralRunOneConfig,
    GeneralStudyConfig,
    GeneralTrainConfig,
    NetworkConfig,
)
from generalcls.single_run import KIND

if TYPE_CHECKING:
    import numpy as np

DOOR = Door(COMMANDS, "crl general")


class GeneralResult(Outcome):
    """A finished general run: its record by name, `scores`, `predictions` and `report()`.

    Args:
        folder: the run folder. DataError where it holds no finished general run.
    """

    def __init__(self, folder: Place) -> None:
        self.folder = Path(folder)
        file = self.folder / "run.json"
        record = read_json(file) if file.is_file() else {}
        if record.get("kind") != KIND:
            raise DataError(f"{self.folder} holds no finished run of crl general train")
        loss = recorded_loss(record["loss"])
        chosen = loss_text(loss) if record.get("head", "linear") == "linear" else record["head"]
        title = f"{record['network']} on {record['data']} with {chosen}"
        super().__init__({**record, "loss": loss}, title, self.folder / "report.md")

    @property
    def scores(self) -> dict[str, Any]:
        """Every test score by name, in percent where it is an accuracy."""
        return dict(self.content["scores"])

    @property
    def predictions(self) -> dict[str, np.ndarray]:
        """The columns target and predicted (class names), correct, and log_odds of the true class.

        A general run keeps no probability of the other classes.
        """
        import numpy as np

        with np.load(self.folder / "predictions.npz") as stored:
            target, preds, odds = (stored[name] for name in ("target", "preds", "log_odds"))
        names = np.asarray(self.content["class_names"], dtype=str)
        told = {"target": names[target], "predicted": names[preds]}
        return {**told, "correct": target == preds, "log_odds": odds}

    def _repr_markdown_(self) -> str:
        """Return what was trained, its scores, and where the report lies."""
        shown = {name: value for name, value in self.scores.items() if value is not None}
        return Outcome({**shown, "folder": str(self.folder)}, self.title, self.page)._repr_markdown_()


def verify(
    config: VerifyConfig | Place | None = None,
    *,
    data: GeneralDataConfig | Section | str | None = None,
    quick: bool | None = None,
    cache: Place | None = None,
    root: Place | None = None,
    **unknown: Never,
) -> Outcome:
    """Count a data set and check what can be checked before training, as `crl general verify` does.

    Args:
        config: the options as an object, or a YAML file; the other arguments override it.
        data: a data set's name, the section's keys and values, or its dataclass.
        quick: count only.
        cache: where decoded images of folders are kept.
        root: short for data.root.
        unknown: refused, with the nearest known name.

    Returns what was found, by name. Raises CrlError, such as DataError for data that cannot be read.
    """
    return Outcome(DOOR.run("verify", DOOR.call("verify", locals())), "the data")


def train(
    config: GeneralRunOneConfig | Place | None = None,
    *,
    data: GeneralDataConfig | Section | str | None = None,
    network: NetworkConfig | Section | str | None = None,
    loss: Section | str | None = None,
    train: GeneralTrainConfig | Section | None = None,
    run: GeneralRunConfig | Section | None = None,
    device: str | None = None,
    root: Place | None = None,
    epochs: int | None = None,
    batch_size: int | None = None,
    lr: float | None = None,
    seed: int | None = None,
    run_dir: Place | None = None,
    **unknown: Never,
) -> GeneralResult:
    """Train one network with one loss and test it once, as `crl general train` does.

    Args:
        config: the options as an object, a recipe's name, or a YAML file; the other arguments override it.
        data, network, train, run, device: the options of the command line by section, as keys and values, or
            as the section's dataclass, which says every key. Data and network may be their name.
        loss: its name, a word such as "crl:alpha=1", or dict(name=..., options=dict(...)).
        root, epochs, batch_size, lr, run_dir: short for data.root, train.epochs, train.batch_size, train.lr
            and run.dir.
        seed: of everything random.
        unknown: refused, with the nearest known name.

    Returns the result: scores, predictions, report(). Raises CrlError, such as UsageError for invalid
    options.
    """
    call = DOOR.call("train", locals())
    DOOR.run("train", call)
    return GeneralResult(call.config.run.dir)


def study(
    config: GeneralStudyConfig | Place | None = None,
    *,
    losses: Sequence[str] | None = None,
    baseline: bool | None = None,
    seeds: int | None = None,
    first_seed: int | None = None,
    controls: bool | None = None,
    label_smoothing: float | None = None,
    lr_match: Sequence[Matching] | None = None,
    grid: bool | None = None,
    grid_alphas: Sequence[float] | None = None,
    grid_betas: Sequence[float] | None = None,
    data: GeneralDataConfig | Section | str | None = None,
    network: NetworkConfig | Section | str | None = None,
    train: GeneralTrainConfig | Section | None = None,
    run: GeneralRunConfig | Section | None = None,
    device: str | None = None,
    root: Place | None = None,
    epochs: int | None = None,
    batch_size: int | None = None,
    lr: float | None = None,
    run_dir: Place | None = None,
    **unknown: Never,
) -> Outcome:
    """Train every loss with every seed under equal budgets, as `crl general study` does.

    Args:
        config: the options as an object, a recipe's name, or a YAML file; the other arguments override it.
        losses: words such as "crl:alpha=1" or "lsoftmax:margin=2".
        baseline, seeds, first_seed, controls, label_smoothing, lr_match, grid, grid_alphas, grid_betas: which
            arms and controls there are, as `crl general study --help` says.
        data, network, train, run, device: the options of the command line by section, as keys and values, or
            as the section's dataclass, which says every key. Data and network may be their name.
        root, epochs, batch_size, lr, run_dir: short for data.root, train.epochs, train.batch_size, train.lr
            and run.dir.
        unknown: refused, with the nearest known name.

    Returns the summary by name, with `report()`. Raises CrlError as `train`.
    """
    call = DOOR.call("study", locals())
    found = DOOR.run("study", call)
    return Outcome(found, "losses compared", Path(found["study"]) / "report.md")


def load_result(folder: Place) -> GeneralResult:
    """Return the result that a finished run left in a folder; DataError where there is none."""
    return GeneralResult(folder)
