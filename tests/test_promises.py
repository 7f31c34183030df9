"""The README's ten promises, each kept in a small real run."""

from __future__ import annotations

import hashlib
import json
import multiprocessing
import os
import pickle
import re
import shutil
import signal
import stat
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pytest
import torch

from agecls.commands import main
from agecls.config import AgeDataConfig
from agecls.data.read import make_age_splits, read_data
from agecls.synthetic.adience import write_lookalike_adience
from agecls.task import TASK
from apps.config import ExportConfig
from apps.export import run as export
from apps.export.run import export_run
from apps.runtime.session import OnnxClassifier
from finetune.cli import console
from finetune.errors import CrlError, DataError, InterruptedRunError, ModelFileError
from finetune.experiments.result import Result
from finetune.images.decode import decode_image
from finetune.models.backbone import build_backbone
from finetune.training.checkpoint import CheckpointFolder
from finetune.training.config import FitConfig
from finetune.training.learner import load_classifier
from tests.apps.live_demo import live_demo
from tests.apps.live_demo import picture as any_picture
from tests.apps.tiny_onnx import write_tiny
from tests.finetune.quick import at_call, disturb_loss, metrics, quick, task_of, train, trained_hash

ROOT = Path(__file__).resolve().parents[1]
TINY = ["--model.backbone", "test_resnet", "--model.weights", "none", "--model.image_size", "32"]
TINY += ["--run.cache", "none", "--run.workers", "0", "--train.epochs", "1"]
CONFIG = quick(train_ema=0.9, train_epochs=3)
LOADED = quick(train_ema=0.9, train_epochs=3, run_workers=2)


@pytest.fixture(autouse=True)
def plain_console() -> Iterator[None]:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)
    console.reset()


