"""Finished runs -> the cells of a study, and the study's report from them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from finetune.cli.command import command_line
from finetune.cli.console import say, table
from finetune.errors import DataError, listing
from finetune.experiments.config import OwnRates
from finetune.experiments.study.arms import Arm
from finetune.experiments.study.cells import Cell, CellPlan
from finetune.runs.config_file import CONFIG_NAME, FREE_KEYS, config_changes
from finetune.runs.files import to_plain
from finetune.runs.folder import read_config, read_json, read_json_lines
from finetune.training.config import FitConfig

if TYPE_CHECKING:
    from finetune.experiments.study.report import StudyPage
    from finetune.experiments.study.statistics import Measure

RATES = ("train.lr", "train.frozen_lr")
# Keys of an epoch's mean gradient magnitude and cross-entropy's: those that are written, then the old ones.
GRADIENT_KEYS = (("train_grad", "train_grad_ce"), ("train_push", "train_q"))
EXTRAS = ("mixup", "cutmix", "ema", "clip_grad")


@dataclass(frozen=True)
class FinishedRun:
    """What a cell's run folder holds, checked: run.json, each training's epochs, and its rate's factor."""

    record: Mapping[str, Any]
    epochs: Sequence[Sequence[Mapping[str, Any]]]
    lr_factor: float


def read_run(
    plan: CellPlan, files: Sequence[str], expected: Mapping[str, Any], identity: Mapping[str, Any]
) -> FinishedRun | None:
    """Return what the run in a cell's folder records; None while it is not finished.

    Args:
        plan: the cell.
        files: what a finished run folder holds.
        expected: the configuration it must have been trained with, as config.yaml of such a run says it.
        identity: the fingerprints of the data as they are now, by their names in run.json.

    Raises:
        DataError: when the run has other settings than the study, or was trained on other data.
    """
    folder = plan.folder
    if not all((folder / name).is_file() for name in files):
        return None
    stored, record = read_config(folder / CONFIG_NAME), read_json(folder / "run.json")
    changes = config_changes(stored, to_plain(dict(expected)))
    refused = [f"{key}: {change}" for key, change in changes.items() if key not in (*FREE_KEYS, *RATES)]
    refused += [
        f"{key}: {change}"
        for key, change in config_changes({key: record.get(key) for key in identity}, identity).items()
    ]
    if refused:
        raise DataError(
            f"{folder} was trained with other settings or on other data than this study's:\n"
            f"{listing(refused, 40)}\nOne table cannot hold both: remove {folder} to have this cell trained "
            "again, or take another --run.dir"
        )
    factor = plan.lr_factor
    if any(key in changes for key in RATES):
        factor *= float(stored["train"]["lr"]) / float(expected["train"]["lr"])
    logs = sorted(folder.rglob("metrics.jsonl"))
    return FinishedRun(record, [read_json_lines(file) for file in logs], factor)


def cell_of(plan: CellPlan, run: FinishedRun, scores: Mapping[str, float | None]) -> Cell:
    """Return the cell that a finished run is, with these scores.

    Its gradient factor is the mean of its epochs', which all have equally many images; its gradient ratio is
    that of the sums (see `gradient_ratio`).
    """
    record, history = run.record, mean_history(run.epochs)
    return Cell(
        arm=plan.arm.name,
        seed=plan.seed,
        scores=dict(scores),
        history=history,
        gradient_factor=_mean_of(history, "gradient_factor"),
        gradient_ratio=gradient_ratio(run.epochs),
        lr_factor=run.lr_factor,
        seconds=60 * float(record["minutes"]),
        device=f"{record['device']['used']} ({record['device']['name']})",
        facts={
            "precision": record["precision"],
            "lr": record["train"]["lr"],
            "test images": record["n"],
            "epochs": len(history),
        },
    )


def mean_history(trainings: Sequence[Sequence[Mapping[str, Any]]]) -> list[dict[str, Any]]:
    """Return the mean over trainings (the folds of a cell) of every epoch that all of them have.

    `validation_error` (per cent) is there where the runs have a validation part; the test images are shown
    to a run once, at its end, so there is no `test_error` of an epoch.
    """
    names = {
        "train_loss": "train_loss",
        "train_accuracy": "train_accuracy",
        "train_gradient_factor": "gradient_factor",
        "train_gradient_ratio": "gradient_ratio",
    }
    rows = []
    for epoch, parts in enumerate(zip(*trainings, strict=False), 1):
        row: dict[str, Any] = {"epoch": epoch}
        for stored, name in names.items():
            values = [part[stored] for part in parts if part.get(stored) is not None]
            if len(values) == len(parts):
                row[name] = sum(values) / len(values)
        right = [part["val_accuracy"] for part in parts if part.get("val_accuracy") is not None]
        if len(right) == len(parts):
            row["validation_error"] = 100 * (1 - sum(right) / len(right))
        rows.append(row)
    return rows


