"""The general studies' engine on drawn images: the one place of these checks that knows it."""

from __future__ import annotations

from pathlib import Path

import torch

from finetune.experiments.study.arms import build_arms
from finetune.experiments.study.cells import CellPlan
from finetune.models.bundle import weights_hash
from generalcls.config import GeneralConfig, GeneralRunConfig, GeneralTrainConfig, NetworkConfig
from generalcls.data.image_set import GeneralData
from generalcls.data.synthetic import draw_images
from generalcls.networks.registry import build_network
from generalcls.parallel.cells import CellTrainer
from generalcls.parallel.engine import Training

CLASSES, PER_CLASS = 4, 64
SHAPES = {"mnist_cnn": (28, 1), "logistic": (8, 1)}  # side and channels of what a network is for
TESTED = 600  # images: more than are shown to all models at once


def drawn_data(network: str, tested: int = 40) -> GeneralData:
    """Return drawn images of the shape that a network is for."""
    side, channels = SHAPES.get(network, (32, 3))
    train = draw_images(CLASSES, PER_CLASS, side, channels)
    test = draw_images(CLASSES, -(-tested // CLASSES), side, channels, part="test")
    names = tuple(f"grating {number}" for number in range(CLASSES))
    return GeneralData("drawn", train, test, names, "drawn", official_test=False)


def trainer_for(
    network: str,
    device: str,
    folder: Path,
    *,
    together: int = 0,
    tested: int = 40,
    epochs: int = 2,
    minutes: float = 60.0,
    batch_size: int = 64,
) -> CellTrainer:
    """Return the engine for a network; `together` 0 lets it choose how many models train at once."""
    config = GeneralConfig(
        network=NetworkConfig(network),
        train=GeneralTrainConfig(epochs=epochs, batch_size=batch_size, lr=0.02),
        run=GeneralRunConfig(together=together, compile="off", checkpoint_minutes=minutes),
        device=device,
    )
    return CellTrainer(config, drawn_data(network, tested), folder, together)


def plans(count: int, folder: Path) -> list[CellPlan]:
    """Return cells of one loss, CRL, with `count` seeds."""
    arm = build_arms(["crl"], controls=False)[-1]
    return [CellPlan(arm, seed, 1.0, folder / f"seed{seed}") for seed in range(count)]


def begin(trainer: CellTrainer, count: int = 0) -> Training:
    """Return the training of `count` models before its first step; 0 takes as many as the engine chose."""
    return trainer.begin(plans(count or trainer.together, trainer.folder))


def train_steps(training: Training, steps: int, start: int = 0) -> None:
    """Do `steps` steps of an epoch after the first `start`, beginning again where it ends."""
    plan = training.batches.epoch(0)
    for step in range(start, start + steps):
        training.step = step % training.batches.steps_per_epoch
        training.train_step(plan)


def hash_of(training: Training) -> str:
    """Return the hash of all models' weights."""
    state = training.stack.state_dict()
    return weights_hash({name: value.cpu() for part in state.values() for name, value in part.items()})


def stacked_hash(network: str, device: str, folder: Path, steps: int) -> str:
    """Return the hash of four models after `steps` steps."""
    training = begin(trainer_for(network, device, folder, together=4), 4)
    train_steps(training, steps)
    return hash_of(training)


def run_to_hash(network: str, device: str, folder: Path, epochs: int) -> str:
    """Train one model, or go on where a killed process left; return the hash of its weights."""
    trainer = trainer_for(network, device, folder, together=1, epochs=epochs, minutes=1e-9, batch_size=8)
    return hash_of(trainer.train_chunk(plans(1, folder), "one model"))


def checkpoints(folder: Path) -> list[Path]:
    """Return the files that a training of `run_to_hash` goes on from."""
    return sorted(folder.glob("in_training/*.pt"))


def weights_each(network: str) -> int:
    """Return how many weights a network has."""
    side, channels = SHAPES.get(network, (32, 3))
    with torch.device("meta"):
        built = build_network(network, channels=channels, image_size=side, num_classes=CLASSES)
    return sum(weight.numel() for weight in built.parameters())
