from __future__ import annotations

import resource
import subprocess
import sys
from pathlib import Path

import pytest

from finetune.models.names import timm_names, weights_fault

ROOT = Path(__file__).resolve().parents[3]
BUSY_SECONDS = 1.0  # of CPU time beyond the interpreter's start


def run(words: list[str]) -> tuple[int, str, float]:
    """Run the program in a process of its own; return exit code, message and seconds of CPU time."""
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    found = subprocess.run(
        [sys.executable, "-m", "apps.cli", *words], cwd=ROOT, capture_output=True, text=True, check=False
    )
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    seconds = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    return found.returncode, found.stderr, seconds


def test_timms_names_are_read_off_its_source():
    import timm

    models, tagged = timm_names()
    own = {name for name in timm.list_models() if timm.model_entrypoint(name).__module__.startswith("timm.")}
    assert own <= models
    assert all(timm.is_model(name) for name in models)
    assert {"resnet34.tv_in1k", "vit_base_patch16_224.augreg_in21k"} <= tagged


@pytest.mark.parametrize("task", ["age", "fine"])
def test_every_slip_is_told_at_once_and_before_torch(task: str, tmp_path: Path):
    words = [task, "train", "--data.root", str(tmp_path / "data"), "--model.backbone", "resnet_34"]
    words += ["--model.weights", "best.pth", "--head.name", "liner", "--loss", "crll", "--train.lr", "-1"]
    code, told, seconds = run(words)
    assert code == 2
    for part in (
        "train.lr must be positive, got -1",
        "head.name must be one of",
        "there is no loss 'crll'",
        "no place for the results: give --run.dir",
        "data: there is no such folder",
        "no timm model is called 'resnet_34'; did you mean",
        "--model.weights best.pth: there is no such file or folder",
    ):
        assert part in told, told
    assert seconds < BUSY_SECONDS


@pytest.mark.parametrize(
    ("words", "code", "told"),
    [
        (["fine", "train", "--run.dir", "x"], 2, "no data: give --data.root"),
        (["age", "cv", "--run.dir", "x"], 2, "no data: give --data.root"),
        (["age", "study", "--run.dir", "x", "--data.table", "no.csv"], 3, "--data.table no.csv: there is no"),
        (["fine", "verify"], 2, "no data: give --data.root"),
        (["age", "verify", "--data.root", ".", "--data.groups", "2-0"], 2, "--data.groups: age groups"),
        (["fine", "train", "--run.dir", "x", "--data.root", ".", "--model.weights", "LICENSE"], 4, "end in"),
        (
            ["general", "train", "--run.dir", "x", "--data.root", "no", "--data.name", "svhn"],
            3,
            "no such folder",
        ),
        (["general", "study", "--run.dir", "x", "--network.name", "timm/nope"], 2, "no timm model"),
        (["general", "study", "--run.dir", "x", "--network.name", "mpl"], 2, "did you mean mlp"),
        (["general", "train", "--network.name", "mlp"], 2, "give --run.dir"),
        (["predict", "no.onnx", "a.jpg"], 4, "no.onnx"),
        (["demo", "no.onnx"], 4, "no.onnx"),
        (["evaluate-onnx", "no.onnx", "--data.root", "."], 4, "no.onnx"),
        (["explain", "no.onnx", "a.jpg"], 4, "no.onnx"),
        (["export", "nowhere"], 2, "nowhere"),
        (["age", "evaluate", "nowhere"], 3, "nowhere"),
        (["fine", "evaluate", "nowhere", "--data.root", "no"], 3, "--data.root no: there is no such folder"),
    ],
)
def test_what_is_not_there_is_told_before_anything_heavy(words: list[str], code: int, told: str):
    found, message, seconds = run(words)
    assert (found, told in message) == (code, True), message
    assert seconds < BUSY_SECONDS


def test_weights_that_may_be_right_are_let_through(tmp_path: Path):
    (tmp_path / "w.pth.tar").touch()
    for word in ("none", "pretrained", str(tmp_path), str(tmp_path / "w.pth.tar")):
        assert weights_fault(word, "model.weights") is None
