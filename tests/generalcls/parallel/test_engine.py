from __future__ import annotations

import os
import signal
from functools import partial

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from core_losses import build_loss, log_odds
from core_losses.margin import annealed_blend, build_margin_rule, margin_logits
from finetune.errors import ResourceError
from finetune.seeding import epoch_order
from generalcls.config import GeneralTrainConfig
from generalcls.parallel import engine
from generalcls.parallel.device_data import Scaling
from generalcls.parallel.epoch_metrics import SUMS, epoch_row, step_sums
from generalcls.parallel.objectives import Learned
from generalcls.parallel.optimizers import equal_runs, rate_factor
from tests.generalcls.small_study import arms, images, network, training

WORDS = ("cel", "nllr", "crl", "focal", "cce", "dualce", "tce", "cel:label_smoothing=0.1")


def trained(found):
    """Run a training and return its models' weights and test answers."""
    found.run()
    return [found.stack.model_state(m) for m in range(found.stack.count)], found.evaluate()


def assert_equal_models(some, others, tolerance: float = 1e-12):
    for one, other in zip(some, others, strict=True):
        assert one.keys() == other.keys()
        for name, value in one.items():
            torch.testing.assert_close(value, other[name], rtol=tolerance, atol=tolerance)


def trained_plainly(
    name: str, arm, seed: int, optimizer_name: str = "sgd", epochs: int = 2, lr: float = 0.1
) -> dict[str, torch.Tensor]:
    """Return the weights after the plainest loop: no stack, torch's own optimiser and module calls."""
    data = images()
    scaling = Scaling.of(data.images, "standard")
    values = (torch.from_numpy(data.images).double() / 255 - scaling.mean[0]) / scaling.sd[0]
    inputs, target = values.movedim(-1, 1), torch.from_numpy(data.target)
    model = network(name, seed).double().train()
    loss = build_loss(arm.loss.name, label_smoothing=arm.loss.label_smoothing, **arm.loss.parameters())
    decayed = [p for p in model.parameters() if p.ndim > 1]
    others = [p for p in model.parameters() if p.ndim <= 1]
    groups = [{"params": decayed, "weight_decay": 1e-4}, {"params": others, "weight_decay": 0.0}]
    optimizer = {
        "sgd": partial(torch.optim.SGD, momentum=0.9, nesterov=True, fused=False),
        "adam": partial(torch.optim.Adam, fused=False),
        "adamw": partial(torch.optim.AdamW, fused=False),
        "rmsprop": partial(torch.optim.RMSprop, alpha=0.9, eps=1e-7),
        "adadelta": partial(torch.optim.Adadelta, rho=0.95, eps=1e-7),
    }[optimizer_name](groups, lr=lr)
    steps = len(target) // 8
    for epoch in range(epochs):
        order = epoch_order(len(target), seed, epoch)
        for step in range(steps):
            done = epoch * steps + step
            rate = lr * 0.1 ** ((done >= steps * epochs * 0.5) + (done >= round(steps * epochs * 0.75)))
            for group in optimizer.param_groups:
                group["lr"] = rate
            rows = order[step * 8 : step * 8 + 8]
            optimizer.zero_grad()
            loss(model(inputs[rows]), target[rows]).backward()
            optimizer.step()
    return model.state_dict()


@pytest.mark.parametrize("name", ["mlp", "norm"])
@pytest.mark.parametrize("side_by_side", [True, False])
def test_models_together_equal_the_plainest_loop(name: str, side_by_side: bool):
    cells = [(arm, seed) for arm in arms(*WORDS) for seed in (0, 4)]
    models, _ = trained(training(name, cells, side_by_side=side_by_side))
    assert_equal_models(models, [trained_plainly(name, arm, seed) for arm, seed in cells])


@pytest.mark.parametrize("optimizer", ["adam", "adamw", "rmsprop", "adadelta"])
@pytest.mark.parametrize("side_by_side", [True, False])
def test_every_optimiser_does_what_torchs_plain_one_does(optimizer: str, side_by_side: bool):
    cells = [(arm, seed) for arm in arms("cel", "crl") for seed in (0, 4)]
    models, _ = trained(training("norm", cells, side_by_side=side_by_side, optimizer=optimizer, lr=0.01))
    plain = [trained_plainly("norm", arm, seed, optimizer, lr=0.01) for arm, seed in cells]
    assert_equal_models(models, plain, 1e-9)


