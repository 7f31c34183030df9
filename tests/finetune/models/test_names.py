from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from finetune.models.names import timm_names, weights_fault

ROOT = Path(__file__).resolve().parents[3]
BUSY_SECONDS = 1.0  # of CPU time for one command, the first one's imports included
SLIPS = ["--data.root", "no/data", "--model.backbone", "resnet_34", "--model.weights", "best.pth"]
SLIPS += ["--head.name", "liner", "--loss", "crll", "--train.lr", "-1"]
ABSENT = [
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
]

# Commands one after the other: what each answers, its CPU time, and whether torch has been imported by then.
PROGRAM = """
import contextlib, io, json, sys, time
from apps.cli import main
answers = []
for words in json.load(sys.stdin):
    told, before = io.StringIO(), time.process_time()
    with contextlib.redirect_stderr(told), contextlib.redirect_stdout(io.StringIO()):
        code = main(words)
    answers.append([code, told.getvalue(), time.process_time() - before, "torch" in sys.modules])
json.dump(answers, sys.stdout)
"""


@pytest.fixture(scope="module")
def answers() -> dict[tuple[str, ...], list[Any]]:
    """What one process answers to every command of this file: code, message, CPU seconds, torch imported."""
    asked = [*([task, "train", *SLIPS] for task in ("age", "fine")), *(words for words, _, _ in ABSENT)]
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM], cwd=ROOT, input=json.dumps(asked), capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    return dict(zip(map(tuple, asked), json.loads(done.stdout), strict=True))


def test_timms_names_are_read_off_its_source():
    import timm

    models, tagged = timm_names()
    own = {name for name in timm.list_models() if timm.model_entrypoint(name).__module__.startswith("timm.")}
    assert own <= models
    assert all(timm.is_model(name) for name in models)
    assert {"resnet34.tv_in1k", "vit_base_patch16_224.augreg_in21k"} <= tagged


@pytest.mark.parametrize("task", ["age", "fine"])
def test_every_slip_is_told_at_once_and_before_torch(task: str, answers: dict[tuple[str, ...], list[Any]]):
    code, told, seconds, torch_imported = answers[task, "train", *SLIPS]
    assert (code, torch_imported) == (2, False)
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


@pytest.mark.parametrize(("words", "code", "told"), ABSENT)
def test_what_is_not_there_is_told_before_anything_heavy(
    words: list[str], code: int, told: str, answers: dict[tuple[str, ...], list[Any]]
):
    found, message, seconds, torch_imported = answers[tuple(words)]
    assert (found, told in message, torch_imported) == (code, True, False), message
    assert seconds < BUSY_SECONDS


def test_weights_that_may_be_right_are_let_through(tmp_path: Path):
    (tmp_path / "w.pth.tar").touch()
    for word in ("none", "pretrained", str(tmp_path), str(tmp_path / "w.pth.tar")):
        assert weights_fault(word, "model.weights") is None


def test_a_blank_is_no_folder_of_weights():
    for word in ("", " "):
        assert "there is no such file or folder" in str(weights_fault(word, "model.weights"))
