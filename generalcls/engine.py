"""Train a stack of models to its end: steps, totals, tests, checkpoints. Read in one sitting."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from core_losses import log_odds
from finetune.checkpoint import load_checkpoint, save_checkpoint
from finetune.errors import CrlError, ResourceError, UsageError
from finetune.interrupts import HANGUP, StopRequest
from finetune.optim import learning_rate_factor
from finetune.seeding import derive_seed
from generalcls.config import GeneralTrainConfig
from generalcls.objectives import StackObjective
from generalcls.resident import Batches, ResidentImages
from generalcls.stack import ModelStack

TEST_BATCH = 500
SUMS = ("loss", "right", "images", "factor", "factors", "push", "q")


@dataclass(frozen=True)
class Member:
    """One model of a stack: its seed, the rate's factor, and the name of its cell."""

    name: str
    seed: int
    lr_factor: float = 1.0


@dataclass
class Training:
    """A stack in training; everything that later steps depend on is in `state`.

    Args:
        stack: the models, in the order of `members`.
        members: who they are.
        objective: what each minimises.
        train: the training split on the device.
        test: the test split on the device.
        config: length, rates, batches.
        checkpoint: file to save to now and then; None never saves.
        checkpoint_minutes: how often.
    """

    stack: ModelStack
    members: Sequence[Member]
    objective: StackObjective
    train: ResidentImages
    test: ResidentImages
    config: GeneralTrainConfig
    checkpoint: Path | None = None
    checkpoint_minutes: float = 5.0
    epoch: int = 0
    step: int = 0
    seconds: float = 0.0
    history: list[list[dict[str, Any]]] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.seeds = tuple(dict.fromkeys(member.seed for member in self.members))
        self.rows = [self.seeds.index(member.seed) for member in self.members]
        self.batches = Batches(self.train, self.seeds, self.config.batch_size, self.config.augment)
        self.optimizer = build_optimizer(self.config, self.stack, self.members)
        self.sums = torch.zeros(len(self.members), len(SUMS), dtype=torch.float64, device=self.train.device)
        self.all_sums = torch.zeros_like(self.sums)
        self.history = self.history or [[] for _ in self.members]
        shape = (1, self.train.channels, self.train.height, self.train.width)
        probe = torch.zeros(shape, dtype=self.train.dtype)
        self.dropouts = self.stack.dropout_shapes(probe)
        self._index = torch.tensor(self.rows, device=self.train.device)
        self._generators = [torch.Generator(self.train.device) for _ in self.seeds]

    @property
    def total_steps(self) -> int:
        """Steps of the whole training."""
        return self.config.epochs * self.batches.steps_per_epoch

    def gradient_ratio(self, name: str, seed: int) -> float | None:
        """Return a model's sum of push over its sum of q so far, over all epochs; None where q is nought."""
        found = [(m.name, m.seed) for m in self.members].index((name, seed))
        push, q = (self.all_sums[found, SUMS.index(key)].item() for key in ("push", "q"))
        return push / q if q else None

    def run(
        self, after_step: Callable[[int], None] | None = None, after_epoch: Callable[[], None] | None = None
    ) -> None:
        """Train to the end, or from where a checkpoint left.

        `after_step` is told how many images all models together have seen in the step.

        Raises InterruptedStudyError after saving when a signal asks for it. A model whose loss stops being
        finite goes on to the end and is scored as it is: in a study a loss that diverges is a result.
        """
        with StopRequest(also=HANGUP) as stop:
            last_save = lap = time.monotonic()
            while self.epoch < self.config.epochs:
                plan = self.batches.epoch(self.epoch)
                while self.step < self.batches.steps_per_epoch:
                    images, target = plan.batch(self.step)
                    self.train_step(images, target)
                    self.step += 1
                    if after_step is not None:
                        after_step(target.shape[1] * len(self.members))
                    now = time.monotonic()
                    due = now - last_save > 60 * self.checkpoint_minutes
                    if (stop.requested or due) and self.checkpoint is not None:
                        self.seconds += now - lap
                        self.save()
                        last_save = lap = time.monotonic()
                    if stop.requested:
                        raise InterruptedStudyError(
                            f"stopped by {stop.signal_name}; all is saved: the same command with "
                            "--run.resume auto goes on"
                        )
                self._close_epoch()
                now = time.monotonic()
                self.seconds += now - lap
                lap = now
                if after_epoch is not None:
                    after_epoch()

    def train_step(self, images: Tensor, target: Tensor) -> None:
        """Do one step of every model on its seed's batch: images (S, B, C, H, W), target (S, B)."""
        done = self.epoch * self.batches.steps_per_epoch + self.step
        self._set_rates(done)
        each, preds = target[self._index], list[Tensor]()

        def objective(
            models: slice, embedding: Tensor, weight: Tensor, bias: Tensor | None
        ) -> tuple[Tensor, Tensor]:
            losses, logits = self.objective(models, embedding, weight, bias, each, done)
            preds.append(self.objective.preds(models, embedding, weight, bias, logits))
            return losses, logits

        masks = self._masks(target.shape[1])
        losses, logits, grads = self.stack.train_step(images, self.rows, masks, objective)
        hand_over_gradients(self.optimizer, self.stack)
        self.optimizer.step()
        self.sums += step_sums(losses, logits, grads, each, torch.cat(preds)).to(self.sums)

    def evaluate(self) -> np.ndarray:
        """Return every model's logits for the test images, float32 (M, N, K), in the images' order."""
        parts = []
        for start in range(0, len(self.test), TEST_BATCH):
            rows = torch.arange(start, min(start + TEST_BATCH, len(self.test)), device=self.test.device)
            images = self.test.scaled(self.test.take(rows))
            answers = [self.objective.answers(*found) for found in self.stack.embeddings(images)]
            parts.append(torch.cat(answers).float().cpu())
        return torch.cat(parts, dim=1).numpy()

    def save(self) -> None:
        """Write the checkpoint."""
        assert self.checkpoint is not None
        self.checkpoint.parent.mkdir(parents=True, exist_ok=True)
        save_checkpoint(self.checkpoint, self.state())

    def restore(self) -> bool:
        """Go on from the checkpoint where there is one of these very members; return whether there was."""
        if self.checkpoint is None or not self.checkpoint.is_file():
            return False
        state = load_checkpoint(self.checkpoint)
        if state["members"] != [[m.name, m.seed, m.lr_factor] for m in self.members]:
            return False
        self.load_state(state)
        return True

    def state(self) -> dict[str, Any]:
        """Return everything that later steps depend on, as plain values and tensors."""
        return {
            "members": [[m.name, m.seed, m.lr_factor] for m in self.members],
            "stack": self.stack.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "sums": self.sums,
            "all_sums": self.all_sums,
            "history": self.history,
            "epoch": self.epoch,
            "step": self.step,
            "seconds": self.seconds,
        }

    def load_state(self, state: Mapping[str, Any]) -> None:
        """Put back what `state` returned."""
        self.stack.load_state_dict(state["stack"])
        self.optimizer.load_state_dict(state["optimizer"])
        self.sums.copy_(state["sums"])
        self.all_sums.copy_(state["all_sums"])
        self.history = state["history"]
        self.epoch, self.step, self.seconds = state["epoch"], state["step"], state["seconds"]

    def _set_rates(self, done: int) -> None:
        rate = self.config.lr * rate_factor(self.config, done, self.total_steps)
        for group in self.optimizer.param_groups:
            group["lr"] = rate * group["factor"]

    def _masks(self, batch_size: int) -> dict[str, Tensor]:
        """Return dropout's masks, a function of (seed, epoch, step): one per seed, shared by its models."""
        if not self.dropouts:
            return {}
        for seed, generator in zip(self.seeds, self._generators, strict=True):
            generator.manual_seed(derive_seed(seed, "dropout", self.epoch, self.step))
        return {
            name: torch.stack(
                [
                    torch.rand((batch_size, *shape), generator=generator, device=generator.device)
                    for generator in self._generators
                ]
            )
            .ge(p)
            .to(self.train.dtype)
            for name, (p, shape) in self.dropouts.items()
        }

    def _close_epoch(self) -> None:
        last = self.epoch + 1 == self.config.epochs
        wrong: list[float | None] = [None] * len(self.members)
        if last or (self.epoch + 1) % self.config.evaluate_every == 0:
            preds = self.evaluate().argmax(-1)
            wrong = [100 * float(np.mean(own != self.test.target.cpu().numpy())) for own in preds]
        for rows, sums, error in zip(self.history, self.sums.tolist(), wrong, strict=True):
            rows.append(epoch_row(self.epoch, dict(zip(SUMS, sums, strict=True)), error))
        self.all_sums += self.sums
        self.sums.zero_()
        self.epoch, self.step = self.epoch + 1, 0