def gradient_ratio(trainings: Sequence[Sequence[Mapping[str, Any]]]) -> float | None:
    """Return the summed gradient magnitude over cross-entropy's, over all images, epochs and trainings.

    An epoch counts by its batches, which are equally large in all trainings of a cell. None where an epoch
    records no gradient magnitudes, as in the logs of older versions, and where there is no epoch.
    """
    push = q = 0.0
    for row in (row for rows in trainings for row in rows):
        means = _gradient_means(row)
        if means is None:
            return None
        batches = row["step"] / row["epoch"]
        push, q = push + batches * means[0], q + batches * means[1]
    return push / q if q > 0 else None


def _gradient_means(row: Mapping[str, Any]) -> tuple[float, float] | None:
    """Return an epoch's mean gradient magnitude and cross-entropy's, under their old keys too."""
    for own, cross_entropy in GRADIENT_KEYS:
        if row.get(own) is not None and row.get(cross_entropy) is not None:
            return row[own], row[cross_entropy]
    return None


def _mean_of(history: Sequence[Mapping[str, Any]], name: str) -> float | None:
    values = [row[name] for row in history if row.get(name) is not None]
    return sum(values) / len(values) if values else None


def record_of(folder: Path, cell: Cell, file: str = "run.json") -> dict[str, Any]:
    """Return what a JSON file in the folder of a study's cell holds."""
    record: dict[str, Any] = read_json(folder / "cells" / cell.arm / f"seed-{cell.seed}" / file)
    return record


def what_ran(config: FitConfig, record: Mapping[str, Any]) -> list[str]:
    """Return what all cells had in common, as lines of Markdown; `record` is any one's run.json."""
    from finetune.figures.markdown import code, escape
    from finetune.models.weights import WeightSource

    model, train = config.model, config.train
    weights = WeightSource(**record["pretraining"]).describe()
    frozen = f", the first {train.frozen_epochs} of the head alone" if train.frozen_epochs else ""
    more = [f"{name} {value:g}" for name in EXTRAS if (value := getattr(train, name))]
    kept = {"class_weights": config.loss.class_weights, "branches": config.loss.branches}
    more += [f"{name} {value}" for name, value in kept.items() if value not in ("none", {})]
    lines = [
        f"network: {model.backbone}, {weights}; head {config.head.name}; {record['image_size']} px",
        f"training: {train.epochs} epochs{frozen}, batches of {train.batch_size}, {train.optimizer}, "
        f"learning rate {train.lr:g} (the head's {train.head_lr_multiplier:g} times that), {train.schedule} "
        f"schedule, weight decay {train.weight_decay:g}, augmentation {', '.join([train.augment, *more])}",
        *_own_rates(config),
        f"test: the {train.select} weights of every training, once, at its end",
        f"data: {record['policy']}, {record['n']} test images; manifest {record['manifest']}, split "
        f"{record['split']}",
        f"{record['precision']}; threads: {record['threads']}",
        f"versions: {', '.join(f'{name} {version}' for name, version in record['versions'].items())}",
    ]
    return [*map(escape, lines), f"command: {code(command_line())}"]


def _own_rates(config: FitConfig) -> list[str]:
    """Return a line for each arm that has rates of its own."""
    rates = config.rates if isinstance(config, OwnRates) else {}
    told = {arm: ", ".join(f"{key} {value:g}" for key, value in own.items()) for arm, own in rates.items()}
    return [f"{arm} has its own rates: {own}" for arm, own in told.items()]


def end_study(
    folder: Path,
    cells: Sequence[Cell],
    arms: Sequence[Arm],
    measures: Sequence[Measure],
    page: StudyPage,
    facts: Mapping[str, Any] | None = None,
) -> dict[str, Any]:
    """Write the study's report, say what it found and where it lies.

    Returns the summary, with `facts` as its `what` where there are any, and the folder as `study`.
    """
    from finetune.experiments.study.conclusion import conclude, without_bound
    from finetune.experiments.study.report import write_study_report
    from finetune.experiments.study.statistics import summarise_study

    summary = summarise_study(cells, arms, measures, adaptive=page.adaptive)
    if page.caution:
        summary["conclusion"] = [page.caution, *conclude(summary, learned=False)]
    summary["conclusion"] = [*summary["conclusion"], *without_bound(cells, arms)]
    if facts is not None:
        summary["what"] = dict(facts)
    file = write_study_report(folder, summary, cells, arms, page)
    tell_study(summary)
    say(f"report: {file}")
    return {"study": str(folder), **summary}


def tell_study(summary: Mapping[str, Any]) -> None:
    """Print the first measure of every arm with its paired difference, and the conclusion."""
    from finetune.experiments.study.conclusion import interval_words
    from finetune.figures.markdown import number, p_text, signed

    first = summary["measures"][0]
    rows = []
    for row in summary["arms"]:
        own = row["measures"][first["key"]]
        against = own["difference"]
        cells = [number(own["mean"]), number(own["sd"]), signed(against and against["mean"])]
        p = p_text(against and against["p_t_holm"])
        rows.append([row["title"], row["n"], *cells, interval_words(against), p])
    level = f"{100 * summary['level']:g} % interval"
    table(first["label"], ["arm", "seeds", "mean", "sd", "minus CE", level, "p (Holm)"], rows)
    say("\n".join(summary["conclusion"]))
