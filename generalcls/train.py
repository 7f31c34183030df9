"""`train`: one network with one loss, tested once, and kept."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from finetune.console import say
from finetune.errors import ModelFileError, UsageError
from generalcls.config import GeneralRunOneConfig

if TYPE_CHECKING:
    from finetune.study.arms import Arm
    from finetune.study.cells import Cell
    from generalcls.cells import CellTrainer
    from generalcls.engine import Training
    from generalcls.networks import Network
    from generalcls.resident import Scaling

KIND = "general_run"
MODEL_FILE = "model.safetensors"


def train_run(config: GeneralRunOneConfig) -> dict[str, Any]:
    """Train, test once at the end, keep the model, and return run.json's object.

    The folder is one cell of a study (cell.json, predictions.npz) with run.json, metrics.jsonl, the model and
    a short report. A finished run is left as it is. Raises what `study_losses` does.
    """
    from finetune.run_folder import read_json
    from finetune.study.cells import CellPlan
    from generalcls.cells import CellTrainer
    from generalcls.data import read_general_data
    from generalcls.study import check_place, claim

    check_place(config)
    arm, folder = one_arm(config.loss), Path(config.run.dir)
    data = read_general_data(config.data, cache=config.run.cache)
    for note in data.notes:
        say(note)
    trainer = CellTrainer(config, data, folder)
    claim(config)
    plan = CellPlan(arm, config.seed, 1.0, folder)
    cell = trainer.read(plan)
    if cell is not None and (folder / "run.json").is_file():
        say(f"the run in {folder} is finished: nothing is trained again")
        record: dict[str, Any] = read_json(folder / "run.json")
        return {"run": str(folder), **record}
    training = trainer.train_chunk([plan], f"{arm.title}, seed {config.seed}")
    cell = trainer.read(plan)
    assert cell is not None
    record = keep_run(config, trainer, arm, cell, training)
    say(f"the run lies in {folder}: report.md, {MODEL_FILE}")
    return {"run": str(folder), **record}


def one_arm(loss: str) -> Arm:
    """Return the arm that a loss's word stands for."""
    from finetune.study.arms import build_arms

    arms = build_arms([loss], controls=False)
    if len(arms) > 2:
        raise UsageError(f"--loss takes one loss, got {loss}; crl general study compares several")
    return arms[-1]


def keep_run(
    config: GeneralRunOneConfig, trainer: CellTrainer, arm: Arm, cell: Cell, training: Training
) -> dict[str, Any]:
    """Write the model, metrics.jsonl, the report and, last, run.json; return its object."""
    from finetune.atomic import write_bytes
    from finetune.bundle import save_bundle
    from finetune.command import command_line
    from finetune.config import to_dict
    from finetune.run_folder import versions, write_json
    from finetune.strict_json import json_text
    from finetune.study.figures import draw_error_curves

    folder, data = Path(config.run.dir), trainer.data
    record = {
        "kind": KIND,
        "command": command_line(),
        "data": data.name,
        "manifest": data.fingerprint,
        "class_names": list(data.class_names),
        "network": trainer.network_name,
        "parameters": trainer.parameters,
        "loss": to_dict(arm.loss),
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
    rows = "".join(json_text(row) + "\n" for row in cell.history)
    write_bytes(folder / "metrics.jsonl", rows.encode())
    save_bundle(folder / MODEL_FILE, training.stack.model_state(0), record)
    (folder / "pictures").mkdir(exist_ok=True)
    draw_error_curves([cell], [arm], folder / "pictures" / "error_curve.png")
    write_bytes(folder / "report.md", page(config, arm, cell, record).encode())
    write_json(folder / "run.json", record)
    return record


def page(config: GeneralRunOneConfig, arm: Arm, cell: Cell, record: Mapping[str, Any]) -> str:
    """Return report.md: the scores, the curve and what ran."""
    from pathlib import PurePosixPath

    from finetune import markdown
    from generalcls.report import MEASURES, train_text

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
        f"- {record['network']}, {record['parameters']:,} weights, seed {record['seed']}.",
        f"- {train_text(config.train)}",
        f"- {cell.device}, {record['minutes']:g} minutes.",
        "- One run: a comparison of losses needs several seeds (`crl general study`).",
    ]
    sections = [
        ("Result", markdown.table(["measure", "test"], rows)),
        ("Pictures", markdown.show_pictures([curve])),
        ("What ran", "\n".join(told)),
    ]
    title = markdown.escape(f"{record['network']} on {record['data']} with {arm.title}")
    return markdown.page(title, sections)


def load_network(file: Path) -> tuple[Network, Scaling, dict[str, Any]]:
    """Return the network of a general run's model.safetensors, in evaluation mode, its scaling and its facts.

    A margin head's network answers with plain linear logits; for angles see `core_losses.margin_logits`.

    Raises ModelFileError for a file that is damaged or of another kind.
    """
    from finetune.bundle import load_bundle
    from generalcls.networks import build_network
    from generalcls.resident import Scaling

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
