"""Train a stack of models to its end: steps, totals, tests, checkpoints. Read in one sitting."""

from __future__ import annotations

import copy
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor

from finetune.cli.console import say
from finetune.errors import CrlError
from finetune.runs.files import to_plain
from finetune.runs.former_epochs import counted_from_one
from finetune.runs.interrupts import StopRequest
from finetune.training.checkpoint import load_checkpoint, save_checkpoint
from finetune.training.failures import says_out_of_memory
from finetune.training.optimization.compiling import compiled_or_eager, nothing_kept
from generalcls.config import GeneralTrainConfig
from generalcls.networks.dropout import draw_masks
from generalcls.networks.philox import device_masks, mask_keys
from generalcls.parallel.device_data import Batches, Drawn, EpochBatches, ResidentImages
from generalcls.parallel.epoch_metrics import SUMS, epoch_row, step_sums
from generalcls.parallel.memory_plan import TEST_IMAGES
from generalcls.parallel.model_stack import ModelStack, Objective
from generalcls.parallel.objectives import Learned, StackObjective
from generalcls.parallel.optimizers import Member, build_optimizer, hand_over_gradients, rate_factor


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
        compiled: compile the step of models side by side: "auto" goes on without where that fails, "on" does
            not; "off".
        test_batch: test images that are shown at once; it is halved where memory runs out.
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
    compiled: Literal["auto", "on", "off"] = "off"
    test_batch: int = TEST_IMAGES
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
        self._together = self._learn_together
        # A view of one tensor is a step's number on the device: a number from the host would be copied.
        self._numbers = torch.arange(self.total_steps, device=self.train.device)
        self._keys = mask_keys(self.seeds, self.train.device)

    @property
    def total_steps(self) -> int:
        """Steps of the whole training."""
        return self.config.epochs * self.batches.steps_per_epoch

    @property
    def images_a_step(self) -> int:
        """Images that all models together see in a step."""
        return min(self.config.batch_size, len(self.train)) * len(self.members)

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
        if self.compiled != "off" and self.stack.side_by_side:
            self._compile(by_name=self.compiled == "on")
        with StopRequest() as stop:
            last_save = lap = time.monotonic()
            while self.epoch < self.config.epochs:
                plan = self.batches.epoch(self.epoch)
                while self.step < self.batches.steps_per_epoch:
                    self.train_step(plan)
                    self.step += 1
                    if after_step is not None:
                        after_step(self.images_a_step)
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

    def train_step(self, plan: EpochBatches) -> None:
        """Do one step of every model on its seed's batch: the step `self.step` of an epoch's plan."""
        drawn, done = plan.draw(self.step), self.epoch * self.batches.steps_per_epoch + self.step
        self._set_rates(done)
        self.optimizer.zero_grad()  # it holds the last step's gradients, as large as the weights
        with self.stack.precision.products():
            if self.stack.side_by_side:
                self._backward_together(drawn, done)
            else:
                images, target = self.batches.load(drawn)
                objective = self._objective(target.index_select(0, self._index), done)
                masks = self._masks(target.shape[1], done)
                self.sums += step_sums(self.stack.train_step(images, self.rows, masks, objective))
        hand_over_gradients(self.optimizer, self.stack)
        self.optimizer.step()

    def _backward_together(self, drawn: Drawn, done: int) -> None:
        self.stack.begin_step()
        on_cpu, number = self.train.device.type == "cpu", self._numbers[done]
        masks = self._masks(drawn.rows.shape[1], done) if on_cpu else {}
        plain = on_cpu and self._together == self._learn_together  # every bit as it always was
        logits, grads = self._together(drawn, done if plain else number, masks)
        logits.backward(grads)  # type: ignore[no-untyped-call]

    def _learn_together(
        self, drawn: Drawn, number: int | Tensor, masks: dict[str, Tensor]
    ) -> tuple[Tensor, Tensor]:
        """Return the logits of all models, with their graph, and the gradient to go backward from.

        On a GPU everything in a step that is not backward or the update is in here, as one graph to compile.
        """
        images, target = self.batches.load(drawn)
        objective = self._objective(target.index_select(0, self._index), number)
        if not masks and isinstance(number, Tensor):
            masks = self._device_masks(target.shape[1], number)
        logits, learned = self.stack.forward_together(images, self._index, masks, objective)
        self.sums.add_(step_sums(learned))
        return logits, learned.grads

    def _compile(self, *, by_name: bool) -> None:
        """Compile the step, in a rehearsal of which nothing stays; without, where that fails."""
        drawn = self.batches.epoch(self.epoch).draw(self.step)
        done = self.epoch * self.batches.steps_per_epoch + self.step
        torch.compiler.reset()  # other stacks were of other sizes, and are done
        self._together = torch.compile(self._learn_together, fullgraph=True, dynamic=False)

        def rehearse() -> None:
            with self.stack.precision.products():
                self._backward_together(drawn, done)

        def to_eager() -> None:
            self._together = self._learn_together

        with nothing_kept(self.stack.params.values(), [*self.stack.buffers.values(), self.sums]):
            compiled_or_eager(rehearse, to_eager, by_name=by_name)

    def _objective(self, target: Tensor, done: int | Tensor) -> Objective:
        """Return what the models minimise at a step, for the targets (M, B) of all."""

        def learn(
            models: slice, embedding: Tensor, weight: Tensor, bias: Tensor | None
        ) -> tuple[Tensor, Learned]:
            return self.objective(models, embedding, weight, bias, target, done)

        return learn

    def evaluate(self) -> np.ndarray:
        """Return every model's logits for the test images, float32 (M, N, K), in the images' order."""
        parts, start = [], 0
        while start < len(self.test):
            try:
                parts.append(self._answers(start, start + self.test_batch))
            except RuntimeError as error:
                if self.test_batch == 1 or not says_out_of_memory(error):
                    raise
                self._halve_test_batch()
                continue
            start += self.test_batch
        return torch.cat(parts, dim=1).numpy()

    def _answers(self, first: int, last: int) -> Tensor:
        """Return all models' logits for the test images from `first` to before `last`, on the CPU."""
        images = self.test.scaled(self.test.span(first, last))
        with self.stack.precision.in_float32().products():
            answers = [self.objective.answers(*found) for found in self.stack.embeddings(images)]
        return torch.cat(answers).float().cpu()

    def _halve_test_batch(self) -> None:
        """Test on half as many images at once, and say so."""
        before, self.test_batch = self.test_batch, self.test_batch // 2
        say(f"notice: out of memory when testing on {before} images at once: from now on {self.test_batch}")
        if self.test.device.type == "cuda":
            torch.cuda.empty_cache()

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
            self._load_whole(state)
        except (CrlError, KeyError, ValueError, RuntimeError) as error:
            if isinstance(error, RuntimeError) and says_out_of_memory(error):
                raise
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

    def _load_whole(self, state: Mapping[str, Any]) -> None:
        """Put back a state, or nothing of it: cells begin again from their own first weights."""
        first = copy.deepcopy(self.state())
        try:
            self.load_state(state)
        except Exception:
            self.load_state(first)
            raise

    def _whose(self) -> dict[str, Any]:
        members = [[member.name, member.seed, member.lr_factor] for member in self.members]
        return {"members": members, **to_plain(dict(self.identity))}

    def _set_rates(self, done: int) -> None:
        rate = self.config.lr * rate_factor(self.config, done, self.total_steps)
        for group in self.optimizer.param_groups:
            group["lr"] = rate * group["factor"]

    def _masks(self, batch_size: int, done: int) -> dict[str, Tensor]:
        """Return dropout's masks, a function of (seed, epoch, step): one per seed, shared by its models."""
        moment = divmod(done, self.batches.steps_per_epoch)
        return draw_masks(self.dropouts, self.seeds, moment, batch_size)

    def _device_masks(self, batch_size: int, done: Tensor) -> dict[str, Tensor]:
        """Return the same function's masks as a GPU draws them."""
        steps = self.batches.steps_per_epoch
        return device_masks(self.dropouts, self._keys, done // steps, done % steps, batch_size)

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