@pytest.mark.parametrize("name", ["mnist_cnn", "norm", "logistic"])
@pytest.mark.parametrize("options", [{}, {"augment": "crop_flip", "optimizer": "rmsprop", "lr": 1e-3}])
def test_together_equals_apart_dropout_and_augmentation_included(name: str, options: dict):
    cells = [(arm, seed) for arm in arms("cel", "crl", "lsoftmax") for seed in (0, 1)]
    together, answers = trained(training(name, cells, side_by_side=True, **options))
    for m, cell in enumerate(cells):
        for side_by_side in (True, False):
            alone, own = trained(training(name, [cell], side_by_side=side_by_side, **options))
            assert_equal_models(alone, together[m : m + 1], 1e-11)
            np.testing.assert_allclose(own[0], answers[m], rtol=1e-5, atol=1e-5)


@pytest.mark.exhaustive
@pytest.mark.parametrize("name", ["norm", "mnist_cnn"])
def test_a_compiled_step_learns_the_same(name: str):
    cells = [(arm, seed) for arm in arms("cel", "crl") for seed in (0, 1)]
    plain, _ = trained(training(name, cells, side_by_side=True))
    compiled, _ = trained(training(name, cells, side_by_side=True, compiled="on"))
    assert_equal_models(compiled, plain)


@pytest.mark.parametrize("optimizer", ["sgd", "adam", "adamw", "rmsprop", "adadelta"])
def test_each_model_learns_at_its_own_rate(optimizer: str):
    cel = arms("cel")[0]
    cells, factors = [(cel, 0), (cel, 1), (cel, 2)], [1.0, 1.5, 1.5]
    together, _ = trained(
        training("mlp", cells, factors=factors, side_by_side=True, optimizer=optimizer, lr=0.01)
    )
    for m, (cell, factor) in enumerate(zip(cells, factors, strict=True)):
        alone, _ = trained(training("mlp", [cell], side_by_side=True, optimizer=optimizer, lr=0.01 * factor))
        assert_equal_models(alone, together[m : m + 1])


def test_pairing_same_start_same_batches_same_dropout():
    cells = [(arm, seed) for arm in arms("cel", "nllr") for seed in (0, 1)]
    found = training("mnist_cnn", cells, side_by_side=True)
    for name, value in found.stack.params.items():
        assert torch.equal(value[0], value[2]), name
        assert torch.equal(value[1], value[3]), name
        assert value.ndim == 2 or not torch.equal(value[0], value[1]), name
    assert found.seeds == (0, 1)
    assert found.rows == [0, 1, 0, 1]
    masks = found._masks(8, 0)
    assert {mask.shape[0] for mask in masks.values()} == {2}
    assert all(torch.equal(mask, found._masks(8, 0)[name]) for name, mask in masks.items())
    assert not any(torch.equal(mask, found._masks(8, 1)[name]) for name, mask in masks.items())
    for name, (p, _) in found.dropouts.items():
        assert abs(float(masks[name].float().mean()) - (1 - p)) < 0.1


def learned(losses: torch.Tensor, logits: torch.Tensor, target: torch.Tensor) -> Learned:
    """Return what autograd found."""
    push = -target.shape[1] * logits.grad.gather(-1, target[..., None])[..., 0]
    odds = log_odds(logits.detach().flatten(0, 1), target.flatten()).view(target.shape)
    return Learned(losses.detach(), logits.grad, push, odds, logits.detach().argmax(-1) == target)


def test_the_sums_of_a_step_are_the_factors_of_the_paper():
    torch.manual_seed(0)
    logits = (4 * torch.randn(2, 50, 5, dtype=torch.float64)).requires_grad_()
    target = torch.randint(0, 5, (2, 50))
    alpha, beta = 1.5, 1.0
    loss = build_loss("crl", alpha=alpha, beta=beta, reduction="none")
    losses = loss(logits.flatten(0, 1), target.flatten()).view(2, 50).mean(1)
    losses.sum().backward()
    sums = step_sums(learned(losses, logits, target))
    p = logits.detach().softmax(-1).gather(-1, target[..., None])[..., 0]
    factor = 1 + beta * p / (alpha + 1 - p)
    torch.testing.assert_close(sums[:, 3] / sums[:, 4], factor.mean(1))
    torch.testing.assert_close(sums[:, 5] / sums[:, 6], ((1 - p) * factor).sum(1) / (1 - p).sum(1))
    torch.testing.assert_close(sums[:, 0] / sums[:, 2], losses.detach())
    right = (logits.argmax(-1) == target).sum(1)
    assert sums[:, 1].tolist() == right.tolist()