@pytest.fixture(scope="module")
def faces(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Drawn faces in Adience's layout."""
    folder = tmp_path_factory.mktemp("faces")
    write_lookalike_adience(folder, users=10, images_per_subject=2, image_size=48)
    return folder


def digest(folder: Path) -> str:
    """Return one hash over the names and bytes of every file in a folder."""
    whole = hashlib.sha256()
    for file in sorted(path for path in folder.rglob("*") if path.is_file()):
        whole.update(str(file.relative_to(folder)).encode() + file.read_bytes())
    return whole.hexdigest()


@pytest.fixture(scope="module")
def trained(faces: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str, bool]:
    """A run folder, what the run printed, and whether the images are as they were."""
    folder, before = tmp_path_factory.mktemp("trained") / "run", digest(faces)
    done = listened("real", faces, folder)
    assert done.returncode == 0, done.stderr
    assert "NETWORK" not in done.stderr
    return folder, done.stdout, digest(faces) == before


def die(root: Path, folder: Path, moment: str) -> None:
    """Train in a process of its own until it is killed or, with loading processes, asked to stop.

    Killed in a training step, or in the middle of a checkpoint.
    """
    torch.set_num_threads(1)
    console.quiet()
    patch, write = pytest.MonkeyPatch(), torch.save
    writes = 0

    def kill() -> None:
        os.kill(os.getpid(), signal.SIGKILL)

    def half_a_checkpoint(state: Any, stream: Any) -> None:
        nonlocal writes
        writes += 1
        if writes < 4:  # the second epoch's: each saves the best weights, if they are, and then the state
            write(state, stream)
            return
        stream.write(b"x" * 100_000)
        kill()

    if moment == "write":
        patch.setattr(torch, "save", half_a_checkpoint)
        train(task_of(root), folder, CONFIG)
    elif moment == "step":
        disturb_loss(patch, at_call(8, kill))
        train(task_of(root), folder, CONFIG)
    disturb_loss(patch, at_call(8, lambda: os.kill(os.getpid(), signal.SIGTERM)))
    multiprocessing.set_start_method("fork", force=True)  # as a program's own loading processes start
    try:
        train(task_of(root), folder, LOADED)
    except InterruptedRunError as stopped:
        raise SystemExit(stopped.exit_code) from stopped  # and here it must not wait for them


def killed(root: Path, folder: Path, moment: str) -> int | None:
    """Return the exit code of a run that `die` ended."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["tests.test_promises"])
    process = context.Process(target=die, args=(root, folder, moment))
    process.start()
    process.join(60)
    process.kill()  # one that hangs has no exit code
    return process.exitcode


@pytest.fixture(scope="module")
def unbroken(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str, list[dict[str, Any]]]:
    """The images, and the weights and metrics of the run that nothing happens to."""
    folder = tmp_path_factory.mktemp("unbroken")
    torch.set_num_threads(1)
    fitted = train(task_of(folder / "pictures"), folder / "run", CONFIG)
    return folder / "pictures", trained_hash(fitted), metrics(folder / "run")


@pytest.mark.parametrize(
    ("moment", "code", "config"), [("step", -signal.SIGKILL, CONFIG), ("loading", 130, LOADED)]
)
def test_1_interrupted_runs_finish_with_the_same_numbers(
    moment: str,
    code: int,
    config: FitConfig,
    unbroken: tuple[Path, str, list[dict[str, Any]]],
    tmp_path: Path,
):
    root, weights, rows = unbroken
    assert killed(root, tmp_path, moment) == code
    assert len(metrics(tmp_path)) == 1
    assert trained_hash(train(task_of(root), tmp_path, config)) == weights
    assert metrics(tmp_path) == rows


def test_2_a_crash_never_costs_you_a_good_checkpoint(
    unbroken: tuple[Path, str, list[dict[str, Any]]], tmp_path: Path
):
    root, weights, rows = unbroken
    assert killed(root, tmp_path, "write") == -signal.SIGKILL
    left = tmp_path / "checkpoints"
    assert list(left.glob(".crl-*.tmp")), "the kill must come in the middle of a write"
    saved = CheckpointFolder(left).load_latest()
    assert saved is not None
    assert trained_hash(train(task_of(root), tmp_path, CONFIG)) == weights
    assert metrics(tmp_path) == rows
    assert not list(left.glob(".crl-*.tmp"))


LISTENING = """
import sys
OUTWARD = ("socket.connect", "socket.getaddrinfo", "socket.gethostbyname", "socket.sendto", "urllib.Request")
def refuse(event, args):
    if event in OUTWARD:
        print("NETWORK", event, args, file=sys.stderr)
        raise SystemExit(99)
sys.addaudithook(refuse)
if sys.argv[1] == "twin":
    import urllib.request
    urllib.request.urlopen("http://localhost:9")
import core_losses, finetune.training.fit, finetune.images.augmentation.policies
import agecls.cross_validation, agecls.evaluation, apps.cli
from apps.cli import main
root, folder, *tiny = sys.argv[2:]
options = ["--data.root", root, "--run.dir", folder, "--train.augment", "strong", *tiny]
assert main(["age", "train", *options]) == 0
assert main(["age", "evaluate", folder]) == 0
"""


def listened(which: str, faces: Path, folder: Path) -> subprocess.CompletedProcess[str]:
    """Train and evaluate in a process that ends with 99 at the first word to the network."""
    environment = {
        name: value
        for name, value in os.environ.items()
        if name not in ("HF_HUB_OFFLINE", "NO_ALBUMENTATIONS_UPDATE")  # the toolkit itself must see to it
    }
    command = [sys.executable, "-c", LISTENING, which, str(faces), str(folder), *TINY]
    return subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False)


def test_3_nothing_leaves_your_machine_unless_you_ask(
    trained: tuple[Path, str, bool], faces: Path, tmp_path: Path
):
    assert (trained[0] / "report.json").is_file(), "the run that was listened to came to its end"
    twin = listened("twin", faces, tmp_path / "run")
    assert twin.returncode == 99, twin.stderr
    assert "NETWORK" in twin.stderr


def test_4_images_uploaded_to_the_demo_are_removed_within_minutes_and_at_exit(tmp_path: Path):
    model = write_tiny(tmp_path / "model.onnx")
    with live_demo(tmp_path, [model], "--keep-minutes", "0.05") as demo:
        [uploaded] = demo.upload([("a.png", any_picture(1))]).json
        folder = demo.folder
        assert folder in Path(uploaded).parents
        assert stat.S_IMODE(folder.stat().st_mode) == 0o700
        deadline = time.monotonic() + 60
        while demo.files() and time.monotonic() < deadline:
            time.sleep(0.1)
        assert demo.files() == []
        demo.predict([("b.png", any_picture(2))])
        demo.upload([("c.png", any_picture(3))])
        assert demo.files()
    assert not folder.exists()
    assert list(tmp_path.glob("crl-demo-*")) == []


def test_5_no_label_is_ever_guessed_from_folder_order(faces: Path, tmp_path: Path):
    ages = {"60+": 1, "0-2": 70, "a": 9, "b": 30}  # folders named like groups, in another order
    rows = []
    for picture, (name, age) in zip(sorted(faces.rglob("*.jpg"))[:4], ages.items(), strict=True):
        (tmp_path / name).mkdir()
        (tmp_path / name / "x.jpg").write_bytes(picture.read_bytes())
        rows.append(f"{name}/x.jpg,{age},person {name},{len(rows) % 2}\n")
    table = tmp_path / "faces.csv"
    table.write_text("path,age,subject,fold\n" + "".join(rows))
    config = AgeDataConfig(table=str(table), fold_column="fold")
    manifest = read_data(config).manifest
    names = [manifest.class_names[label] for label in manifest.label]
    named = dict(zip(manifest["path"].tolist(), names, strict=True))
    assert named == {"60+/x.jpg": "0-2", "0-2/x.jpg": "60+", "a/x.jpg": "8-12", "b/x.jpg": "25-32"}
    table.write_text("path,something,subject,fold\n" + "".join(rows))
    with pytest.raises(DataError, match="age"):
        read_data(config)


def test_6_no_image_is_silently_skipped_swapped_or_rewritten(
    faces: Path, trained: tuple[Path, str, bool], tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    folder, _, untouched = trained
    assert untouched, "training must not change a byte of the data"
    tested = Result.load(folder, TASK.form).predictions
    manifest = read_data(AgeDataConfig(root=str(faces))).manifest
    fold = manifest["fold"] == 0
    assert sorted(tested.path.tolist()) == sorted(manifest["path"][fold].tolist())
    right = dict(zip(manifest["path"].tolist(), manifest.label.tolist(), strict=True))
    assert [right[path] for path in tested.path.tolist()] == tested.target.tolist()

    broken = tmp_path / "faces"
    write_lookalike_adience(broken, users=10, images_per_subject=1, image_size=32)
    victim = sorted(broken.rglob("*.jpg"))[3]
    victim.write_bytes(victim.read_bytes()[:200])
    command = ["train", "--data.root", str(broken), "--run.dir", str(tmp_path / "run"), *TINY]
    assert main(command) == 3
    assert victim.name in capsys.readouterr().err
    data = read_data(AgeDataConfig(root=str(broken), skip_bad=True))
    assert list(data.report["bad_images"]) == [str(victim)]
    with pytest.raises(DataError, match=re.escape(victim.name)):
        decode_image(victim)


def test_7_an_exported_file_was_checked_against_the_trained_model_before_you_got_it_and_says_what_it_is(
    trained: tuple[Path, str, bool], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    run = tmp_path / "run"
    shutil.copytree(trained[0], run)
    [made] = export_run(run, ExportConfig(images=16))["exports"]
    facts = OnnxClassifier(Path(made["file"])).facts
    _, spec, bundle = load_classifier(run / "model.safetensors")
    assert (list(facts.class_names), facts.preprocess) == (bundle["class_names"], spec)
    assert facts.parity["max_relative_difference"]["logits"] <= 1e-4
    assert (Path(made["file"]).parent / "README.md").is_file()

    def trace_another(graph: Any, spec: Any) -> Any:
        with torch.no_grad():
            graph.core.head.classifier.bias[0] += 1.0
        model = honest_trace(graph, spec)
        with torch.no_grad():
            graph.core.head.classifier.bias[0] -= 1.0
        return model

    honest_trace = export.trace
    monkeypatch.setattr(export, "trace", trace_another)
    with pytest.raises(ModelFileError):
        export_run(run, ExportConfig(images=16, out=str(tmp_path / "other")))
    assert list((tmp_path / "other").rglob("*.onnx")) == []


def test_8_no_subject_appears_in_both_training_and_test_folds(faces: Path, tmp_path: Path):
    protocols: tuple[Literal["fixed", "grouped", "rotate"], ...] = ("fixed", "grouped", "rotate")
    for protocol in protocols:
        config = AgeDataConfig(root=str(faces), protocol=protocol)
        data = read_data(config)
        splits = make_age_splits(data, config)
        person = data.manifest["subject"]
        for split in splits:
            parts = [set(person[rows].tolist()) for rows in (split.train, split.val, split.test)]
            assert parts[2]
            assert sum(map(len, parts)) == len(set.union(*parts))
        tested = np.concatenate([split.test for split in splits])
        assert sorted(tested.tolist()) == list(range(len(person)))

    rows = [
        f"{path.relative_to(faces)},{age},{person},{fold}\n"
        for path, (age, person, fold) in zip(
            sorted(faces.rglob("*.jpg")),
            ((1, "Ann", 0), (30, "Bob", 0), (1, "Ann", 1), (30, "Cid", 1)),
            strict=False,
        )
    ]
    table = tmp_path / "faces.csv"
    table.write_text("path,age,subject,fold\n" + "".join(rows))
    shared = AgeDataConfig(table=str(table), root=str(faces), fold_column="fold")
    with pytest.raises(DataError, match="Ann"):
        make_age_splits(read_data(shared), shared)


def test_9_you_are_told_which_device_really_ran(
    trained: tuple[Path, str, bool], faces: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    folder, told, _ = trained
    device = json.loads((folder / "run.json").read_text())["device"]
    assert device["asked"] == "auto"
    assert device["used"] == (
        "cuda" if torch.cuda.is_available() else "mps" if torch.backends.mps.is_available() else "cpu"
    )
    assert device["name"]
    assert f"device: asked auto, using {device['used']} ({device['name']})" in told
    if not torch.cuda.is_available():
        command = ["train", "--data.root", str(faces), "--run.dir", str(tmp_path / "run"), *TINY]
        assert main([*command, "--device", "cuda"]) == 5
        assert "device cuda was asked for" in capsys.readouterr().err


class Malice:
    """A pickle of this runs a command when it is loaded."""

    def __init__(self, marker: Path) -> None:
        self.marker = marker

    def __reduce__(self) -> tuple[Any, ...]:
        return os.system, (f"touch '{self.marker}'",)


def test_10_loading_a_model_file_runs_no_code_from_it(
    unbroken: tuple[Path, str, list[dict[str, Any]]], tmp_path: Path
):
    marker, root = tmp_path / "it ran", unbroken[0]
    evil = tmp_path / "evil.pth"
    torch.save({"model": Malice(marker)}, evil)
    train(task_of(root), tmp_path / "run", CONFIG)
    for name in ("last.ckpt", "previous.ckpt"):
        (tmp_path / "run" / "checkpoints" / name).write_bytes(evil.read_bytes())
    with pytest.raises(ModelFileError, match="system"):
        train(task_of(root), tmp_path / "run", CONFIG)
    with pytest.raises(CrlError):
        build_backbone("test_resnet", evil)
    bundle = tmp_path / "model.safetensors"
    bundle.write_bytes(pickle.dumps(Malice(marker)))
    with pytest.raises(ModelFileError):
        load_classifier(bundle)
    assert not marker.exists()
    pickle.loads(pickle.dumps(Malice(marker)))
    assert marker.exists(), "the trap itself must work"


def test_every_promise_of_the_readme_has_a_test_of_its_name():
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    told = re.findall(
        r"^(\d+)\. (.+)\.$", text.partition("## Ten promises")[2].partition("## ")[0], re.MULTILINE
    )
    names = [f"test_{number}_{re.sub(r'[^a-z]+', '_', words.lower())}" for number, words in told]
    assert len(names) == 10
    assert [name for name in names if name not in globals()] == []
