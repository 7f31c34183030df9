"""Ctrl-C and SIGTERM to a real `python -m agecls train`: saved, told how to go on, and gone on exactly."""

from __future__ import annotations

import os
import shlex
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from agecls.commands import main
from agecls.synthetic.adience import write_lookalike_adience
from finetune.cli import console
from finetune.models.bundle import load_bundle, weights_hash
from finetune.runs.interrupts import ENDINGS
from tests.finetune.quick import metrics

ROOT = Path(__file__).resolve().parents[3]


@pytest.fixture(autouse=True)
def plain_console() -> Iterator[None]:
    torch.set_num_threads(1)
    yield
    console.reset()


@pytest.fixture(scope="module")
def faces(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Drawn faces in Adience's layout."""
    folder = tmp_path_factory.mktemp("faces")
    write_lookalike_adience(folder, users=10, images_per_subject=2, image_size=48)
    return folder


def words(faces: Path, folder: Path, workers: int = 0) -> list[str]:
    """Return the command of a run of some seconds, with so many loading processes."""
    options = {
        "data.root": faces,
        "run.dir": folder,
        "run.cache": "none",
        "run.workers": workers,
        "run.precision": "float32",
        "model.backbone": "test_resnet",
        "model.weights": "none",
        "model.image_size": 32,
        "train.epochs": 25,
        "train.batch_size": 16,
        "device": "cpu",
    }
    return ["train", *(part for key, value in options.items() for part in (f"--{key}", str(value)))]


@pytest.fixture(scope="module")
def unbroken(faces: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of the run that nobody stopped."""
    torch.set_num_threads(1)
    folder = tmp_path_factory.mktemp("unbroken") / "run"
    assert main(words(faces, folder)) == 0
    return folder


def stop_by(number: signal.Signals, faces: Path, folder: Path, workers: int) -> str:
    """Start the run, signal it after its second epoch, and return what it told at the end."""
    run = subprocess.Popen(
        [sys.executable, "-m", "agecls", *words(faces, folder, workers)],
        cwd=ROOT,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert run.stdout is not None
    for line in run.stdout:
        if line.startswith("epoch 2/25"):
            break
    run.send_signal(number)
    _, told = run.communicate(timeout=120)
    assert run.returncode == 130, told
    assert "Traceback" not in told
    return told.splitlines()[-1].strip()


@pytest.mark.alone
@pytest.mark.exhaustive
@pytest.mark.parametrize(("turn", "number"), list(enumerate([signal.SIGINT, *ENDINGS])))
def test_a_signal_saves_and_the_printed_line_resumes_to_the_same_result(
    turn: int, number: signal.Signals, faces: Path, unbroken: Path, tmp_path: Path
):
    folder = tmp_path / "my run"
    line = stop_by(number, faces, folder, workers=2 - turn % 3)
    assert not (folder / "model.safetensors").exists()
    assert line.endswith("--run.resume auto")
    if number == signal.SIGINT:
        resumed = subprocess.run(
            line, shell=True, cwd=ROOT, env={**os.environ, "OMP_NUM_THREADS": "1"}, check=False
        )
        assert resumed.returncode == 0
    else:
        program, dash_m, package, *rest = shlex.split(line)
        assert (program, dash_m, package) == (sys.executable, "-m", "agecls")
        assert main(rest) == 0
    ours, theirs = (load_bundle(place / "model.safetensors") for place in (folder, unbroken))
    assert weights_hash(ours[0]) == weights_hash(theirs[0])
    assert ours[1]["scores"] == theirs[1]["scores"]
    assert metrics(folder) == metrics(unbroken)


@pytest.mark.parametrize(
    ("options", "told"),
    [
        (["--loss.name", "crl", "--loss.alpha", "-0.5"], "alpha"),
        (["--loss.name", "crl", "--loss.beta", "-1"], "beta"),
        (["--loss.name", "nlrr"], "did you mean 'nllr'"),
        (["--train.lr", "abc"], "must be float, got abc"),
        (["--train.epoch", "3"], "did you mean train.epochs?"),
        (["--model.backbone", "resnet34d_"], "did you mean resnet34d"),
    ],
)
def test_a_mistake_on_the_command_line_ends_with_2_before_anything_is_written(
    options: list[str], told: str, faces: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    assert main([*words(faces, tmp_path / "run"), *options]) == 2
    message = capsys.readouterr().err
    assert message.startswith("python -m agecls train: ")
    assert told in message
    assert not (tmp_path / "run").exists()
