"""What every check is given: the device, a scratch folder, sizes, and a way to start processes."""

from __future__ import annotations

import subprocess
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

import torch

from apps.doctor.gpu.card import Card
from finetune.cli.machine import module_command, module_environment
from finetune.errors import ResourceError
from finetune.runs.interrupts import with_parent
from finetune.training.optimization.precision import Precision, choose_precision
from finetune.training.optimization.torch_settings import prepare_torch


@dataclass(frozen=True)
class Sizes:
    """How large networks, images and batches of the checks are; the defaults are a GPU's.

    Args:
        name: by which processes of their own find them again.
        trunk: the backbone that heads are tried on.
        second: the other backbone where a head reads two.
        transformer: a backbone of tokens.
        large: the backbone whose scores, speed and memory are looked at.
        side: pixels of the images that heads are tried on.
        odd_side: pixels at which 7 and 3 regions a side do not divide the image.
        large_side: pixels that the large backbone sees.
        batch: images of a step.
        images: drawn for training runs.
        steps: of the runs that must repeat themselves.
        logits: classes of the losses' logits.
        speed: (batch, side) of the timed steps.
        timed: steps that are timed.
        photographs: files that the timed loaders read.
        cost_batch: images of the steps whose memory is counted.
        general: the networks that train together.
        runs_side: pixels of the runs that are killed.
        epochs: of the runs that are killed.
    """

    name: str = "full"
    trunk: str = "resnet18"
    second: str = "resnet10t"
    transformer: str = "vit_tiny_patch16_224"
    large: str = "resnet50"
    side: int = 128
    odd_side: int = 96
    large_side: int = 224
    batch: int = 8
    images: int = 96
    steps: int = 20
    logits: int = 200
    speed: tuple[tuple[int, int], ...] = ((128, 224), (32, 448))
    timed: int = 30
    photographs: int = 128
    cost_batch: int = 32
    general: tuple[str, ...] = ("mnist_cnn", "resnet164")
    runs_side: int = 64
    epochs: int = 6


FULL = Sizes()
TINY = Sizes(
    "tiny",
    trunk="test_resnet",
    second="test_resnet",
    transformer="test_vit",
    large="test_resnet",
    side=64,
    odd_side=64,
    large_side=32,
    batch=4,
    images=24,
    steps=2,
    logits=10,
    speed=((4, 32),),
    timed=2,
    photographs=6,
    cost_batch=2,
    general=("logistic",),
    runs_side=32,
    epochs=4,
)
SIZES = {sizes.name: sizes for sizes in (FULL, TINY)}


@dataclass(frozen=True)
class Setup:
    """What a check is given.

    Args:
        card: the device, and what its software can be asked.
        folder: for the check's files; it goes when all checks are done.
        sizes: of networks, images and batches.
        seconds: that a process of its own may take.
        deadline: when all should be done, on the clock of `time.monotonic`; 0 leaves no time for extras.
    """

    card: Card
    folder: Path
    sizes: Sizes = FULL
    seconds: float = 120.0
    deadline: float = 0.0
    running: list[subprocess.Popen[str]] = field(default_factory=list)

    @property
    def device(self) -> torch.device:
        """Where the check computes."""
        return self.card.device

    def precision(self, name: str = "float32", *, deterministic: bool = True) -> Precision:
        """Return a number format on the device, with torch prepared for it as trainings prepare it."""
        found = choose_precision(str(self.device), name)
        prepare_torch(found, deterministic=deterministic)
        return found

    def seconds_left(self) -> float:
        """Return how long all the checks that are left may take."""
        return self.deadline - time.monotonic()

    def start(self, *words: str, more: Mapping[str, str] | None = None) -> subprocess.Popen[str]:
        """Start `apps.doctor.gpu.work.child` with these words, seeing this device alone; it ends with us.

        `more` joins its environment. What it prints goes to a file.
        """
        environment = with_parent({**module_environment(), **self.card.environment(), **(more or {})})
        noise = (self.folder / f"process{len(self.running)}.txt").open("w", encoding="utf-8")
        with noise:
            process = subprocess.Popen(
                module_command(
                    "apps.doctor.gpu.work.child", words[0], self.device.type, self.sizes.name, *words[1:]
                ),
                stdin=subprocess.DEVNULL,
                stdout=noise,
                stderr=subprocess.STDOUT,
                text=True,
                env=environment,
            )
        self.running.append(process)
        return process

    def finish(self, processes: Sequence[subprocess.Popen[str]]) -> None:
        """Wait for processes; raises ResourceError with the last line of one that failed or never ended."""
        end = time.monotonic() + self.seconds
        for process in processes:
            try:
                code = process.wait(max(0.1, end - time.monotonic()))
            except subprocess.TimeoutExpired:
                raise ResourceError(f"a process gave no answer within {self.seconds:.0f} s") from None
            if code:
                raise ResourceError(f"a process ended with exit code {code}: {self.last_words(process)}")

    def last_words(self, process: subprocess.Popen[str]) -> str:
        """Return the last line that a process printed."""
        file = self.folder / f"process{self.running.index(process)}.txt"
        lines = file.read_text(encoding="utf-8", errors="replace").strip().splitlines()
        return lines[-1] if lines else "without a word"

    def end(self) -> None:
        """End every process that still runs."""
        for process in self.running:
            if process.poll() is None:
                process.kill()
                with suppress(subprocess.TimeoutExpired):
                    process.wait(10)
