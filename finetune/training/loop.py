"""The two loops everything else serves: one epoch of training, one pass of evaluation."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field, replace
from functools import partial
from itertools import count

import numpy as np
import torch
from torch import Tensor

from finetune.errors import CrlError
from finetune.images.batches import Batch, TrainBatches, normalise
from finetune.images.loading.ahead import ahead
from finetune.images.loading.copies import to_device, to_device_together
from finetune.images.mixing import draw_partners, mix
from finetune.images.preprocess import PreprocessSpec
from finetune.models.backbone import Features
from finetune.models.classifier import Classifier
from finetune.seeding import numpy_generator, seed_step
from finetune.training.epoch_metrics import Totals
from finetune.training.frozen.batches import FeatureBatch, FeatureCache
from finetune.training.learner import Learner
from finetune.training.optimization.distributed import World, follow_first, gather_rows, kept_apart
from finetune.training.optimization.optim import clip_gradients, set_learning_rates
from finetune.training.optimization.precision import Precision


@dataclass
class LossWatch:
    """Finds the first loss that is not finite, asking the device only now and then (at every step on CPU)."""

    every: int
    epoch: int
    recent: list[tuple[int, torch.Tensor, np.ndarray, float]] = field(default_factory=list)

    def add(self, step: int, loss: torch.Tensor, rows: torch.Tensor, lr: float) -> None:
        """Remember a step's loss; look at the remembered ones when it is time."""
        self.recent.append((step, loss.detach(), rows.numpy(), lr))
        if len(self.recent) >= self.every:
            self.look()

    def look(self) -> None:
        """Raise NotFiniteLossError for the first remembered loss that is NaN or infinite; forget the rest."""
        remembered, self.recent = self.recent, []
        if not remembered or bool(torch.isfinite(torch.stack([loss for _, loss, _, _ in remembered])).all()):
            return
        step, loss, rows, lr = next(item for item in remembered if not bool(torch.isfinite(item[1])))
        raise NotFiniteLossError(self.epoch, step, float(loss), rows, lr)


class NotFiniteLossError(CrlError):
    """The loss became NaN or infinite; has epoch and step (from 0), value, batch rows, learning rate."""

    def __init__(self, epoch: int, step: int, value: float, rows: np.ndarray, lr: float) -> None:
        super().__init__(
            f"the loss is {value} at step {step + 1} of epoch {epoch + 1} (learning rate {lr:g})"
        )
        self.epoch, self.step, self.value, self.rows, self.lr = epoch, step, value, rows, lr


def train_one_epoch(
    learner: Learner,
    batches: TrainBatches | FeatureCache,
    epoch: int,
    *,
    start_step: int = 0,
    totals: Totals | None = None,
    after_step: Callable[[int, Totals], bool] | None = None,
) -> Totals:
    """Train on one epoch's batches from `start_step` on and return the totals over the whole epoch.

    `totals` are those of the steps before `start_step`. `after_step(steps_done, totals)` is called whenever
    gradients are spent, so that what it saves can be resumed from; returning True ends the epoch early.
    Everything random is a function of (seed, epoch, step, rank), so a resumed epoch equals an unbroken one.

    Raises NotFiniteLossError at the first loss that is NaN or infinite.
    """
    model, train, precision = learner.model, learner.config.train, learner.precision
    totals = totals or Totals.zero(precision.device)
    watch = LossWatch(every=1 if precision.device.type == "cpu" else 20, epoch=epoch)
    model.train()
    learner.optimizer.zero_grad(set_to_none=True)
    steps = batches.steps_per_epoch
    remaining: Iterator[Batch | FeatureBatch] = batches.epoch(epoch, start_step)
    numbers = count(start_step)
    for batch in ahead(remaining, lambda batch: send(learner, batch, epoch, next(numbers)), precision.device):
        step = batch.step
        seed_step(train.seed, epoch, step, learner.world.rank)
        lr = set_learning_rates(learner.optimizer, learner.recipe.rates(epoch, step, steps))
        given, target = network_input(learner, batch)
        window = _window(step, steps, train.accumulate)
        spent = (step + 1) % train.accumulate == 0 or step + 1 == steps
        with kept_apart(model, until_later=not spent):
            with precision.autocast():
                output = model(given, target)
            loss = learner.settle(output, target, totals)
            backward(learner, loss / window)
        watch.add(step, loss, batch.index, lr)
        if spent:
            spend_gradients(learner)
            if after_step is not None and after_step(step + 1, totals):
                break
    watch.look()
    return totals


@dataclass(frozen=True)
class Sent:
    """A batch on the device.

    `given` are normalised images (B * crops, 3, S, S) or features, `target` int64 (B,); `index`, the manifest
    rows, stays on the CPU. `step` is the step's number. Of what is drawn for a training batch `plan` and
    `partner` are on the device; `generator` has drawn these and draws the rest.
    """

    given: Tensor | Features
    target: Tensor
    index: Tensor
    crops: int = 1
    step: int = 0
    generator: np.random.Generator | None = None
    plan: Tensor | None = None
    partner: Tensor | None = None

    def tensors(self) -> Iterator[Tensor]:
        """Return what the batch is made of but its index."""
        given = self.given
        yield from (given,) if isinstance(given, Tensor) else (given.embedding, *given.maps.values())
        yield from (value for value in (self.target, self.plan, self.partner) if value is not None)


