"""Check 12: what a step takes is what was counted before, and a step that finds no memory ends well."""

from __future__ import annotations

from collections.abc import Callable

import torch

from apps.doctor.gpu.bounds import PEAK
from apps.doctor.gpu.outcome import Findings, Outcome, error_text
from apps.doctor.gpu.setup import Setup
from apps.doctor.gpu.work import general
from apps.doctor.gpu.work.training import Ready, learner_for, ready_batch, recipe, task_for, train_steps
from finegrained.config import CostConfig
from finegrained.cost.measure import count_cost, read_head
from finetune.errors import ResourceError
from finetune.models.classifier import build_classifier
from finetune.training.failures import told_failures
from finetune.training.optimization.trial_steps import random_batch, training_step

HEADS = ("linear", "bilinear:reduction=64", "compact_bilinear:dim=2048")
CLASSES = 50
REMEDIES = ("--train.batch_size", "--model.image_size")
COUNTED = "take crl fine cost's bytes for this GPU with that much room; send gpu-check.json"
TOGETHER = "give crl general --run.together a smaller number, and send gpu-check.json"
LOST = "a run that finds no memory may end without a word: choose small batches, and send gpu-check.json"


def check_memory(setup: Setup) -> Outcome:
    """Return how counted bytes compare with the allocator's peak, and what happens where memory runs out."""
    found = Findings()
    for word in HEADS:
        _peak(setup, word, found)
    for network in setup.sizes.general:
        _together(setup, network, found)
    _forced(setup, found)
    return found.outcome()


def counted_and_taken(setup: Setup, word: str) -> tuple[int, int]:
    """Return the bytes that `crl fine cost` counts for a step of a head, and the most that one took."""
    sizes = setup.sizes
    side, count = sizes.large_side, sizes.cost_batch
    head = read_head(word)
    cost = count_cost(sizes.large, head, CostConfig(image_size=side, classes=CLASSES, batch_size=count))
    precision = setup.precision("float32")

    def work() -> None:
        core = build_classifier(
            sizes.large, head.name, CLASSES, weights="none", image_size=side, head_options=dict(head.options)
        )
        precision.place(core)
        images, target = random_batch(core, side, count, CLASSES)
        images = precision.arrange(images)
        step: Callable[[], None] = training_step(core, images, target, precision)
        step()
        step()

    return cost.training_bytes or 0, setup.card.peak_of(work)


def _peak(setup: Setup, word: str, found: Findings) -> None:
    counted, taken = counted_and_taken(setup, word)
    off = taken / max(counted, 1) - 1
    found.numbers[word] = {"counted_bytes": counted, "taken_bytes": taken}
    told = f"{word}: {taken / 1e9:.2f} GB taken, {counted / 1e9:.2f} counted ({100 * off:+.0f} %)"
    found.require(abs(off) <= PEAK, told, COUNTED)
    if abs(off) <= PEAK:
        found.add(told)


def _together(setup: Setup, network: str, found: Findings) -> None:
    """Do a step and a test of as many models as the engine wants to train at once."""
    trainer = general.trainer_for(network, str(setup.device), setup.folder / network, tested=general.TESTED)
    count = trainer.together
    found.numbers[network] = {"together": count, "weights_each": general.weights_each(network)}
    try:
        training = general.begin(trainer)
        general.train_steps(training, 1)
        training.evaluate()
    except torch.OutOfMemoryError as error:
        told = f"{network}: {count} models at once run out of memory ({error_text(error)})"
        found.fault("wrong", told, TOGETHER)
        return
    finally:
        setup.card.release()
    found.add(f"{network}: {count} models train and are tested at once")


def _forced(setup: Setup, found: Findings) -> None:
    """Run out of memory on purpose: the message must say what to do, and the next step must work."""
    sizes = setup.sizes
    task = task_for(setup.folder, sizes, sizes.large_side)
    config = recipe(sizes.large, sizes.large_side, str(setup.device), batch_size=sizes.cost_batch)
    learner = learner_for(task, config)
    batches = Ready(ready_batch(sizes.cost_batch, sizes.large_side), 1)
    message = ""
    try:
        with told_failures(task, config), setup.card.without_memory():
            train_steps(learner, batches, 1)
    except ResourceError as error:
        message = str(error)
    setup.card.release()
    missing = [remedy for remedy in REMEDIES if remedy not in message]
    if not message:
        found.fault("note", "memory could not be filled up: running out of it was not tried", "")
        return
    found.require(not missing, f"out of memory: the message does not name {' and '.join(missing)}", LOST)
    try:
        train_steps(learner, batches, 1)
    except RuntimeError as error:
        found.fault("wrong", f"after memory ran out the next step fails: {error_text(error)}", LOST)
        return
    if not missing:
        found.add("out of memory is told with two remedies, and the next step works")
