"""The loops: totals, the watch over the loss, soft targets, and evaluation that depends on nothing else."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from finetune.images.augmentation.policies import build_augment
from finetune.images.batches import Batch, EvalBatches, TrainBatches, normalise
from finetune.images.mixing import mix
from finetune.models.heads.base import Hooks
from finetune.seeding import numpy_generator
from finetune.training.data import TrainingData
from finetune.training.epoch_metrics import Totals
from finetune.training.learner import Learner, build_learner
from finetune.training.loop import (
    LossWatch,
    NotFiniteLossError,
    _window,
    evaluate,
    network_input,
    send,
    train_one_epoch,
)
from finetune.training.optimization.distributed import World
from finetune.training.optimization.optim import set_learning_rates
from tests.finetune.quick import QUICK, STEPS, quick

pytestmark = pytest.mark.usefixtures("one_thread")


def learning(task: TrainingData, **changes: Any) -> tuple[Learner, TrainBatches]:
    """Return a learner at its start and its batches."""
    config = quick(**changes)
    learner = build_learner(task, config, World())
    learner.recipe.enter(learner.core, 0)
    augment = build_augment(config.train.augment, task.spec)
    size, seed = config.train.batch_size, config.train.seed
    batches = TrainBatches(
        task.source, task.manifest.label, task.train, augment=augment, batch_size=size, seed=seed
    )
    return learner, batches


def test_the_watch_names_the_first_bad_step_however_late_it_looks():
    watch = LossWatch(every=4, epoch=2)
    losses = [0.5, float("inf"), float("nan")]
    for step, loss in enumerate(losses):
        watch.add(step, torch.tensor(loss), torch.tensor([step, 10 + step]), lr=0.1)
    with pytest.raises(
        NotFiniteLossError, match=r"the loss is inf at step 2 of epoch 3 \(learning rate 0\.1\)"
    ) as told:
        watch.add(3, torch.tensor(1.0), torch.tensor([3]), lr=0.1)
    assert (told.value.epoch, told.value.step, told.value.rows.tolist()) == (2, 1, [1, 11])


def test_the_watch_forgets_what_was_fine():
    watch = LossWatch(every=2, epoch=0)
    for step in range(5):
        watch.add(step, torch.tensor(1.0), torch.tensor([step]), lr=0.1)
    assert len(watch.recent) == 1
    watch.look()
    assert watch.recent == []
    watch.look()


def test_a_window_of_accumulation_ends_with_the_epoch():
    assert [_window(step, 5, 2) for step in range(5)] == [2, 2, 2, 2, 1]
    assert [_window(step, 4, 8) for step in range(4)] == [4] * 4
    assert [_window(step, 3, 1) for step in range(3)] == [1] * 3


def test_an_epoch_is_the_same_in_one_piece_and_in_two(task: TrainingData):
    whole, batches = learning(task, train_mixup=0.4, model_drop_rate=0.3)
    totals = train_one_epoch(whole, batches, 0)
    parted, batches = learning(task, train_mixup=0.4, model_drop_rate=0.3)
    asked: list[int] = []

    def leave(step: int, totals: Totals) -> bool:
        asked.append(step)
        return step == 2

    first = train_one_epoch(parted, batches, 0, after_step=leave)
    assert asked == [1, 2]
    torch.rand(11)  # what happens to torch's own generator in between must not matter
    second = train_one_epoch(parted, batches, 0, start_step=2, totals=Totals(first.sums.clone()))
    assert torch.equal(second.sums, totals.sums)
    for name, value in whole.core.state_dict().items():
        assert torch.equal(parted.core.state_dict()[name], value)


def test_the_rates_follow_the_recipe_step_by_step(task: TrainingData, monkeypatch: pytest.MonkeyPatch):
    learner, batches = learning(task, train_warmup_epochs=1, train_head_lr_multiplier=10.0, train_lr=0.01)
    rates = []

    def spy(optimizer: torch.optim.Optimizer, by_part: dict[str, float]) -> float:
        rates.append(by_part)
        return set_learning_rates(optimizer, by_part)

    monkeypatch.setattr("finetune.training.loop.set_learning_rates", spy)
    train_one_epoch(learner, batches, 0)
    assert [rate["backbone"] for rate in rates] == pytest.approx([0.01 * n / STEPS for n in range(1, 6)])
    assert [rate["head"] for rate in rates] == pytest.approx([0.1 * n / STEPS for n in range(1, 6)])


@pytest.mark.parametrize("mixing", [{"train_mixup": 0.5}, {"train_cutmix": 1.0}])
def test_mixed_pictures_bring_soft_targets_to_the_loss(task: TrainingData, mixing: dict[str, float]):
    learner, batches = learning(task, **mixing)
    seen: list[Tensor] = []

    def loss(logits: Tensor, target: Tensor) -> Tensor:
        seen.append(target)
        return torch.nn.functional.cross_entropy(logits, target)

    learner.objective = replace(learner.objective, loss=loss)
    totals = train_one_epoch(learner, batches, 0)
    assert all(target.shape == (8, 3) and target.dtype == torch.float32 for target in seen)
    assert torch.allclose(torch.cat(seen).sum(1), torch.ones(8 * STEPS))
    assert any(0.01 < float(target.max(1).values.min()) < 0.99 for target in seen)
    assert 0 <= totals.means(World())["train_accuracy"] <= 1


def test_partners_drawn_before_the_copy_are_those_drawn_with_the_rest(task: TrainingData):
    learner, batches = learning(task, train_mixup=0.5, train_cutmix=1.0)
    for step, batch in enumerate(batches.epoch(1)):
        sent = send(learner, batch, 1, step)
        assert sent.partner is not None
        found = network_input(learner, sent)
        generator = numpy_generator(learner.config.train.seed, "batch", 1, step, 0)
        expected = mix(sent.given, batch.target, 3, mixup=0.5, cutmix=1.0, generator=generator)
        assert all(torch.equal(one, other) for one, other in zip(found, expected, strict=True))


def test_a_heads_own_batch_transform_comes_before_mixing(task: TrainingData):
    learner, _ = learning(task)
    hooks = Hooks(
        batch_transform=lambda images, target, rng: (torch.cat([images, -images]), target.repeat(2))
    )
    learner.recipe = replace(learner.recipe, hooks=hooks)
    batch = Batch(torch.ones(2, 4, 4, 3, dtype=torch.uint8), torch.tensor([0, 2]), torch.arange(2))
    images, target = network_input(learner, send(learner, batch, 0, 0))
    assert (len(images), target.tolist()) == (4, [0, 2, 0, 2])
    learner.config = quick(train_mixup=1.0)
    _, soft = network_input(learner, send(learner, batch, 0, 0))
    assert soft.shape == (4, 3)


def evaluated(
    learner: Learner, task: TrainingData, rows: np.ndarray, **options: Any
) -> dict[str, np.ndarray]:
    batches = EvalBatches(task.source, task.manifest.label, rows, task.spec, **{"batch_size": 8, **options})
    return evaluate(learner.core, batches, task.spec, learner.precision, World())


def test_evaluation_shows_each_row_once_in_order_whatever_the_batch_size(task: TrainingData):
    learner, batches = learning(task)
    train_one_epoch(learner, batches, 0)
    rows = np.array([40, 3, 17, 59, 8, 0, 21])
    found = evaluated(learner, task, rows)
    assert found["index"].tolist() == sorted(rows.tolist())
    assert found["target"].tolist() == task.manifest.label[np.sort(rows)].tolist()
    assert found["probs"].dtype == np.float32
    np.testing.assert_allclose(found["probs"].sum(1), 1, atol=1e-6)
    for size in (1, 2, 7, 64):
        np.testing.assert_allclose(
            evaluated(learner, task, rows, batch_size=size)["probs"], found["probs"], atol=1e-6
        )
    workers = evaluated(learner, task, rows, workers=2)
    np.testing.assert_array_equal(workers["probs"], found["probs"])


def test_evaluation_leaves_no_mark_on_the_model(task: TrainingData):
    learner, _ = learning(task)
    before = {name: value.clone() for name, value in learner.core.state_dict().items()}
    evaluated(learner, task, task.val)
    assert not learner.core.training
    assert all(torch.equal(before[name], value) for name, value in learner.core.state_dict().items())


def test_the_crops_of_a_picture_are_averaged(task: TrainingData):
    learner, batches = learning(task)
    train_one_epoch(learner, batches, 0)
    both = evaluated(learner, task, task.val, crops="flip")["probs"]
    centre = evaluated(learner, task, task.val)["probs"]
    assert both.shape == centre.shape
    assert not np.allclose(both, centre)
    batches = EvalBatches(task.source, task.manifest.label, task.val, task.spec, crops="flip", batch_size=15)
    shown = next(iter(batches)).images[::2].flip(2)
    with torch.inference_mode():
        mirrored = learner.core.infer(normalise(shown, task.spec.mean, task.spec.std)).softmax(1).numpy()
    np.testing.assert_allclose(both, (centre + mirrored) / 2, atol=1e-5)


def test_no_rows_give_no_predictions(task: TrainingData):
    learner, _ = learning(task)
    found = evaluated(learner, task, np.arange(0))
    assert [len(found[name]) for name in ("index", "target", "probs")] == [0, 0, 0]


def test_training_is_the_same_with_and_without_worker_processes(task: TrainingData):
    learner, batches = learning(task, train_augment="strong")
    here = train_one_epoch(learner, batches, 0).sums
    learner, _ = learning(task, train_augment="strong")
    augment = build_augment("strong", task.spec)
    batches = TrainBatches(
        task.source, task.manifest.label, task.train, augment=augment, batch_size=8, seed=0, workers=2
    )
    assert torch.equal(train_one_epoch(learner, batches, 0).sums, here)


def test_gradients_are_clipped_to_the_configured_norm(task: TrainingData, monkeypatch: pytest.MonkeyPatch):
    learner, batches = learning(task, train_clip_grad=1e-3)
    norms: list[float] = []
    step = learner.optimizer.step

    def spy() -> None:
        grads = [p.grad.flatten() for p in learner.core.parameters() if p.grad is not None]
        norms.append(float(torch.cat(grads).norm()))
        step()

    monkeypatch.setattr(learner.optimizer, "step", spy)
    train_one_epoch(learner, batches, 0)
    assert len(norms) == STEPS
    assert max(norms) <= 1e-3 * 1.001


def test_quick_runs_are_in_float32_on_the_processor(task: TrainingData, tmp_path: Path):
    learner, _ = learning(task)
    assert (learner.precision.dtype_name, learner.precision.device.type) == ("float32", "cpu")
    assert QUICK.run.precision == "float32"