def send(learner: Learner, batch: Batch | FeatureBatch, epoch: int, step: int) -> Sent:
    """Return a training batch on the device, images normalised; targets and what is drawn go together."""
    if isinstance(batch, FeatureBatch):
        features = batch.to(learner.precision.device)
        return Sent(features.features, features.target, batch.index, step=step)
    images = on_device(batch, learner.spec, learner.precision)
    return with_draws(learner, Sent(images, batch.target, batch.index, batch.crops, step), epoch)


def with_draws(learner: Learner, batch: Sent, epoch: int) -> Sent:
    """Return a training batch with its targets, from the host, and what is drawn for it on the device."""
    train, hooks = learner.config.train, learner.recipe.hooks
    generator = numpy_generator(train.seed, "batch", epoch, batch.step, learner.world.rank)
    drawn: dict[str, Tensor] = {}
    if hooks.batch_plan is not None:
        drawn["plan"] = hooks.batch_plan(len(batch.target), generator)
    elif hooks.batch_transform is None and (train.mixup or train.cutmix):
        drawn["partner"] = draw_partners(len(batch.target), generator)
    target, *others = to_device_together([batch.target, *drawn.values()], learner.precision.device)
    there = dict(zip(drawn, others, strict=True))
    return replace(
        batch, target=target, generator=generator, plan=there.get("plan"), partner=there.get("partner")
    )


def on_device(batch: Batch, spec: PreprocessSpec, precision: Precision) -> Tensor:
    """Return a batch's images on the device, normalised there (B * crops, 3, S, S)."""
    images = to_device(batch.images, precision.device)
    return precision.arrange(normalise(images, spec.mean, spec.std))


def network_input(learner: Learner, batch: Sent) -> tuple[Tensor | Features, Tensor]:
    """Return what the model gets of a batch, and its targets: images after all transforms, or features.

    Images go through the head's own transform, then mixup or cutmix with its soft targets, if any.
    """
    images, target, train = batch.given, batch.target, learner.config.train
    if not isinstance(images, Tensor) or batch.generator is None:
        return images, target
    change = learner.recipe.hooks.batch_transform
    if change is not None:
        images, target = change(images, target, batch.generator if batch.plan is None else batch.plan)
    if not (train.mixup or train.cutmix):
        return images, target
    return mix(
        images,
        target,
        learner.num_classes,
        mixup=train.mixup,
        cutmix=train.cutmix,
        generator=batch.generator,
        partner=batch.partner,
    )


def backward(learner: Learner, loss: torch.Tensor) -> None:
    """Add the loss's gradients, scaled where half precision needs it."""
    (learner.scaler.scale(loss) if learner.scaler else loss).backward()  # type: ignore[no-untyped-call]


def spend_gradients(learner: Learner) -> None:
    """Clip, step, forget the gradients and move the average."""
    if learner.scaler:
        learner.scaler.unscale_(learner.optimizer)
    if learner.config.train.clip_grad:
        clip_gradients(learner.core.parameters(), learner.config.train.clip_grad)
    if learner.scaler:
        learner.scaler.step(learner.optimizer)
        learner.scaler.update()
    else:
        learner.optimizer.step()
    learner.optimizer.zero_grad(set_to_none=True)
    if learner.ema:
        learner.ema.update(learner.core)


def _window(step: int, steps: int, accumulate: int) -> int:
    """Return how many batches share the optimiser step that `step` belongs to (the last may hold fewer)."""
    start = step - step % accumulate
    return min(accumulate, steps - start)


@torch.inference_mode()
def evaluate(
    model: Classifier,
    batches: Iterable[Batch | FeatureBatch],
    spec: PreprocessSpec,
    precision: Precision,
    world: World,
) -> dict[str, np.ndarray]:
    """Return {"index": rows (N,), "target": (N,), "probs": (N, K) float32}, sorted by row, each row once.

    Where an image has several crops its probabilities are averaged. Every process predicts with the first
    one's batch-norm statistics, those that are saved.
    """
    model.eval()
    follow_first_process(model, world)
    rows: dict[str, list[torch.Tensor]] = {"index": [], "target": [], "probs": []}
    for batch in ahead(batches, partial(_shown, spec=spec, precision=precision), precision.device):
        with precision.autocast():
            logits = _answer(model, batch)
        probs = logits.float().softmax(1).view(-1, batch.crops, logits.shape[1]).mean(1)
        rows["index"].append(batch.index)
        rows["target"].append(batch.target)
        rows["probs"].append(probs)
    nothing = {"index": torch.int64, "target": torch.int64, "probs": torch.float32}
    joined = {
        name: torch.cat(parts).cpu() if parts else torch.empty(0, dtype=nothing[name])
        for name, parts in rows.items()
    }
    gathered = gather_rows(joined, world)
    order = np.argsort(np.asarray(gathered["index"]), kind="stable")
    return {name: np.asarray(values)[order] for name, values in gathered.items()}


def _shown(batch: Batch | FeatureBatch, spec: PreprocessSpec, precision: Precision) -> Sent:
    """Return a batch to evaluate on the device; its targets stay on the CPU."""
    if isinstance(batch, FeatureBatch):
        return Sent(batch.to(precision.device).features, batch.target, batch.index, batch.crops)
    return Sent(on_device(batch, spec, precision), batch.target, batch.index, batch.crops)


def _answer(model: Classifier, batch: Sent) -> Tensor:
    return model.infer(batch.given) if isinstance(batch.given, Tensor) else model.head.infer(batch.given)


def follow_first_process(model: Classifier, world: World) -> None:
    """Give every process the first one's buffers: each counts the statistics of its own share of images."""
    follow_first(model.buffers(), world)
