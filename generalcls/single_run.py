"""`train`: one network with one loss, tested once, and kept."""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from finetune.cli.console import say
from finetune.errors import DataError, ModelFileError, UsageError
from generalcls.config import GeneralRunOneConfig

if TYPE_CHECKING:
    from torch import Tensor

    from finetune.experiments.study.arms import Arm
    from finetune.experiments.study.cells import Cell, CellPlan
    from finetune.training.loss_choice import LossConfig
    from generalcls.networks.registry import Network
    from generalcls.parallel.cells import CellTrainer
    from generalcls.parallel.device_data import Scaling
    from generalcls.parallel.engine import Training

KIND = "general_run"
MODEL_FILE = "model.safetensors"
NOT_RECORDED = ("name", "options", "targets", "target_width", "distance")  # of a loss; targets stay hard
FILES = ("cell.json", "predictions.npz", MODEL_FILE, "run.json")


def train_run(config: GeneralRunOneConfig) -> dict[str, Any]:
    """Train, test once at the end, keep the model, and return run.json's object.

    The folder is one cell of a study (cell.json, predictions.npz) with run.json, metrics.jsonl, the model and
    a short report. metrics.jsonl grows by a row at the end of every epoch. A finished run is left as it is.

    Raises UsageError for a folder that holds something else or that another process writes, and DataError for
    data that cannot be read and for a finished run of another loss, seed, data or settings.
    """
    from finetune.experiments.study.cells import CellPlan
    from finetune.experiments.study.folder import check_place
    from finetune.runs.folder import RunFolder, read_json
    from finetune.training.config import to_dict
    from finetune.training.loggers import MetricsFile, run_files
    from generalcls.data.verify import read_checked
    from generalcls.loss_study import FREE
    from generalcls.parallel.cells import IN_TRAINING, CellTrainer
    from generalcls.parallel.progress import CellLog

    check_place(config.run)
    arm, folder = one_arm(config.loss), Path(config.run.dir)
    data = read_checked(config.data, config.run.cache)
    for note in data.notes:
        say(note)
    trainer = CellTrainer(config, data, folder, together=1)
    plan = CellPlan(arm, config.seed, 1.0, folder)
    if is_finished(trainer, plan):
        say(f"the run in {folder} is finished: nothing is trained again")
        record: dict[str, Any] = read_json(folder / "run.json")
        return {"run": str(folder), **record}
    run = config.run
    with (
        RunFolder.open(
            folder, to_dict(config), resume=run.resume, allow_change=run.allow_change, free_keys=FREE
        ) as opened,
        CellLog(plan, MetricsFile(opened), run.track) as log,
    ):
        told = f"{arm.title}, seed {config.seed}"
        say(f"{told}: {config.train.epochs} epochs")
        training = trainer.train_chunk([plan], told, [log])
        cell = trainer.read(plan)
        assert cell is not None
        record = keep_run(config, trainer, arm, cell, training)
        shutil.rmtree(folder / IN_TRAINING, ignore_errors=True)
        log.end(cell.scores, run_files(folder))
    say(f"the run lies in {folder}: report.md, {MODEL_FILE}")
    return {"run": str(folder), **record}


def is_finished(trainer: CellTrainer, plan: CellPlan) -> bool:
    """Return whether the folder holds this very run, complete.

    Raises DataError where a finished run has another loss or seed, other settings or other data.
    """
    if not all((plan.folder / name).is_file() for name in FILES):
        return False
    cell = trainer.read(plan)
    if cell is None:
        return False
    if (cell.arm, cell.seed) != (plan.arm.name, plan.seed):
        raise DataError(
            f"{plan.folder} holds the finished run of {cell.arm} with seed {cell.seed}, not of "
            f"{plan.arm.name} with seed {plan.seed}: give another --run.dir"
        )
    return True


def one_arm(loss: str) -> Arm:
    """Return the arm that a loss's word stands for."""
    from finetune.experiments.study.arms import build_arms
    from generalcls.loss_study import refuse_order

    if "," in loss:
        raise UsageError(f"--loss takes one loss, got {loss}; crl general study compares several")
    arm = build_arms([loss], controls=False)[-1]
    refuse_order([arm])
    return arm


def keep_run(
    config: GeneralRunOneConfig, trainer: CellTrainer, arm: Arm, cell: Cell, training: Training
) -> dict[str, Any]:
    """Write the model, the report and, last, run.json; return its object."""
    from finetune.cli.command import command_line
    from finetune.experiments.study.curve_figures import draw_error_curves
    from finetune.models.bundle import save_bundle
    from finetune.runs.files import write_bytes
    from finetune.runs.folder import versions, write_json
    from finetune.training.config import to_dict

    folder, data = Path(config.run.dir), trainer.data
    learned = run_warnings(trainer, folder, cell)
    for warning in learned:
        say(f"warning: {warning}")
    record = {
        "kind": KIND,
        "warnings": [*data.notes, *learned],
        "command": command_line(),
        "data": data.name,
        "manifest": data.fingerprint,
        "class_names": list(data.class_names),
        "network": trainer.network_name,
        "parameters": trainer.parameters,
        "loss": loss_record(arm.loss),
        "head": arm.head or "linear",
        "head_options": dict(arm.head_options),
        "image": list(data.train.images.shape[1:]),
        "scaling": {"mean": list(trainer.scaling.mean), "sd": list(trainer.scaling.sd)},
        "seed": config.seed,
        "scores": dict(cell.scores),
        "n": len(data.test.target),
        "n_train": len(data.train.target),
        "gradient_factor": cell.gradient_factor,
        "gradient_ratio": cell.gradient_ratio,
        "minutes": round(cell.seconds / 60, 3),
        "device": cell.device,
        "train": to_dict(config.train),
        "versions": versions(),
    }
    save_bundle(folder / MODEL_FILE, plain_state(training), record)
    (folder / "pictures").mkdir(exist_ok=True)
    draw_error_curves([cell], [arm], folder / "pictures" / "error_curve.png")
    write_bytes(folder / "report.md", page(trainer, arm, cell, record).encode())
    write_json(folder / "run.json", record)
    return record