def test_cross_entropy_has_a_factor_of_one_however_sure_it_is():
    logits = torch.tensor([[[40.0, 0.0], [-40.0, 0.0], [300.0, 0.0]]], requires_grad=True)
    target = torch.zeros(1, 3, dtype=torch.int64)
    losses = build_loss("cel", reduction="none")(logits[0], target[0]).mean()[None]
    losses.sum().backward()
    sums = step_sums(learned(losses, logits, target))[0]
    assert sums[4] == 2  # 1 - p of the last image is below the number format: it has no factor
    assert float(sums[3] / sums[4]) == pytest.approx(1, rel=1e-5)
    assert float(log_odds(logits[0].detach(), target[0])[2]) == 300


def test_rates_follow_their_schedules():
    step = GeneralTrainConfig(milestones=(0.5, 0.75))
    assert [rate_factor(step, at, 8) for at in (0, 3, 4, 5, 6, 7)] == pytest.approx(
        [1, 1, 0.1, 0.1, 0.01, 0.01]
    )
    inverse = GeneralTrainConfig(schedule="inverse", decay=0.5)
    assert [rate_factor(inverse, at, 8) for at in (0, 2)] == [1, 0.5]


@pytest.mark.parametrize("optimizer", ["sgd", "adamw", "rmsprop"])
def test_a_killed_training_goes_on_to_the_same_weights(tmp_path, optimizer: str):
    cells = [(arm, seed) for arm in arms("cel", "crl") for seed in (0, 1)]
    start = partial(training, "mnist_cnn", cells, side_by_side=True, optimizer=optimizer, lr=0.01)
    unbroken, answers = trained(start())

    class KilledError(Exception):
        pass

    def kill(images_seen: int) -> None:
        nonlocal calls
        calls += 1
        if calls == 7:  # in the middle of the second epoch
            first.save()
        if calls == 8:
            raise KilledError

    calls = 0
    first = start(checkpoint=tmp_path / "state.pt")
    with pytest.raises(KilledError):
        first.run(kill)
    second = start(checkpoint=tmp_path / "state.pt")
    assert second.restore()
    assert (second.epoch, second.step) == (1, 2)
    resumed, own = trained(second)
    assert_equal_models(resumed, unbroken, 0)
    assert (own == answers).all()
    assert len(second.history[0]) == 2
    other = training("mnist_cnn", cells[:2], side_by_side=True, checkpoint=tmp_path / "state.pt")
    assert not other.restore()


def test_a_signal_saves_and_leaves(tmp_path, monkeypatch):
    found = training("mlp", [(arms("cel")[0], 0)], side_by_side=True, checkpoint=tmp_path / "in" / "state.pt")

    class Asked(engine.StopRequest):
        requested = True
        signal_name = "SIGTERM"

        def __init__(self):
            super().__init__()
            self.requested, self.signal_name = True, "SIGTERM"

    monkeypatch.setattr(engine, "StopRequest", Asked)
    with pytest.raises(engine.InterruptedStudyError, match=r"run\.resume auto"):
        found.run()
    assert found.checkpoint.is_file()
    assert found.step == 1


@pytest.mark.usefixtures("as_in_a_terminal")
def test_a_signal_after_the_last_step_is_heard_too(tmp_path):
    cells, place = [(arms("cel")[0], 0)], tmp_path / "state.pt"
    found = training("mlp", cells, side_by_side=True, checkpoint=place)

    def ask_at_the_end() -> None:
        if found.epoch == found.config.epochs:
            os.kill(os.getpid(), signal.SIGTERM)

    with pytest.raises(engine.InterruptedStudyError, match=r"SIGTERM.*run\.resume auto"):
        found.run(after_epoch=ask_at_the_end)
    again = training("mlp", cells, side_by_side=True, checkpoint=place)
    assert again.restore()
    resumed, answers = trained(again)
    assert_equal_models(resumed, [found.stack.model_state(0)], 0)
    assert (answers == found.evaluate()).all()


def test_equal_runs_and_rows():
    assert equal_runs([1.0]) == [(0, 1)]
    assert equal_runs([2.0, 2.0, 1.0, 2.0]) == [(0, 2), (2, 3), (3, 4)]
    sums = dict(zip(SUMS, (8.0, 3.0, 4.0, 0.0, 0.0, 0.0, 0.0), strict=True))
    row = epoch_row(2, sums, None)
    assert row == {
        "epoch": 2,
        "train_loss": 2.0,
        "train_accuracy": 0.75,
        "gradient_factor": None,
        "gradient_ratio": None,
    }
    assert epoch_row(2, sums, 12.5)["test_error"] == 12.5


