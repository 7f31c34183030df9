"""The scripts of examples/: each runs as its text says, learns, and hands the loss what the loss takes."""

from __future__ import annotations

import importlib.util
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor, nn

from core_losses import LOSSES, build_loss
from tests.test_house import ALLOWED, imported_names

ROOT = Path(__file__).resolve().parents[2]
EXAMPLES = ROOT / "examples"
SCRIPTS = sorted(path.name for path in EXAMPLES.glob("*.py"))
HUGGING_FACE = "hugging_face_trainer.py"
NO_LIBRARY = "needs transformers and accelerate, which are not among the dependencies"
CHANCE = 0.1  # ten digits, equally frequent


def load_script(name: str) -> ModuleType:
    """Return a script as a module, without running it."""
    spec = importlib.util.spec_from_file_location(name.removesuffix(".py"), EXAMPLES / name)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def start(name: str) -> subprocess.Popen[str]:
    """Start a script with its defaults; -P keeps the script's own folder from the places of imports."""
    return subprocess.Popen(
        [sys.executable, "-P", EXAMPLES / name],
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def check_learned(process: subprocess.Popen[str]) -> None:
    """Fail unless a script ended well and its last line reports an accuracy far above chance."""
    output, errors = process.communicate(timeout=240)
    assert process.returncode == 0, errors
    report = re.fullmatch(
        r"crl: (\d+\.\d)% of 450 test images correct, seed 0", output.rstrip().splitlines()[-1]
    )
    assert report, output
    assert float(report[1]) > 90


@pytest.fixture(scope="module", autouse=True)
def running() -> Iterator[dict[str, subprocess.Popen[str]]]:
    """The scripts that need no further library; they run beside the other tests until the last ones ask."""
    processes = {name: start(name) for name in ("plain_pytorch.py", "timm_loop.py")}
    yield processes
    for process in processes.values():
        process.kill()
        process.communicate()


@pytest.fixture(scope="module")
def plain() -> ModuleType:
    return load_script("plain_pytorch.py")


@pytest.fixture(scope="module")
def timm_loop() -> ModuleType:
    return load_script("timm_loop.py")


@pytest.fixture
def library() -> None:
    """Skip the test where transformers or accelerate is absent."""
    for package in ("transformers", "accelerate"):
        pytest.importorskip(package, reason=NO_LIBRARY)


@pytest.mark.usefixtures("library")
def test_trainer_script_runs_and_learns():
    check_learned(start(HUGGING_FACE))


@pytest.mark.parametrize("loss", [name for name in LOSSES if not LOSSES.reads_order(name)])
def test_every_loss_learns(plain: ModuleType, loss: str):
    assert plain.main(["--loss", loss, "--epochs", "8"]) > 0.7


def test_a_network_that_was_not_trained_is_near_chance(plain: ModuleType):
    assert plain.main(["--epochs", "0"]) < 3 * CHANCE


def test_options_of_the_timm_loop_learn_together(timm_loop: ModuleType):
    options = ["--mixup", "0.2", "--smoothing", "0.1", "--amp", "--epochs", "2"]
    assert timm_loop.main(options) > 5 * CHANCE


@pytest.mark.parametrize(
    ("options", "smoothing", "soft"),
    [
        ([], 0.0, False),
        (["--smoothing", "0.1"], 0.1, False),
        (["--mixup", "0.2", "--smoothing", "0.1"], 0.0, True),  # Mixup has smoothed the targets
    ],
)
def test_timm_loop_smooths_targets_once(
    timm_loop: ModuleType, monkeypatch: pytest.MonkeyPatch, options: list[str], smoothing: float, soft: bool
):
    seen: list[tuple[float, Tensor]] = []

    class Recorder(nn.Module):
        def __init__(self, _: str, label_smoothing: float) -> None:
            super().__init__()
            self.label_smoothing = label_smoothing

        def forward(self, logits: Tensor, target: Tensor) -> Tensor:
            seen.append((self.label_smoothing, target))
            return logits.sum()

    monkeypatch.setattr(timm_loop, "build_loss", Recorder)
    timm_loop.main([*options, "--epochs", "1", "--batch-size", "512"])
    assert len(seen) == 2  # 1347 images, the last and smaller batch dropped
    for told, target in seen:
        assert told == smoothing
        if soft:
            assert target.shape == (512, 10)
            torch.testing.assert_close(target.sum(dim=1), torch.ones(512))
            torch.testing.assert_close(target.min(), torch.tensor(0.1 / 10))
        else:
            assert target.dtype == torch.int64


def write_classes(folder: Path, *classes: str) -> None:
    for shade, name in enumerate(classes):
        (folder / name).mkdir(parents=True)
        for number in range(2):
            pixels = np.full((40, 40, 3), 100 * shade + number, dtype=np.uint8)
            Image.fromarray(pixels).save(folder / name / f"{number}.png")


def test_timm_loop_reads_class_folders(
    timm_loop: ModuleType, tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    write_classes(tmp_path / "train", "cat", "dog", "eel")
    write_classes(tmp_path / "val", "cat", "dog", "eel")
    timm_loop.main(["--data-dir", str(tmp_path), "--epochs", "1", "--batch-size", "2"])
    assert "of 6 test images correct, seed 0" in capsys.readouterr().out


def test_timm_loop_refuses_what_it_cannot_measure(timm_loop: ModuleType, tmp_path: Path):
    write_classes(tmp_path / "train", "cat", "dog")
    options = ["--data-dir", str(tmp_path), "--epochs", "1"]
    with pytest.raises(FileNotFoundError, match="val"):
        timm_loop.main(options)  # no val/: never the training images in its place
    write_classes(tmp_path / "val", "ape", "cat", "dog")
    with pytest.raises(SystemExit, match="same class folders"):
        timm_loop.main(options)
    shutil.rmtree(tmp_path / "val" / "ape")
    with pytest.raises(SystemExit, match="lower --batch-size"):
        timm_loop.main(options)


class Net(nn.Module):
    """Three logits of two inputs, answered as the models of transformers answer."""

    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(2, 3, bias=False)
        with torch.no_grad():
            self.linear.weight.copy_(torch.tensor([[0.5, -1.0], [0.25, 2.0], [-1.5, 0.75]]))

    def forward(self, pixel_values: Tensor, labels: Tensor | None = None) -> dict[str, Tensor]:
        assert labels is None, "the model must not compute a loss of its own"
        return Outputs(logits=self.linear(pixel_values))


class Outputs(dict[str, Tensor]):
    """A dictionary whose entries are attributes too."""

    __getattr__ = dict.__getitem__


class StandIn:
    """What `compute_loss` reads of a Trainer, for machines without transformers."""

    def __init__(self, model: nn.Module, args: Any) -> None:
        self.model, self.args = model, args
        self.accelerator = SimpleNamespace(num_processes=1)


INPUTS = torch.tensor(
    [[1.0, 2.0], [-0.5, 1.0], [0.3, -0.7], [2.0, 0.1], [-1.0, -1.0], [0.6, 0.4], [1.5, -2.0]]
)
LABELS = torch.tensor([0, 1, 2, -100, 0, 2, 1])  # one image of the seven has no label
COUNT = 6


def gradient_by_hand(alpha: float = 1.5) -> Tensor:
    """Return dL/dW of CRL's mean: (p - onehot) (1 + p_c / (alpha + 1 - p_c)) for each labelled image."""
    total = torch.zeros(3, 2)
    for image, label in zip(INPUTS, LABELS, strict=True):
        if label >= 0:
            p = torch.softmax(Net().linear.weight.detach() @ image, dim=0)
            factor = 1 + p[label] / (alpha + 1 - p[label])
            total += torch.outer((p - torch.eye(3)[label]) * factor, image)
    return total / COUNT


@pytest.fixture(params=["stand-in", "installed"])
def trainer(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Any:
    """The script's Trainer with CRL on `Net`, on the stand-in and on the library itself."""
    if request.param == "installed":
        request.getfixturevalue("library")
        script = load_script(HUGGING_FACE)
        args = script.TrainingArguments(output_dir=str(tmp_path), use_cpu=True, report_to="none")
    else:
        fake = ModuleType("transformers")
        names = ("EvalPrediction", "TrainingArguments", "ViTConfig", "ViTForImageClassification")
        fake.__dict__.update(dict.fromkeys(names, object), Trainer=StandIn)
        monkeypatch.setitem(sys.modules, "transformers", fake)
        script = load_script(HUGGING_FACE)
        args = SimpleNamespace(average_tokens_across_devices=True)
    return script.LossTrainer(model=Net(), args=args, criterion=build_loss("crl", reduction="sum"))


def backward(trainer: Any, part: slice, count: int | None) -> None:
    inputs = {"pixel_values": INPUTS[part], "labels": LABELS[part]}
    loss, outputs = trainer.compute_loss(trainer.model, inputs, return_outputs=True, num_items_in_batch=count)
    assert outputs["logits"].shape == (len(LABELS[part]), 3)
    assert "labels" in inputs  # the caller's batch is as it was
    loss.backward()


def test_gradient_of_a_batch(trainer: Any):
    backward(trainer, slice(None), None)
    torch.testing.assert_close(trainer.model.linear.weight.grad, gradient_by_hand())


def test_gradients_of_unequal_batches_add_up_to_that_of_one_batch(trainer: Any):
    for part in (slice(0, 4), slice(4, 6), slice(6, 7)):
        backward(trainer, part, COUNT)
    torch.testing.assert_close(trainer.model.linear.weight.grad, gradient_by_hand())


def test_gradients_averaged_over_processes_are_that_of_one_batch(
    trainer: Any, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(trainer, "accelerator", SimpleNamespace(num_processes=2))
    for part in (slice(0, 5), slice(5, 7)):  # each process its own images, the count over both
        backward(trainer, part, COUNT)
    torch.testing.assert_close(trainer.model.linear.weight.grad / 2, gradient_by_hand())


@pytest.mark.usefixtures("library")
@pytest.mark.parametrize(("batch", "accumulation"), [(7, 1), (3, 3), (2, 4)])
def test_library_takes_the_same_step_however_batches_are_cut(tmp_path: Path, batch: int, accumulation: int):
    script = load_script(HUGGING_FACE)
    trainer = script.LossTrainer(
        model=Net(),
        criterion=build_loss("crl", reduction="sum"),
        args=script.TrainingArguments(
            output_dir=str(tmp_path),
            max_steps=1,
            optim="sgd",
            learning_rate=1.0,
            max_grad_norm=0.0,
            per_device_train_batch_size=batch,
            gradient_accumulation_steps=accumulation,
            use_cpu=True,
            save_strategy="no",
            report_to="none",
        ),
        train_dataset=[
            {"pixel_values": image, "labels": int(label)} for image, label in zip(INPUTS, LABELS, strict=True)
        ],
    )
    trainer.train()
    torch.testing.assert_close(Net().linear.weight - trainer.model.linear.weight, gradient_by_hand())


@pytest.mark.parametrize("name", SCRIPTS)
def test_script_shows_the_losses_alone(name: str):
    source = (EXAMPLES / name).read_text(encoding="utf-8")
    assert {name.partition(".")[0] for name in imported_names(source)} & {
        *ALLOWED,
        "tests",
        "benchmarks",
    } == {"core_losses"}


def test_every_command_in_the_texts_parses():
    texts = [path.read_text(encoding="utf-8") for path in sorted(EXAMPLES.iterdir()) if path.is_file()]
    commands = [
        found for text in texts for found in re.findall(r"^ *python examples/(.*)$", text, re.MULTILINE)
    ]
    assert {command.split()[0] for command in commands} == set(SCRIPTS)
    for command in commands:
        name, *options = command.partition("#")[0].split()
        known = set(re.findall(r'"(--[a-z-]+)"', (EXAMPLES / name).read_text(encoding="utf-8")))
        assert {word for word in options if word.startswith("--")} <= known


def test_readme_lists_every_script():
    readme = (EXAMPLES / "README.md").read_text(encoding="utf-8")
    assert sorted(set(re.findall(r"\]\((\w+\.py)\)", readme))) == SCRIPTS


@pytest.mark.parametrize("name", ["plain_pytorch.py", "timm_loop.py"])
def test_script_runs_and_learns(running: dict[str, subprocess.Popen[str]], name: str):
    check_learned(running[name])