def loss_record(loss: LossConfig) -> dict[str, Any]:
    """Return a run's loss for run.json, its options beside its name under the keys that were always there."""
    from finetune.runs.config_file import OLD_LOSS_OPTIONS
    from finetune.training.config import to_dict

    applied = {key: value for key, value in to_dict(loss).items() if key not in NOT_RECORDED}
    return {"name": loss.name, **dict.fromkeys(OLD_LOSS_OPTIONS), **loss.options, **applied}


def plain_state(training: Training) -> dict[str, Tensor]:
    """Return a trained network's state; its linear layer gives the classes of a margin head, if it had one.

    A margin head has no bias, and where its rule has unit weights they are stored at length one: what is left
    is a positive factor per image, which changes no prediction.
    """
    from torch.nn import functional as F

    state, rule = training.stack.model_state(0), training.objective.parts[0][2].rule
    if rule is None:
        return state
    if "classifier.bias" in state:
        state["classifier.bias"].zero_()
    if rule.unit_weights:
        state["classifier.weight"] = F.normalize(state["classifier.weight"], dim=1)
    return state


def run_warnings(trainer: CellTrainer, folder: Path, cell: Cell) -> list[str]:
    """Return what speaks against the run having learned anything."""
    import numpy as np

    from finetune.metrics.learning import learning_warnings
    from generalcls.report import guessing

    odds = np.load(folder / "predictions.npz")["log_odds"].astype(np.float64)
    return learning_warnings(
        cell.history,
        classes=len(trainer.data.class_names),
        accuracy=cell.scores["accuracy"],
        majority=guessing(trainer.data),
        nll=float(np.logaddexp(0, -odds).mean()),
        tested_classes=len(np.unique(trainer.data.test.target)),
    )


def confusions(trainer: CellTrainer, folder: Path, most: int = 5) -> list[list[str]]:
    """Return rows of the pairs of classes that the run confuses most: truth, prediction, how often."""
    import numpy as np

    names, answers = trainer.data.class_names, np.load(folder / "predictions.npz")
    wrong = answers["preds"] != answers["target"]
    pairs = np.stack([answers["target"][wrong], answers["preds"][wrong]], axis=1)
    found, counts = np.unique(pairs, axis=0, return_counts=True)
    order = np.argsort(-counts, kind="stable")[:most]
    return [[names[found[i][0]], names[found[i][1]], str(counts[i])] for i in order]


def page(trainer: CellTrainer, arm: Arm, cell: Cell, record: Mapping[str, Any]) -> str:
    """Return report.md: the scores, the curve, the most confused pairs and what ran."""
    from pathlib import PurePosixPath

    from finetune.figures import markdown
    from generalcls.report import MEASURES, guessing, train_text

    rows = [
        [measure.label, markdown.number(cell.scores.get(measure.key))]
        for measure in MEASURES
        if cell.scores.get(measure.key) is not None
    ]
    curve = markdown.Picture(
        PurePosixPath("pictures/error_curve.png"), "Test error per epoch", "Nothing was selected by it."
    )
    told = [
        f"- {record['data']}: {record['n_train']:,} training and {record['n']:,} test images.",
        f"- {record['network']}, {record['parameters']:,} parameters, seed {record['seed']}.",
        f"- {train_text(trainer.config.train)}",
        f"- {cell.device}, {cell.seconds:.0f} seconds; data fingerprint {record['manifest'][:12]}.",
        f"- The majority-class baseline scores {guessing(trainer.data):.2f} %.",
        f"- Command: {markdown.code(record['command'])}",
        "- One run: a comparison of losses needs several seeds (`crl general study`).",
    ]
    pairs = [
        [markdown.escape(name) for name in row] for row in confusions(trainer, Path(trainer.config.run.dir))
    ]
    sections = [
        ("Warnings", markdown.bullets(record.get("warnings") or ())),
        ("Result", markdown.table(["measure", "test"], rows)),
        ("Figures", markdown.show_pictures([curve])),
        ("Most confused", markdown.table(["truth", "prediction", "images"], pairs, 2) if pairs else None),
        ("What ran", "\n".join(told)),
    ]
    title = markdown.escape(f"{record['network']} on {record['data']} with {arm.title}")
    return markdown.page(title, sections)


def load_network(file: Path) -> tuple[Network, Scaling, dict[str, Any]]:
    """Return the network of a general run's model.safetensors, in evaluation mode, its scaling and its facts.

    A margin head's network gives its classes by plain linear logits; for angles see `margin_logits`.

    Raises ModelFileError for a file that is damaged or of another kind.
    """
    from finetune.models.bundle import load_bundle
    from generalcls.networks.registry import build_network
    from generalcls.parallel.device_data import Scaling

    state, facts = load_bundle(file)
    if facts.get("kind") != KIND:
        raise ModelFileError(f"{file} is not of a general run: its kind is {facts.get('kind')!r}")
    side, _, channels = facts["image"]
    network = build_network(
        facts["network"], channels=channels, image_size=side, num_classes=len(facts["class_names"])
    )
    network.load_state_dict(state)
    scaling = Scaling(tuple(facts["scaling"]["mean"]), tuple(facts["scaling"]["sd"]))
    return network.eval(), scaling, facts