def test_the_test_answers_come_in_the_images_order():
    found = training("mlp", [(arms("cel")[0], 0), (arms("cel")[0], 1)], side_by_side=True)
    whole = found.evaluate()
    found.test_batch = 7
    np.testing.assert_allclose(found.evaluate(), whole, rtol=1e-6, atol=1e-6)
    plain = network("mlp", 1).double().eval()
    data, scaling = images(20, seed=1), Scaling.of(images().images, "standard")
    values = (torch.from_numpy(data.images).double() / 255 - scaling.mean[0]) / scaling.sd[0]
    expected = F.linear(plain.features(values.movedim(-1, 1)), plain.classifier.weight, plain.classifier.bias)
    np.testing.assert_allclose(whole[1], expected.detach().numpy(), rtol=1e-5, atol=1e-6)


def test_a_margin_is_blended_in_by_the_steps_of_the_whole_training():
    [arm] = arms("lsoftmax:margin=2:blend_start=20:blend_rate=0.5:blend_lowest=0.1")
    found = training("logistic", [(arm, 3)], side_by_side=True, schedule="constant", weight_decay=0.0)
    [model], _ = trained(found)
    data = images()
    scaling = Scaling.of(data.images, "standard")
    values = (torch.from_numpy(data.images).double() / 255 - scaling.mean[0]) / scaling.sd[0]
    inputs, target = values.movedim(-1, 1).flatten(1), torch.from_numpy(data.target)
    plain = network("logistic", 3).double()
    optimizer = torch.optim.SGD(plain.parameters(), lr=0.1, momentum=0.9, nesterov=True)
    rule, done = build_margin_rule("lsoftmax", margin=2), 0
    for epoch in range(2):
        order = epoch_order(len(target), 3, epoch)
        for step in range(5):
            rows = torch.from_numpy(order[step * 8 : step * 8 + 8])
            blend = annealed_blend(done, start=20.0, rate=0.5, power=1.0, lowest=0.1)
            logits = margin_logits(rule, inputs[rows], plain.classifier.weight, target[rows], blend=blend)
            optimizer.zero_grad()
            F.cross_entropy(logits, target[rows]).backward()
            optimizer.step()
            done += 1
    torch.testing.assert_close(model["classifier.weight"], plain.classifier.weight.detach())
    assert [row["blend"] for row in found.history[0]] == pytest.approx([20 / 3, 20 / 5.5])
    other = training("logistic", [(arms("cel")[0], 0)], side_by_side=True)
    other.run()
    assert "blend" not in other.history[0][0]


@pytest.mark.parametrize("optimizer", ["rmsprop", "adadelta"])
def test_keras_examples_have_keras_constants(optimizer: str):
    lr, epsilon = (0.01, 1e-7)
    options = {"optimizer": optimizer, "lr": lr, "schedule": "constant", "weight_decay": 0.0, "epochs": 1}
    found = training("logistic", [(arms("cel")[0], 0)], side_by_side=True, **options)
    weight = network("logistic", 0).double().classifier.weight.detach()
    squares, updates = torch.zeros_like(weight), torch.zeros_like(weight)
    plan = found.batches.epoch(0)
    for step in range(3):
        found.step = step
        found.train_step(plan)
        grad = found.stack.gradient("classifier.weight")[0]
        if optimizer == "rmsprop":
            squares = 0.9 * squares + 0.1 * grad**2
            weight = weight - lr * grad / (squares.sqrt() + epsilon)
        else:
            squares = 0.95 * squares + 0.05 * grad**2
            update = grad * (updates + epsilon).sqrt() / (squares + epsilon).sqrt()
            updates = 0.95 * updates + 0.05 * update**2
            weight = weight - lr * update
        torch.testing.assert_close(found.stack.params["classifier.weight"][0].detach(), weight)


def test_the_ratio_of_sums_survives_a_stop(tmp_path):
    [crl] = arms("crl")
    unbroken = training("mlp", [(crl, 0)], side_by_side=True)
    unbroken.run()
    first = training("mlp", [(crl, 0)], side_by_side=True, checkpoint=tmp_path / "state.pt")

    def stop_in_the_second_epoch(images_seen: int) -> None:
        if first.epoch == 1 and first.step == 3:
            first.save()
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        first.run(stop_in_the_second_epoch)
    second = training("mlp", [(crl, 0)], side_by_side=True, checkpoint=tmp_path / "state.pt")
    assert second.restore()
    second.run()
    assert second.gradient_ratio("crl", 0) == unbroken.gradient_ratio("crl", 0)
    assert unbroken.gradient_ratio("crl", 0) == pytest.approx(1.2, abs=0.25)