class InterruptedStudyError(CrlError):
    """A signal asked the study to stop; what was in training is saved."""

    exit_code = 130


def epoch_row(epoch: int, sums: Mapping[str, float], error: float | None) -> dict[str, Any]:
    """Return one epoch's row of a cell's history from the sums over its images."""
    images = max(sums["images"], 1.0)
    row = {
        "epoch": epoch,
        "train_loss": sums["loss"] / images,
        "train_accuracy": sums["right"] / images,
        "gradient_factor": sums["factor"] / sums["factors"] if sums["factors"] else None,
        "gradient_ratio": sums["push"] / sums["q"] if sums["q"] else None,
    }
    return row if error is None else {**row, "test_error": error}


def step_sums(losses: Tensor, logits: Tensor, grads: Tensor, target: Tensor, preds: Tensor) -> Tensor:
    """Return what a step adds to `SUMS`, (M, 7).

    push = -dL/dz_c of an image's own loss, q = 1 - p_c, which is cross-entropy's push; their ratio tells how
    much harder than cross-entropy the image pushes. Images of q = 0, beyond the number format, have none.
    """
    count = target.shape[1]
    index = target[..., None]
    push = -grads.gather(-1, index)[..., 0] * count
    q = torch.sigmoid(-log_odds(logits.flatten(0, 1), target.flatten())).view(target.shape)
    told = q > 0
    factor = torch.where(told, push / torch.where(told, q, 1), 0)
    right = (preds == target).sum(1)
    ones = torch.full_like(losses, count)
    columns = (losses * count, right, ones, factor.sum(1), told.sum(1), push.sum(1), q.sum(1))
    return torch.stack([column.to(torch.float64) for column in columns], dim=1)


