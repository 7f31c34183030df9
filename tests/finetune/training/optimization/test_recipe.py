import pytest
import torch
from torch import nn

from finetune.errors import UsageError
from finetune.models.classifier import build_classifier
from finetune.training.optimization.optim import build_optimizer, parameter_groups, set_learning_rates
from finetune.training.optimization.recipe import Recipe, Stage, apply_stage, fine_tune_recipe


@pytest.fixture
def model():
    torch.set_num_threads(1)
    torch.manual_seed(0)
    return build_classifier("resnet18", "linear", 3, weights="none", head_options={"dropout": 0.5})


def test_stages_follow_one_another_and_end():
    recipe = Recipe((Stage("first", 2, train="head"), Stage("second", 3)))
    assert [recipe.stage_at(epoch).name for epoch in range(5)] == ["first"] * 2 + ["second"] * 3
    assert [epoch for epoch in range(5) if recipe.starts_stage(epoch)] == [0, 2]
    assert (recipe.last_start, Recipe((Stage("one", 3),)).last_start) == (2, 0)
    for epoch in (-1, 5):
        with pytest.raises(UsageError, match=r"epoch must lie in \[0, 5\)"):
            recipe.stage_at(epoch)


def test_each_stage_has_its_own_rates_and_schedule():
    recipe = Recipe(
        (
            Stage("head", 1, train="head", lr=1.0, schedule="constant"),
            Stage("all", 2, lr=0.1, head_lr_multiplier=10, schedule="cosine", warmup_epochs=0.5),
        )
    )
    rates = [recipe.rates(epoch, step, 4) for epoch in range(3) for step in range(4)]
    assert rates[:4] == [{"backbone": 0.0, "head": 1.0}] * 4
    assert [rate["backbone"] for rate in rates[4:7]] == pytest.approx([0.05, 0.1, 0.1])
    assert all(rate["head"] == pytest.approx(10 * rate["backbone"]) for rate in rates[4:])
    assert rates[9]["backbone"] == pytest.approx(0.05)


def test_the_papers_step_schedule_divides_by_ten_after_epoch_80():
    recipe = fine_tune_recipe(120, lr=0.01, schedule="step", milestones=(80,))
    rates = [recipe.rates(epoch, step, 3)["head"] for epoch in range(120) for step in range(3)]
    assert rates == pytest.approx([0.01] * 240 + [0.001] * 120)


def test_milestones_are_epochs_of_the_whole_run():
    recipe = fine_tune_recipe(10, 4, lr=1.0, schedule="step", milestones=(6,))
    assert [recipe.rates(epoch, 0, 1)["head"] for epoch in range(10)] == pytest.approx([1.0] * 6 + [0.1] * 4)
    assert [stage.train for stage in recipe.stages] == ["head", "all"]
    with pytest.raises(UsageError, match=r"milestones must lie behind the 4 frozen epochs, got \[3\]"):
        fine_tune_recipe(10, 4, lr=1.0, milestones=(3, 6))


def test_the_frozen_epochs_may_have_a_rate_a_schedule_and_milestones_of_their_own():
    recipe = fine_tune_recipe(
        10,
        4,
        lr=0.1,
        head_lr_multiplier=10,
        frozen_lr=3.0,
        frozen_weight_decay=1e-8,
        frozen_schedule="step",
        schedule="step",
        warmup_epochs=1,
        milestones=(2, 7),
    )
    head = [recipe.rates(epoch, 1, 2)["head"] for epoch in range(10)]
    assert head == pytest.approx([3.0] * 2 + [0.3] * 2 + [1.0] * 3 + [0.1] * 3)
    assert recipe.rates(4, 0, 2) == pytest.approx({"backbone": 0.05, "head": 0.5}), "the warm-up comes here"
    assert [stage.weight_decay for stage in recipe.stages] == [1e-8, None]
    cosine = fine_tune_recipe(10, 4, lr=0.1, head_lr_multiplier=10, frozen_schedule="cosine")
    assert [cosine.rates(epoch, 0, 1)["head"] for epoch in (0, 2, 4)] == pytest.approx([1.0, 0.5, 1.0])


def test_a_milestone_where_no_rate_steps_is_refused():
    for frozen_schedule in ("cosine", "constant"):
        with pytest.raises(UsageError, match=r"behind the 4 frozen epochs, got \[3\]; only .*step"):
            fine_tune_recipe(10, 4, lr=1.0, milestones=(3, 6), frozen_schedule=frozen_schedule)
    with pytest.raises(UsageError, match="a milestone at 4, the end of the frozen epochs, changes nothing"):
        fine_tune_recipe(10, 4, lr=1.0, milestones=(4, 6), frozen_schedule="step")
    with pytest.raises(UsageError, match="ascend"):
        fine_tune_recipe(10, 4, lr=1.0, milestones=(6, 3), frozen_schedule="step")


def test_frozen_epochs_may_be_none_or_all():
    assert [stage.train for stage in fine_tune_recipe(3, 0, lr=1.0).stages] == ["all"]
    assert [stage.train for stage in fine_tune_recipe(3, 3, lr=1.0).stages] == ["head"]
    with pytest.raises(UsageError, match=r"frozen_epochs must lie in \[0, epochs = 3\], got 4"):
        fine_tune_recipe(3, 4, lr=1.0)


def test_a_stage_that_cannot_be_right_names_every_field():
    with pytest.raises(UsageError) as refusal:
        Stage("bad", 0, train="tail", lr=0, schedule="linear", milestones=(5, 3), weight_decay=-1)
    for field in ("epochs", "train", "lr", "schedule", "milestones", "weight_decay"):
        assert field in str(refusal.value)
    with pytest.raises(UsageError, match="at least one stage"):
        Recipe(())


def train_once(model, recipe, epoch):
    optimizer = build_optimizer("sgd", parameter_groups(model, lr=1.0, weight_decay=0.1), lr=1.0)
    recipe.enter(model, epoch)
    set_learning_rates(optimizer, recipe.rates(epoch, 0, 1))
    model(torch.randn(4, 3, 32, 32)).logits.square().sum().backward()
    optimizer.step()


def test_a_frozen_backbone_keeps_every_bit_its_batch_norm_too(model):
    before = {name: value.clone() for name, value in model.state_dict().items()}
    train_once(model, Recipe((Stage("head", 1, train="head"),)), 0)
    after = model.state_dict()
    changed = {name for name, value in before.items() if not torch.equal(value, after[name])}
    assert changed == {"head.classifier.weight", "head.classifier.bias"}
    assert model.head.dropout.training


def test_a_freed_backbone_learns_and_its_batch_norm_counts_again(model):
    recipe = fine_tune_recipe(2, 1, lr=0.01)
    recipe.enter(model, 0)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    train_once(model, recipe, 1)
    after = model.state_dict()
    assert all(not torch.equal(value, after[name]) for name, value in before.items() if value.ndim > 1)
    assert int(after["backbone.model.bn1.num_batches_tracked"]) == 1


def test_freezing_keeps_evaluation_mode_and_survives_train(model):
    model.eval()
    apply_stage(model, Stage("head", 1, train="head"))
    assert not any(module.training for module in model.modules())
    model.train()
    assert not any(module.training for module in model.backbone.modules())
    assert all(isinstance(p, nn.Parameter) and not p.requires_grad for p in model.backbone.parameters())
    assert all(p.requires_grad for p in model.head.parameters())
