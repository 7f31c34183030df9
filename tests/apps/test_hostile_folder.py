"""A working directory whose folders and files are named like our packages and libraries breaks no command."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import sysconfig
from pathlib import Path

import pytest

from agecls.synthetic.adience import write_lookalike_adience
from finetune.cli.machine import module_command, module_environment

CRL = Path(sysconfig.get_path("scripts")) / "crl"
PACKAGES = ("agecls", "apps", "core_losses", "finegrained", "finetune", "generalcls", "tests")
LIBRARIES = ("cv2", "numpy", "onnx", "onnxruntime", "timm", "torch", "yaml")
RAISES = "raise ImportError('imported from the working directory')\n"
TINY = [
    "--model.backbone=test_resnet",
    "--model.weights=none",
    "--model.image_size=32",
    "--model.resize_ratio=1.125",
    "--train.epochs=1",
    "--train.batch_size=8",
    "--run.workers=1",
    "--device=cpu",
]
# Started as a program's file is; then as on systems whose worker processes import everything again.
SPAWNING = """
import multiprocessing, sys
from apps.cli import main
if __name__ == "__main__":
    multiprocessing.set_start_method("spawn")
    sys.exit(main())
"""


@pytest.fixture
def hostile(tmp_path: Path) -> Path:
    """A folder in which an import of almost anything of ours raises."""
    folder = tmp_path / "hostile"
    folder.mkdir()
    for name in PACKAGES:
        (folder / name).mkdir()
        (folder / name / "__init__.py").write_text(RAISES)
    for name in LIBRARIES:
        (folder / f"{name}.py").write_text(RAISES)
    return folder


@pytest.fixture
def faces(tmp_path: Path) -> Path:
    """Ten albums of drawn people in Adience's layout."""
    write_lookalike_adience(tmp_path / "faces", users=10, images_per_subject=2, image_size=32)
    return tmp_path / "faces"


def run(folder: Path, command: list[object]) -> str:
    """Run a command in a folder, as an installed program does; return its standard output."""
    done = subprocess.run(
        [str(word) for word in command],
        cwd=folder,
        env=module_environment(),
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def test_the_folder_is_hostile_to_a_module_that_may_be_imported_from_it(hostile):
    command = [sys.executable, "-m", "agecls", "--help"]
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONSAFEPATH"}
    done = subprocess.run(command, cwd=hostile, env=environment, capture_output=True, text=True, check=False)
    assert "imported from the working directory" in done.stderr
    assert done.returncode == 1


@pytest.mark.parametrize("words", [[], ["age"], ["fine"], ["general"]])
def test_the_program_starts_in_it(hostile, words):
    assert "usage: crl" in run(hostile, [CRL, *words, "--help"])


@pytest.mark.parametrize("package", ["agecls", "finegrained", "generalcls"])
def test_a_child_starts_in_it(hostile, package):
    assert f"usage: python -m {package}" in run(hostile, module_command(package, "--help"))


def test_a_check_of_the_doctor_runs_in_it(hostile):
    (finding,) = json.loads(run(hostile, module_command("apps.doctor.probes", "runtime")).splitlines()[-1])
    assert (finding["name"], finding["status"] != "wrong") == ("serving device", True)


@pytest.mark.exhaustive
def test_folds_on_several_devices_run_in_it(hostile, faces):
    folds = ["--folds=0,1", "--report=false", "--devices=cpu,cpu"]
    run(hostile, [CRL, "age", "cv", f"--data.root={faces}", "--run.dir=cv", *TINY, *folds])
    assert all((hostile / "cv" / f"fold{fold}" / "model.safetensors").is_file() for fold in (0, 1))


@pytest.mark.exhaustive
def test_spawned_workers_export_and_prediction_run_in_it(hostile, faces, tmp_path):
    program = tmp_path / "bin" / "crl.py"
    program.parent.mkdir()
    program.write_text(SPAWNING)
    words = ["age", "train", f"--data.root={faces}", "--data.fold=0", "--run.dir=run", *TINY]
    run(hostile, [sys.executable, program, *words])
    run(hostile, [sys.executable, program, "export", "run"])
    (model,) = (hostile / "run").rglob("*.onnx")
    picture = next(faces.rglob("*.jpg"))
    told = run(hostile, [sys.executable, program, "predict", model, picture, "--device=cpu"])
    assert ", 1 row\n" in told


@pytest.mark.exhaustive
def test_two_processes_of_torchrun_run_in_it(hostile, faces):
    torchrun = [CRL.with_name("torchrun"), "--standalone", "--nproc_per_node", "2", "--no-python"]
    words = ["age", "train", f"--data.root={faces}", "--data.fold=0", "--run.dir=run", *TINY]
    run(hostile, [*torchrun, CRL, *words])
    assert (hostile / "run" / "model.safetensors").is_file()
