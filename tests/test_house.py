"""The house rules: who may import whom, and which door each guest enters by; each rule has a failing twin."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]

# A room may import itself and the rooms listed; the three studies never meet.
ALLOWED = {
    "core_losses": set(),
    "finetune": {"core_losses"},
    "agecls": {"finetune", "core_losses"},
    "finegrained": {"finetune", "core_losses"},
    "generalcls": {"finetune", "core_losses"},
    "apps": {"agecls", "finegrained", "generalcls", "finetune", "core_losses"},
}
ROOMS = {*ALLOWED, "tests", "benchmarks"}

# Each guest enters by its own files only.
DOORS = {
    "timm": {"finetune/models/backbone.py", "finetune/training/optimization/optim.py"},
    "albumentations": {"finetune/images/augment.py"},
    "PIL": {"finetune/images/decode.py"},
    "sklearn": {
        "finetune/metrics/classification.py",
        "finetune/metrics/bootstrap.py",
        "agecls/data/folds.py",
        "finegrained/heads/dfl_init.py",
        "generalcls/data/datasets.py",
    },
    "onnx": {
        "apps/export/run.py",
        "apps/runtime/model_file.py",
        "apps/runtime/graph_limits.py",
        "apps/export/convert.py",
        "apps/export/simplify.py",
    },
    "onnxruntime": {"apps/runtime/session.py", "apps/export/convert.py"},
    "gradio": {"apps/demo/page.py"},
    "torchvision": {"generalcls/data/datasets.py"},
}

# Importing these must not import torch: they answer before a model is needed.
TORCH_FREE = (
    "core_losses",
    "core_losses.closed_forms",
    "finetune.cli.words",
    "finetune.training.loss_choice",
    "finetune.errors",
    "finetune.images.manifest",
    "finetune.training.config",
    "finetune.seeding",
    "finetune.images.preprocess",
    "finetune.images.decode",
    "finetune.cli.console",
    "finetune.figures.evidence",
    "finetune.experiments.run_settings",
    "finetune.experiments.study.arms",
    "finetune.experiments.study.cells",
    "finetune.experiments.study.schedule",
    "finetune.experiments.study.report",
    "finetune.experiments.config",
    "finetune.experiments.study.statistics",
    "finetune.experiments.study.conclusion",
    "finetune.metrics.paired_tests",
    "generalcls.commands",
    "generalcls.config",
    "generalcls.data.datasets",
    "generalcls.data.synthetic",
    "finegrained.data.class_names",
    "finegrained.config",
    "finegrained.data.cub",
    "finegrained.data.cars",
    "finegrained.data.cars_by_class",
    "finegrained.data.load",
    "finegrained.data.folders",
    "finegrained.data.image_table",
    "finegrained.data.layouts",
    "finegrained.synthetic.datasets",
    "finegrained.data.reading",
    "finegrained.results",
    "finegrained.scores",
    "finegrained.data.splits",
    "finegrained.verification",
    "agecls.data.groups",
    "agecls.data.adience",
    "agecls.data.age_table",
    "agecls.data.folds",
    "agecls.synthetic.adience",
    "agecls.scores",
    "agecls.results",
    "agecls.pictures",
    "agecls.report",
    "agecls.config",
    "finetune.figures.canvas",
    "finetune.cli.machine",
    "finetune.figures.shades",
    "finetune.figures.heat_map",
    "agecls.faces.crop",
    "agecls.faces.alignment",
    "agecls.faces.detector",
    "apps.cli",
    "apps.commands",
    "apps.config",
    "apps.runtime.metadata",
    "apps.runtime.model_file",
    "apps.runtime.session",
    "apps.predict.run",
    "apps.predict.predict",
    "apps.predict.inputs",
    "apps.predict.loader",
    "apps.predict.video_frames",
    "apps.predict.writers",
    "apps.predict.views",
    "apps.predict.summary",
    "apps.evaluate.evaluate_onnx",
    "apps.heatmap.heatmap",
    "apps.runtime.occlusion",
    "apps.demo.page",
    "apps.demo.service",
    "apps.doctor.run",
    "apps.doctor.checks",
    "apps.doctor.probes",
    "apps.heatmap.encoding",
    "apps.explain",
    "apps.export.card",
)


def imported_packages(source: str) -> set[str]:
    """Return the top-level packages that a piece of source imports, wherever the import stands."""
    names: set[str] = set()
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            names |= {alias.name.split(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.level == 0 and node.module:
            names.add(node.module.split(".")[0])
    return names


def broken_arrows(room: str, source: str) -> set[str]:
    """Return the rooms that `source`, lying in `room`, imports against the arrows."""
    return (imported_packages(source) & ROOMS) - ALLOWED[room] - {room}


def broken_doors(file: str, source: str) -> set[str]:
    """Return the guests that `file` lets in although it is not their door."""
    return {guest for guest in imported_packages(source) & set(DOORS) if file not in DOORS[guest]}


def source_files() -> list[tuple[str, str, str]]:
    """Return (room, relative path, text) of every Python file of every room that stands."""
    files = [(room, path) for room in ALLOWED for path in sorted((ROOT / room).rglob("*.py"))]
    return [
        (room, path.relative_to(ROOT).as_posix(), path.read_text(encoding="utf-8")) for room, path in files
    ]


def test_imports_follow_the_arrows():
    broken = {path: arrows for room, path, text in source_files() if (arrows := broken_arrows(room, text))}
    assert broken == {}


def test_an_import_against_the_arrows_is_caught():
    assert broken_arrows("core_losses", "def late():\n    from finetune.training.loop import evaluate") == {
        "finetune"
    }
    assert broken_arrows("agecls", "import finegrained.heads.dcl") == {"finegrained"}
    assert broken_arrows("finetune", "import apps") == {"apps"}
    assert broken_arrows("apps", "from tests import conftest") == {"tests"}


def test_guests_enter_by_their_doors():
    broken = {path: guests for _, path, text in source_files() if (guests := broken_doors(path, text))}
    assert broken == {}


def test_a_guest_at_the_wrong_door_is_caught():
    assert broken_doors("finetune/training/loop.py", "def late():\n    import timm.data") == {"timm"}
    assert broken_doors("agecls/report.py", "from PIL import Image") == {"PIL"}


def test_every_rule_sees_files():
    assert {room for room, _, _ in source_files()} == set(ALLOWED)
    assert len(source_files()) > 30


def test_no_room_is_called_utils():
    assert [
        path for _, path, _ in source_files() if "util" in path or "helper" in path or "misc" in path
    ] == []


@pytest.mark.parametrize("module", TORCH_FREE)
def test_module_imports_without_torch(module: str):
    code = f"import sys, {module}; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=False).returncode == 0
