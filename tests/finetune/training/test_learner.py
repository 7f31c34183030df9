"""From a configuration to what learns: the first weights, class weights, states, and finished models."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from finetune.errors import ModelFileError
from finetune.models.bundle import load_bundle, save_bundle, weights_hash
from finetune.training.config import HeadConfig, LossConfig, to_dict
from finetune.training.data import TrainingData
from finetune.training.learner import (
    build_class_loss,
    build_learner,
    build_objective,
    class_weights,
    load_classifier,
    load_optimizer,
    loss_settings,
    spec_of,
)
from finetune.training.optimization.distributed import World
from finetune.training.optimization.optim import build_optimizer
from tests.finetune.quick import QUICK, quick

pytestmark = pytest.mark.usefixtures("one_thread")


def test_the_first_weights_depend_on_the_seed_alone(task: TrainingData):
    torch.rand(5)
    first = weights_hash(build_learner(task, QUICK, World()).core.state_dict())
    other = weights_hash(build_learner(task, quick(train_lr=0.5, train_epochs=9), World()).core.state_dict())
    assert first == other
    assert weights_hash(build_learner(task, quick(train_seed=1), World()).core.state_dict()) != first


def test_entering_a_stage_sets_its_weight_decay_on_what_decays(task: TrainingData):
    config = quick(train_frozen_epochs=1, train_frozen_weight_decay=0.3, train_weight_decay=0.0)
    learner = build_learner(task, config, World())
    shapes = [{parameter.ndim > 1 for parameter in g["params"]} for g in learner.optimizer.param_groups]
    for epoch, decay in ((0, 0.3), (1, 0.0), (0, 0.3)):
        learner.enter_stage(epoch)
        found = [group["weight_decay"] for group in learner.optimizer.param_groups]
        assert found == [decay if shape == {True} else 0.0 for shape in shapes]


def test_the_preprocessing_of_a_configuration():
    plain = spec_of(QUICK)
    assert (plain.resize, plain.image_size) == ("warp", 32)
    config = replace(QUICK, model=replace(QUICK.model, resize="short", image_size=448, resize_ratio=8 / 7))
    spec = spec_of(config)
    assert (spec.resize, spec.image_size, spec.resize_size) == ("short", 448, 512)
    assert spec.mean == plain.mean


def test_class_weights_worked_by_hand():
    counts = np.array([1, 3, 0])
    inverse = class_weights(counts, "inverse")
    # 1 / n = 1, 1/3, 1; their sum over the four images is 2, so each is doubled.
    np.testing.assert_allclose(inverse, [2, 2 / 3, 2])
    root = class_weights(counts, "inverse_sqrt")
    np.testing.assert_allclose(root, np.array([1, 3**-0.5, 1]) * 4 / (1 + 3**0.5))
    for weights in (inverse, root):
        assert (weights * counts).sum() / counts.sum() == pytest.approx(1)


def test_the_class_loss_weighs_the_training_rows_only(task: TrainingData):
    label = task.manifest.label
    rows = np.concatenate(
        [np.flatnonzero(label == 0)[:2], np.flatnonzero(label == 1)[:4], np.flatnonzero(label == 2)[:4]]
    )
    loss = build_class_loss(LossConfig(class_weights="inverse"), replace(task, train=rows))
    torch.testing.assert_close(loss.weight, torch.tensor([10 / 6, 5 / 6, 5 / 6]))
    assert build_class_loss(LossConfig(), task).weight is None


def test_the_loss_gets_its_own_parameters_and_smoothing(task: TrainingData):
    loss = build_class_loss(LossConfig("crl", {"alpha": 2, "beta": 0.5}, label_smoothing=0.1), task)
    assert (loss.alpha, loss.beta, loss.label_smoothing) == (2.0, 0.5, 0.1)


def test_single_classifiers_get_the_losses_chosen_for_them(task: TrainingData):
    config = replace(QUICK, loss=LossConfig("crl", {"alpha": 2.0}, branches={"main": "cel"}))
    objective = build_objective(config, task, torch.device("cpu"))
    assert (type(objective.loss).__name__, objective.loss.alpha) == ("CompetingRatioLoss", 2.0)
    assert {name: type(loss).__name__ for name, loss in objective.branch_losses.items()} == {
        "main": "CrossEntropyLoss"
    }
    assert loss_settings(config.loss)["branches"] == {"main": "cel"}


def test_a_state_put_back_is_the_state(task: TrainingData):
    config = quick(train_ema=0.9)
    learner = build_learner(task, config, World())
    batch = torch.randn(4, 3, 32, 32)
    learner.core(batch).logits.sum().backward()
    learner.optimizer.step()
    assert learner.ema is not None
    learner.ema.update(learner.core)
    other = build_learner(task, quick(train_ema=0.9, train_seed=5), World(), from_checkpoint=True)
    other.load_state(learner.state())
    assert weights_hash(other.core.state_dict()) == weights_hash(learner.core.state_dict())
    assert other.ema is not None
    assert weights_hash(other.ema.values) == weights_hash(learner.ema.values)
    assert other.ema.updates == 1
    mine, theirs = learner.optimizer.state_dict()["state"], other.optimizer.state_dict()["state"]
    assert mine.keys() == theirs.keys()
    assert all(torch.equal(mine[key]["momentum_buffer"], theirs[key]["momentum_buffer"]) for key in mine)


def test_an_optimiser_takes_moments_and_keeps_its_own_options():
    def sgd(momentum: float, decay: float) -> tuple[torch.nn.Parameter, torch.optim.Optimizer]:
        weight = torch.nn.Parameter(torch.ones(3))
        group = {"params": [weight], "part": "head", "lr": 0.1, "weight_decay": decay}
        return weight, build_optimizer("sgd", [group], lr=0.1, momentum=momentum)

    weight, old = sgd(0.9, 0.0)
    weight.grad = torch.full((3,), 2.0)
    old.step()
    fresh, new = sgd(0.5, 0.3)
    load_optimizer(new, old.state_dict())
    assert new.param_groups[0]["momentum"] == 0.5
    assert new.param_groups[0]["weight_decay"] == 0.3
    assert new.state[fresh]["momentum_buffer"].tolist() == [2.0, 2.0, 2.0]
    adam = build_optimizer("adamw", [{"params": [fresh], "part": "head"}], lr=0.1)
    with pytest.raises(ValueError, match="another optimiser"):
        load_optimizer(adam, old.state_dict())


def test_the_average_is_in_the_model_only_inside_the_context(task: TrainingData):
    learner = build_learner(task, quick(train_ema=0.5), World())
    assert learner.ema is not None
    own = weights_hash(learner.core.state_dict())
    with torch.no_grad():
        learner.ema.values["head.classifier.bias"].fill_(7.0)
    with learner.averaged():
        assert float(learner.core.state_dict()["head.classifier.bias"][0]) == 7.0
    assert weights_hash(learner.core.state_dict()) == own
    plain = build_learner(task, QUICK, World())
    with plain.averaged():
        assert weights_hash(plain.core.state_dict()) == own


def finished(task: TrainingData, file: Path) -> torch.nn.Module:
    """Write an untrained finished model and return it."""
    config = replace(QUICK, head=HeadConfig(options={"dropout": 0.3}))
    core = build_learner(task, config, World()).core.eval()
    facts = {
        "class_names": list(task.manifest.class_names),
        "preprocess": task.spec.to_dict(),
        "model": to_dict(config.model),
        "head": to_dict(config.head),
    }
    save_bundle(file, core.state_dict(), facts)
    return core


def test_a_finished_model_comes_back_ready_to_answer(task: TrainingData, tmp_path: Path):
    core = finished(task, tmp_path / "model.safetensors")
    again, spec, facts = load_classifier(tmp_path / "model.safetensors")
    assert not again.training
    assert spec == task.spec
    assert facts["class_names"] == ["r", "g", "b"]
    images = torch.randn(2, 3, 32, 32)
    with torch.inference_mode():
        torch.testing.assert_close(again.infer(images), core.infer(images), rtol=1e-5, atol=1e-7)


@pytest.mark.parametrize("change", [{"model": None}, {"class_names": ["r", "g"]}])
def test_a_finished_model_that_contradicts_its_facts_is_refused(
    task: TrainingData, tmp_path: Path, change: dict[str, object]
):
    finished(task, tmp_path / "a.safetensors")
    state, facts = load_bundle(tmp_path / "a.safetensors")
    told = {name: value for name, value in {**facts, **change}.items() if value is not None}
    save_bundle(tmp_path / "b.safetensors", state, told)
    with pytest.raises(ModelFileError, match=r"b\.safetensors does not hold the model"):
        load_classifier(tmp_path / "b.safetensors")


def test_torch_places_the_counts_of_steps_by_the_options_of_now(monkeypatch: pytest.MonkeyPatch):
    weight = torch.nn.Parameter(torch.ones(2))
    former = torch.optim.AdamW([weight], lr=0.1, fused=False)  # as on a device without a fused kernel
    weight.sum().backward()
    former.step()
    now = torch.optim.AdamW([weight], lr=0.2, fused=True)
    given = []
    plain = torch.optim.AdamW.load_state_dict
    monkeypatch.setattr(
        torch.optim.AdamW, "load_state_dict", lambda own, state: (given.append(state), plain(own, state))[1]
    )
    load_optimizer(now, former.state_dict())
    assert [(group["fused"], group["lr"]) for group in given[0]["param_groups"]] == [(True, 0.2)]
    assert now.state[weight]["step"] == 1
