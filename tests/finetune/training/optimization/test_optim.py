import math

import pytest
import torch
from torch import nn

from finetune.errors import UsageError
from finetune.models.classifier import build_classifier
from finetune.training.optimization.optim import (
    Ema,
    build_optimizer,
    clip_gradients,
    learning_rate_factor,
    parameter_groups,
    set_learning_rates,
)


@pytest.fixture(autouse=True)
def _one_thread():
    torch.set_num_threads(1)
    torch.manual_seed(0)


def classifier(backbone="resnet18", **options):
    return build_classifier(backbone, "linear", 3, weights="none", **options)


def test_every_parameter_is_in_one_group_and_decay_spares_norms_and_biases():
    model = classifier()
    groups = parameter_groups(model, lr=0.1, head_lr_multiplier=10, weight_decay=1e-4)
    assert sorted(p.data_ptr() for g in groups for p in g["params"]) == sorted(
        p.data_ptr() for p in model.parameters()
    )
    found = {(g["part"], g["weight_decay"] > 0): (g["lr"], {p.ndim for p in g["params"]}) for g in groups}
    assert found == {
        ("backbone", True): (0.1, {4}),
        ("backbone", False): (0.1, {1}),
        ("head", True): (1.0, {2}),
        ("head", False): (1.0, {1}),
    }


def test_decay_spares_the_tables_that_a_transformers_authors_spare():
    model = classifier("vit_tiny_patch16_224", image_size=32)
    spared = [
        g["params"] for g in parameter_groups(model, lr=0.1, weight_decay=0.1) if g["weight_decay"] == 0
    ]
    pointers = {p.data_ptr() for group in spared for p in group}
    assert model.backbone.model.pos_embed.data_ptr() in pointers
    assert model.backbone.model.cls_token.data_ptr() in pointers
    assert model.backbone.model.blocks[0].mlp.fc1.weight.data_ptr() not in pointers


@pytest.mark.parametrize("momentum", [0.0, 0.9])
def test_sgd_follows_nesterovs_formula(momentum):
    weight = nn.Parameter(torch.tensor([1.0, -2.0]))
    optimizer = build_optimizer("sgd", [{"params": [weight], "part": "head"}], lr=0.1, momentum=momentum)
    expected, velocity = weight.detach().clone(), torch.zeros(2)
    for gradient in (torch.tensor([1.0, 3.0]), torch.tensor([-2.0, 0.5])):
        weight.grad = gradient.clone()
        optimizer.step()
        velocity = momentum * velocity + gradient
        expected -= 0.1 * (gradient + momentum * velocity)
    torch.testing.assert_close(weight.detach(), expected)


def test_optimizers_are_refused_by_name():
    assert isinstance(
        build_optimizer("adamw", [{"params": [nn.Parameter(torch.ones(1))]}], lr=1e-3), torch.optim.AdamW
    )
    with pytest.raises(UsageError, match="no optimizer is called 'adam'; there is sgd, adamw"):
        build_optimizer("adam", [{"params": [nn.Parameter(torch.ones(1))]}], lr=1e-3)


def test_cosine_goes_from_one_by_a_half_to_almost_nothing():
    factors = [learning_rate_factor(step, 100) for step in range(100)]
    assert factors[0] == 1.0
    assert factors[50] == pytest.approx(0.5)
    assert factors[99] == pytest.approx((1 + math.cos(0.99 * math.pi)) / 2)
    assert factors == sorted(factors, reverse=True)


def test_warm_up_climbs_in_equal_steps_and_the_schedule_follows_without_a_jump():
    factors = [learning_rate_factor(step, 20, "cosine", warmup_steps=4) for step in range(20)]
    assert factors[:5] == [0.25, 0.5, 0.75, 1.0, 1.0]
    assert factors[12] == pytest.approx(0.5)
    whole = [learning_rate_factor(step, 4, "cosine", warmup_steps=4) for step in range(4)]
    assert whole == [0.25, 0.5, 0.75, 1.0]


