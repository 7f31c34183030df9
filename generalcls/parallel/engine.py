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

from finetune.cli.console import say
from finetune.errors import CrlError, ResourceError
from finetune.runs.files import to_plain
from finetune.runs.former_epochs import counted_from_one
from finetune.runs.interrupts import StopRequest
from finetune.training.checkpoint import load_checkpoint, save_checkpoint
from generalcls.config import GeneralTrainConfig
from generalcls.networks.dropout import draw_masks
from generalcls.parallel.device_data import Batches, ResidentImages
from generalcls.parallel.epoch_metrics import SUMS, epoch_row, step_sums
from generalcls.parallel.model_stack import ModelStack
from generalcls.parallel.objectives import StackObjective
from generalcls.parallel.optimizers import Member, build_optimizer, hand_over_gradients, rate_factor

TEST_BATCH = 500


@dataclass
class Training:
    """A stack in training; everything that later steps depend on is in `state`.

    Args:
        stack: the models, in the order of `members`.
        members: who they are.
        objective: what each minimises.
        train: the training split on the device.
        test: the test split on the device.
        config: length, learning rates, batches.
        checkpoint: file to save to now and then; None never saves.
        checkpoint_minutes: how often.
        identity: the data and settings as plain values; a checkpoint of others is not gone on from.
        after_save: called when a checkpoint was written.
    """

    stack: ModelStack
    members: Sequence[Member]
    objective: StackObjective
    train: ResidentImages
    test: ResidentImages
    config: GeneralTrainConfig
    checkpoint: Path | None = None
    checkpoint_minutes: float = 5.0
    identity: Mapping[str, Any] = field(default_factory=dict)
    after_save: Callable[[], None] | None = None
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

    @property
    def total_steps(self) -> int:
        """Steps of the whole training."""
        return self.config.epochs * self.batches.steps_per_epoch

    def gradient_ratio(self, name: str, seed: int) -> float | None:
        """Return a model's summed gradient magnitude over cross-entropy's; None where the latter is zero."""
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
        with StopRequest() as stop:
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
                        raise _stopped(stop)
                self._close_epoch()
                now = time.monotonic()
                self.seconds += now - lap
                lap = now
                if after_epoch is not None:
                    after_epoch()
            if stop.requested:  # since the last step: what trains next would hear nothing of it
                if self.checkpoint is not None:
                    self.save()
                raise _stopped(stop)

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
            with self.stack.precision.in_float32().products():
                answers = [self.objective.answers(*found) for found in self.stack.embeddings(images)]
            parts.append(torch.cat(answers).float().cpu())
        return torch.cat(parts, dim=1).numpy()

    def save(self) -> None:
        """Write the checkpoint."""
        assert self.checkpoint is not None
        self.checkpoint.parent.mkdir(parents=True, exist_ok=True)
        save_checkpoint(self.checkpoint, self.state())
        if self.after_save is not None:
            self.after_save()

    def restore(self) -> bool:
        """Go on from the checkpoint where there is one of these very models, data and settings.

        Returns whether it did. What cannot be resumed is reported, and trained from its beginning.
        """
        if self.checkpoint is None or not self.checkpoint.is_file():
            return False
        try:
            state = load_checkpoint(self.checkpoint)
            if state["whose"] != self._whose():
                raise ValueError("it is of other data, settings or models")
            self.load_state(state)
        except (CrlError, KeyError, ValueError, RuntimeError) as error:
            say(f"notice: {self.checkpoint} cannot be gone on from ({error}): its cells begin again")
            return False
        return True

    def state(self) -> dict[str, Any]:
        """Return everything that later steps depend on, as plain values and tensors."""
        return {
            "whose": self._whose(),
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
        self.history = [counted_from_one(rows) for rows in state["history"]]
        self.epoch, self.step, self.seconds = state["epoch"], state["step"], state["seconds"]

    def _whose(self) -> dict[str, Any]:
        members = [[member.name, member.seed, member.lr_factor] for member in self.members]
        return {"members": members, **to_plain(dict(self.identity))}

    def _set_rates(self, done: int) -> None:
        rate = self.config.lr * rate_factor(self.config, done, self.total_steps)
        for group in self.optimizer.param_groups:
            group["lr"] = rate * group["factor"]

    def _masks(self, batch_size: int) -> dict[str, Tensor]:
        """Return dropout's masks, a function of (seed, epoch, step): one per seed, shared by its models."""
        return draw_masks(self.dropouts, self.seeds, (self.epoch, self.step), batch_size, self.train.device)

    def _close_epoch(self) -> None:
        last = self.epoch + 1 == self.config.epochs
        wrong: list[float | None] = [None] * len(self.members)
        if last or (self.epoch + 1) % self.config.evaluate_every == 0:
            preds = self.evaluate().argmax(-1)
            wrong = [100 * float(np.mean(own != self.test.target.cpu().numpy())) for own in preds]
        blends = self.objective.blends((self.epoch + 1) * self.batches.steps_per_epoch - 1)
        for rows, sums, error, blend in zip(self.history, self.sums.tolist(), wrong, blends, strict=True):
            row = epoch_row(self.epoch + 1, dict(zip(SUMS, sums, strict=True)), error)
            rows.append(row if blend is None else {**row, "blend": blend})
        self.all_sums += self.sums
        self.sums.zero_()
        self.epoch, self.step = self.epoch + 1, 0


class InterruptedStudyError(CrlError):
    """A signal asked the study to stop; what was in training is saved."""

    exit_code = 130


def _stopped(stop: StopRequest) -> InterruptedStudyError:
    return InterruptedStudyError(
        f"stopped by {stop.signal_name}; all is saved: the same command with --run.resume auto goes on"
    )


def memory_error(stack: ModelStack, error: torch.OutOfMemoryError) -> ResourceError:
    """Return the error that says how to train in less memory."""
    return ResourceError(
        f"{stack.count} models side by side do not fit into the GPU's memory ({error}); give --run.together "
        f"{max(1, stack.count // 2)} or a smaller --train.batch_size"
    )