def rate_factor(config: GeneralTrainConfig, step: int, total_steps: int) -> float:
    """Return what the learning rate is multiplied by at a step counted from 0."""
    if config.schedule == "inverse":
        return 1 / (1 + config.decay * step)
    milestones = [round(share * total_steps) for share in config.milestones]
    return learning_rate_factor(step, total_steps, config.schedule, milestones=milestones, gamma=config.gamma)


def build_optimizer(
    config: GeneralTrainConfig, stack: ModelStack, members: Sequence[Member]
) -> torch.optim.Optimizer:
    """Return torch's optimiser over slices of the stacked weights, a group per learning rate and decay.

    Every one of these optimisers works element by element, so models in one tensor never see each other.
    RMSprop and Adadelta have the constants of the Keras examples (rho .9 and .95, epsilon 1e-7).
    """
    groups = []
    for first, last in equal_runs([member.lr_factor for member in members]):
        for decays in (True, False):
            names = [name for name in stack.params if stack.decays[name] == decays]
            group = {
                "params": [stack.params[name].detach()[first:last] for name in names],
                "names": names,
                "models": [first, last],
                "factor": members[first].lr_factor,
                "weight_decay": config.weight_decay if decays else 0.0,
            }
            groups += [group] if names else []
    lr = config.lr
    if config.optimizer == "sgd":
        return torch.optim.SGD(groups, lr=lr, momentum=config.momentum, nesterov=config.momentum > 0)
    if config.optimizer == "adamw":
        return torch.optim.AdamW(groups, lr=lr)
    if config.optimizer == "adam":
        return torch.optim.Adam(groups, lr=lr)
    if config.optimizer == "rmsprop":
        return torch.optim.RMSprop(groups, lr=lr, alpha=0.9, eps=1e-7)
    if config.optimizer == "adadelta":
        return torch.optim.Adadelta(groups, lr=lr, rho=0.95, eps=1e-7)
    raise UsageError(f"no optimizer is called {config.optimizer!r}")


def equal_runs(values: Sequence[float]) -> list[tuple[int, int]]:
    """Return (first, behind the last) of every run of equal neighbours.

    >>> equal_runs([1, 1, 2, 1])
    [(0, 2), (2, 3), (3, 4)]
    """
    starts = [i for i, value in enumerate(values) if i == 0 or values[i - 1] != value]
    return list(zip(starts, [*starts[1:], len(values)], strict=True))


def hand_over_gradients(optimizer: torch.optim.Optimizer, stack: ModelStack) -> None:
    """Give every slice that the optimiser holds its slice of the gradient; nothing is copied."""
    for group in optimizer.param_groups:
        first, last = group["models"]
        for name, parameter in zip(group["names"], group["params"], strict=True):
            parameter.grad = stack.gradient(name)[first:last]


def memory_error(stack: ModelStack, error: torch.OutOfMemoryError) -> ResourceError:
    """Return the error that says how to train in less memory."""
    return ResourceError(
        f"{stack.count} models side by side do not fit into the GPU's memory ({error}); give --run.together "
        f"{max(1, stack.count // 2)} or a smaller --train.batch_size"
    )