def test_steps_multiply_by_gamma_at_each_milestone():
    factors = [learning_rate_factor(step, 9, "step", milestones=(3, 6), gamma=0.1) for step in range(9)]
    assert factors == pytest.approx([1, 1, 1, 0.1, 0.1, 0.1, 0.01, 0.01, 0.01])
    assert {learning_rate_factor(step, 9, "constant") for step in range(9)} == {1.0}


def test_impossible_schedules_and_steps_are_refused():
    with pytest.raises(UsageError, match="no schedule is called 'linear'; there is cosine, step, constant"):
        learning_rate_factor(0, 10, "linear")
    for step in (-1, 10):
        with pytest.raises(UsageError, match=rf"step must lie in \[0, 10\), got {step}"):
            learning_rate_factor(step, 10)


def test_rates_go_to_the_groups_of_their_part():
    model = classifier()
    optimizer = build_optimizer("sgd", parameter_groups(model, lr=1.0), lr=1.0)
    assert set_learning_rates(optimizer, {"backbone": 0.01, "head": 0.1}) == 0.1
    assert {(g["part"], g["lr"]) for g in optimizer.param_groups} == {("backbone", 0.01), ("head", 0.1)}


def test_clipping_scales_all_gradients_to_one_joint_norm():
    first, second = nn.Parameter(torch.zeros(1)), nn.Parameter(torch.zeros(1))
    first.grad, second.grad = torch.tensor([3.0]), torch.tensor([4.0])
    assert float(clip_gradients([first, second], 1.0)) == pytest.approx(5.0)
    assert float(first.grad) == pytest.approx(0.6, rel=1e-4)
    assert float(second.grad) == pytest.approx(0.8, rel=1e-4)


def small_model():
    return nn.Sequential(nn.Linear(2, 2), nn.BatchNorm1d(2))


def stir(model):
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.normal_()
    model(torch.randn(8, 2))


def test_the_average_follows_its_formula_and_copies_whole_numbers():
    model = small_model()
    ema = Ema(model, 0.5)
    expected = {name: value.clone().double() for name, value in model.state_dict().items()}
    for update in (1, 2, 3, 30):
        stir(model)
        ema.updates = update - 1
        ema.update(model)
        decay = min(0.5, update / (update + 9))
        for name, value in model.state_dict().items():
            expected[name] = (
                value if "num_batches" in name else decay * expected[name] + (1 - decay) * value.double()
            )
    for name, value in ema.values.items():
        torch.testing.assert_close(value.double(), expected[name].double(), rtol=1e-5, atol=1e-6)
    assert int(ema.values["1.num_batches_tracked"]) == 4


def test_the_model_holds_the_average_inside_and_its_own_bits_after_even_a_failure():
    model = small_model()
    ema = Ema(model, 0.9)
    stir(model)
    own = {name: value.clone() for name, value in model.state_dict().items()}
    pointers = [p.data_ptr() for p in model.parameters()]

    def evaluate_and_fail():
        with ema.swapped(model):
            assert all(torch.equal(value, ema.values[name]) for name, value in model.state_dict().items())
            assert not torch.equal(model[0].weight, own["0.weight"])
            raise RuntimeError("stop")

    with pytest.raises(RuntimeError, match="stop"):
        evaluate_and_fail()
    assert all(torch.equal(value, own[name]) for name, value in model.state_dict().items())
    assert pointers == [p.data_ptr() for p in model.parameters()]


def test_a_restored_average_goes_on_bit_for_bit(tmp_path):
    model = small_model()
    ema = Ema(model, 0.9)
    for _ in range(3):
        stir(model)
        ema.update(model)
    torch.save(ema.state_dict(), tmp_path / "ema.pt")
    other = Ema(small_model(), 0.1)
    other.load_state_dict(torch.load(tmp_path / "ema.pt", weights_only=True))
    stir(model)
    ema.update(model)
    other.update(model)
    assert other.updates == 4
    assert all(torch.equal(value, other.values[name]) for name, value in ema.values.items())


def test_a_decay_of_one_would_never_learn_and_is_refused():
    with pytest.raises(UsageError, match=r"ema must lie in \[0, 1\), got 1.0"):
        Ema(small_model(), 1.0)