def test_a_checkpoint_of_other_data_or_a_damaged_one_is_not_gone_on_from(tmp_path, capsys):
    def found(**identity):
        own = training("mlp", [(arms("cel")[0], 0)], side_by_side=True, checkpoint=tmp_path / "state.pt")
        own.identity = identity
        return own

    first = found(data="here")
    first.train_step(first.batches.epoch(0))
    first.step = 1
    first.save()
    assert found(data="here").restore()
    assert not found(data="there").restore()
    assert "other data" in capsys.readouterr().out
    file = tmp_path / "state.pt"
    file.write_bytes(file.read_bytes()[:-40])
    assert not found(data="here").restore()
    assert "begin again" in capsys.readouterr().out


def test_where_memory_runs_out_fewer_images_are_tested_at_once(monkeypatch, capsys):
    found = training("mlp", [(arms("cel")[0], 0)], side_by_side=True)
    whole, answers = found.evaluate(), found._answers

    def scarce(first: int, last: int) -> torch.Tensor:
        if last - first > 125:
            raise RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to allocate 9 bytes.")
        return answers(first, last)

    monkeypatch.setattr(found, "_answers", scarce)
    assert np.array_equal(found.evaluate(), whole)
    assert found.test_batch == 125
    told = capsys.readouterr().out.splitlines()
    assert [line.partition(":")[0] for line in told] == ["notice", "notice"]
    assert "testing on 500 images at once: from now on 250" in told[0]
    found.test_batch = 1
    monkeypatch.setattr(found, "_answers", lambda first, last: scarce(0, 999))
    with pytest.raises(RuntimeError, match="allocate"):
        found.evaluate()


def test_a_step_that_cannot_be_compiled_goes_on_without(monkeypatch, capsys):
    def compiled(work, **_options):
        def fails(*given):
            work(*given)  # statistics and sums are as they are in mid-step
            raise RuntimeError("Failed to find C compiler. Please specify via CC environment variable.")

        return fails

    monkeypatch.setattr(torch, "compile", compiled)
    cells = [(arm, 0) for arm in arms("cel", "crl")]
    plain = training("norm", cells, side_by_side=True, epochs=1)
    plain.run()
    found = training("norm", cells, side_by_side=True, epochs=1, compiled="auto")
    found.run()
    told = [line for line in capsys.readouterr().out.splitlines() if "compile" in line]
    assert len(told) == 1
    assert "not compiled" in told[0]
    assert "C compiler" in told[0]
    assert found.history == plain.history
    assert_equal_models([found.stack.model_state(0)], [plain.stack.model_state(0)], 0)
    with pytest.raises(ResourceError, match="cannot be compiled"):
        training("norm", cells, side_by_side=True, epochs=1, compiled="on").run()


@pytest.mark.exhaustive
def test_a_step_is_one_graph_whatever_its_number(monkeypatch):
    graphs, plainly = [], torch.compile

    def keep(graph, inputs):
        graphs.append(graph)
        return graph

    monkeypatch.setattr(torch, "compile", lambda work, **options: plainly(work, backend=keep, **options))
    cells = [(arm, 0) for arm in arms("cel", "crl", "cel:label_smoothing=0.1", "lsoftmax")]
    found = training("logistic", cells, side_by_side=True, compiled="on", augment="crop_flip")
    found.run()
    assert len(graphs) == 1
    plain = training("logistic", cells, side_by_side=True, augment="crop_flip")
    plain.run()
    assert_equal_models([found.stack.model_state(3)], [plain.stack.model_state(3)], 1e-12)
    for own, other in zip(found.history, plain.history, strict=True):
        assert own[-1]["train_loss"] == pytest.approx(other[-1]["train_loss"], rel=1e-12)


@pytest.mark.parametrize("told", ["of another torch", "CUDA out of memory. Tried to allocate 2.00 GiB."])
def test_a_checkpoint_that_loads_in_part_leaves_no_trace(tmp_path, monkeypatch, told: str):
    start = partial(
        training, "logistic", [(arms("crl")[0], 0)], side_by_side=False, checkpoint=tmp_path / "a.pt"
    )
    trained(first := start())
    first.save()
    again, load = start(), torch.optim.SGD.load_state_dict
    fresh = again.stack.model_state(0)

    def refuse(own: torch.optim.SGD, state: dict) -> None:
        if state["state"]:
            raise RuntimeError(told)
        load(own, state)

    monkeypatch.setattr(torch.optim.SGD, "load_state_dict", refuse)
    if "memory" in told:  # which says nothing against the checkpoint
        with pytest.raises(RuntimeError, match="out of memory"):
            again.restore()
    else:
        assert not again.restore()
    assert_equal_models([again.stack.model_state(0)], [fresh], 0)
    assert (again.epoch, again.history) == (0, [[]])
