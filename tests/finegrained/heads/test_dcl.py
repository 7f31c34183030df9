"""The DCL head, and how it keeps clear of what goes wrong in released code.

1. The region alignment there stays 7 x 7 whatever N: here every N, and every map, is pooled to N x N.
2. The test script there does not run: here `infer` is the whole prediction, and travels with the weights.
3. Label files there start at 1, which leaves one class dead: here targets are the manifest's, from 0, and
   those of the adversarial head fill 0 to 2K - 1.
4. Fixed batch sizes and calls that libraries dropped: here regions are moved as tensors, and the rest is the
   training recipe's.
5. A port smooths the labels of both classifiers and drops its weight decay: here the adversarial branch has
   plain cross-entropy, and the optimiser is the recipe's.
6. A second input of `forward` serves another loss alone: here there is none.
7. Loss names differ from the paper's: here the parts are named by what they do, and alpha, beta, gamma are
   the paper's.
"""

import copy
import math
from dataclasses import dataclass, field

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from finegrained.heads.dcl import VARIANTS, DclHead
from finegrained.heads.dcl_regions import jittered_plan, nearest_regions, sequential_plan, shuffle_regions
from finetune.cli.console import hear_warnings
from finetune.errors import UsageError
from finetune.models.backbone import Features, build_backbone
from finetune.models.classifier import Classifier
from finetune.training.objective import Objective

CLASSES = 3


@pytest.fixture(autouse=True)
def _one_thread():
    torch.set_num_threads(1)
    torch.manual_seed(0)


@dataclass
class Dims:
    name: str = "tiny"
    embedding_dim: int = 4
    taps: tuple = ("last",)
    map_dims: dict = field(default_factory=lambda: {"last": 5})


def made_head(variant="paper", **options) -> DclHead:
    return DclHead.build(Dims(), CLASSES, variant=variant, **{"regions": 2, **options})


def made_images(count: int, views: int = 1, side: int = 48) -> torch.Tensor:
    return torch.randn(count * views, 3, side, side)


def transformed(head: DclHead, images, target, seed=0):
    return head.hooks().batch_transform(images, target, np.random.default_rng(seed))


def made_features(rows: int, cells: int = 4) -> Features:
    return Features(torch.randn(rows, 4), {"last": torch.randn(rows, 5, cells, cells)})


@pytest.mark.parametrize(
    ("variant", "biases", "outputs", "channels", "views"),
    [
        ("paper", (True, False, True), 2, 2, 1),
        ("repo_v0", (True, True, False), 2 * CLASSES, 1, 2),
        ("repo", (False, False, True), 2 * CLASSES, 1, 1),
    ],
)
def test_each_variant_has_the_published_layers(variant, biases, outputs, channels, views):
    head = made_head(variant)
    layers = (head.classifier, head.adversarial, head.construction)
    assert tuple(layer.bias is not None for layer in layers) == biases
    assert (head.adversarial.out_features, head.construction.out_channels) == (outputs, channels)
    assert head.hooks().views == views
    assert (head.default_taps, head.uses_embedding) == (("last",), "pooled")


@pytest.mark.parametrize("variant", VARIANTS)
def test_the_batch_holds_whole_and_shuffled_pictures_in_turn(variant):
    head = made_head(variant)
    images, target = made_images(4, head.hooks().views), torch.tensor([2, 0, 1, 1])
    kept = images.clone()
    doubled, labels = transformed(head, images, target)
    assert labels.tolist() == [2, 2, 0, 0, 1, 1, 1, 1]
    assert doubled.shape == (8, 3, 48, 48)
    assert torch.equal(doubled[0::2], images[:: head.hooks().views])
    assert torch.equal(images, kept)
    assert torch.equal(doubled, transformed(head, images, target)[0])
    assert not torch.equal(doubled, transformed(head, images, target, seed=1)[0])


@pytest.mark.parametrize("variant", ["paper", "repo_v0", "repo"])
def test_a_plan_that_was_drawn_before_shuffles_as_one_that_is_drawn_now(variant):
    head, target = made_head(variant), torch.tensor([0, 2, 1])
    images = made_images(3, head.variant.views)
    plan = head.hooks().batch_plan(3, np.random.default_rng(5))
    assert (plan.dtype, plan.shape) == (torch.int64, (3, 2, 2))
    found = head.hooks().batch_transform(images, target, plan)
    law = head._shuffled.law
    for one, other in zip(found, transformed(head, images, target, seed=5), strict=True):
        assert torch.equal(one, other)
    assert torch.equal(head._shuffled.law, law)


def test_the_paper_shuffles_the_same_crop_by_its_own_rule():
    head = made_head("paper", regions=3, neighbourhood=1)
    images, target = made_images(4), torch.zeros(4, dtype=torch.int64)
    plan = torch.from_numpy(jittered_plan(4, 3, 1, np.random.default_rng(0)))
    assert torch.equal(transformed(head, images, target)[0][1::2], shuffle_regions(images, plan))


def test_the_first_released_code_shuffles_the_second_view_and_leaves_the_first_whole():
    head = made_head("repo_v0")
    images = made_images(2, views=2)
    images[1::2] += 100  # the second views can be told by their brightness
    doubled, _ = transformed(head, images, torch.tensor([0, 1]))
    assert torch.equal(doubled[0::2], images[0::2])
    assert (doubled[1::2].mean((1, 2, 3)) > 90).all()


@pytest.mark.parametrize("variant", VARIANTS)
def test_the_memory_layout_stays_that_of_the_images(variant):
    head = made_head(variant)
    images = made_images(2, head.hooks().views).contiguous(memory_format=torch.channels_last)
    doubled, _ = transformed(head, images, torch.tensor([0, 1]))
    assert doubled.is_contiguous(memory_format=torch.channels_last)


def settled(head: DclHead) -> None:
    """Make every logit of the helpers zero, and the map of places constant: one, or tanh(0.5)."""
    for layer in (head.classifier, head.adversarial, head.construction):
        torch.nn.init.zeros_(layer.weight)
        if layer.bias is not None:
            torch.nn.init.zeros_(layer.bias)


def test_the_papers_losses_of_a_picture_worked_out_by_hand():
    head = made_head("paper", beta=0.5, gamma=3.0)
    settled(head)
    head.construction.bias.data = torch.tensor([1.0, 2.0])  # column 1, row 2 everywhere
    _, labels = transformed(head, made_images(1), torch.tensor([1]))
    value = Objective(F.cross_entropy)(head(made_features(2), labels), labels)
    # Whole and shuffled hold the same four places: columns 1 1 2 2 are off by 0 0 1 1, rows by 1 1 0 0.
    # Each image: 4 of 8 values off by one. The paper's L is the sum of both images, ours half of it.
    halves = {"main": math.log(3), "adversarial": 0.5 * math.log(2), "construction": 3.0 * 4 / 8}
    assert {name: float(part) for name, part in value.parts.items()} == pytest.approx(halves)
    assert value.total.item() == pytest.approx(sum(halves.values()))


def test_gamma_of_two_n_squared_gives_the_papers_sum_over_the_cells():
    head = made_head("paper", regions=2, gamma=2 * 2**2)
    features = made_features(2)
    transformed(head, made_images(1), torch.tensor([1]))
    law = head._shuffled.law
    term, weight = head(features).terms["construction"]
    summed = sum((head.locate(features.maps["last"])[row] - law[row]).abs().sum() for row in range(2))
    torch.testing.assert_close(weight * term, summed / 2)


def test_the_weights_keep_their_ratio_when_alpha_is_not_one():
    head = made_head("paper", alpha=4.0, beta=2.0, gamma=1.0)
    transformed(head, made_images(1), torch.tensor([1]))
    output = head(made_features(2))
    assert output.branches["adversarial"].weight == 0.5
    assert output.terms["construction"][1] == 0.25


def test_the_paper_tells_whole_from_shuffled_and_where_each_region_came_from():
    head = made_head("paper", regions=3)
    _, labels = transformed(head, made_images(2), torch.tensor([1, 2]), seed=4)
    law = head._shuffled.law
    plan = jittered_plan(2, 3, 2, np.random.default_rng(4))
    for picture in range(2):
        for row in range(3):
            for column in range(3):
                assert law[2 * picture, :, row, column].tolist() == [column + 1, row + 1]
                from_row, from_column = divmod(int(plan[picture, row, column]), 3)
                assert law[2 * picture + 1, :, row, column].tolist() == [from_column + 1, from_row + 1]
    branch = head(made_features(4), labels).branches["adversarial"]
    assert branch.target.tolist() == [1, 0, 1, 0]
    assert (branch.logits.shape, branch.domain) == ((4, 2), True)


def test_a_copy_whose_shuffle_left_every_region_in_place_is_called_whole_in_the_paper_variant():
    head = made_head("paper", regions=2)
    images, target = made_images(200, side=4), torch.zeros(200, dtype=torch.int64)
    doubled, _ = transformed(head, images, target)
    told = head._shuffled.adversarial
    unchanged = (doubled[0::2] == doubled[1::2]).flatten(1).all(1)
    assert told.dtype == torch.int64
    assert (told[0::2] == 1).all()
    assert torch.equal(told[1::2].bool(), unchanged)
    assert 0.15 < unchanged.float().mean() < 0.4


@pytest.mark.parametrize("variant", ["repo_v0", "repo"])
def test_the_released_code_calls_every_copy_shuffled(variant):
    head = made_head(variant, regions=2)
    transformed(head, made_images(60, head.hooks().views), torch.full((60,), 2))
    assert head._shuffled.adversarial.tolist() == [2, 2 + CLASSES] * 60


@pytest.mark.parametrize("variant", ["repo_v0", "repo"])
def test_the_released_losses_of_a_picture_worked_out_by_hand(variant):
    head = made_head(variant, gamma=2.0)
    settled(head)
    images = made_images(1, head.hooks().views)
    _, labels = transformed(head, images, torch.tensor([1]))
    head._shuffled.law[1] = torch.tensor([[[0.25, -0.5], [0.0, 0.25]]])
    value = Objective(F.cross_entropy)(head(made_features(2), labels), labels)
    # Places say 0. The whole image's laws are -2/4, -1/4, 0, 1/4: both images are off by 1 in 4 cells.
    halves = {"main": math.log(3), "adversarial": math.log(6), "construction": 2.0 * (1 + 1) / 8}
    assert {name: float(part) for name, part in value.parts.items()} == pytest.approx(halves)


@pytest.mark.parametrize("variant", ["repo_v0", "repo"])
@pytest.mark.parametrize("regions", [2, 3])
def test_the_released_laws_are_scalars_found_by_colour(variant, regions):
    head = made_head(variant, regions=regions)
    images = made_images(2, head.hooks().views)
    doubled, labels = transformed(head, images, torch.tensor([1, 2]))
    cells = regions**2
    law = head._shuffled.law.flatten(1)
    own = (torch.arange(cells) - cells // 2) / cells
    torch.testing.assert_close(law[0::2], own.expand(2, -1))
    found = nearest_regions(doubled[1::2], doubled[0::2], regions)
    torch.testing.assert_close(law[1::2], (found - cells // 2) / cells)
    branch = head(made_features(4), labels).branches["adversarial"]
    assert branch.target.tolist() == [1, 1 + CLASSES, 2, 2 + CLASSES]
    assert branch.logits.shape == (4, 2 * CLASSES)


def test_the_released_laws_of_seven_regions_run_from_minus_24_to_24_of_49():
    head = made_head("repo", regions=7)
    transformed(head, made_images(1, side=76), torch.tensor([0]))
    law = head._shuffled.law[0].flatten()
    torch.testing.assert_close(law, torch.arange(-24, 25) / 49)


def test_released_laws_follow_the_plan_where_colours_are_clear():
    values = (torch.randperm(9).float() * 10).view(1, 1, 3, 3)
    image = values.repeat_interleave(100, 2).repeat_interleave(100, 3).expand(1, 3, 300, 300)
    head = made_head("repo", regions=3)
    transformed(head, image, torch.tensor([0]), seed=7)
    plan = torch.from_numpy(sequential_plan(1, 3, 2, np.random.default_rng(7)))
    torch.testing.assert_close(head._shuffled.law[1], (plan - 4) / 9)


@pytest.mark.parametrize(("variant", "squash"), [("paper", torch.relu), ("repo", torch.tanh)])
@pytest.mark.parametrize(("cells", "regions"), [(14, 7), (14, 2), (7, 7), (2, 7), (10, 7)])
def test_places_are_pooled_to_the_regions_whatever_they_and_the_map_are(variant, squash, cells, regions):
    head = made_head(variant, regions=regions)
    torch.nn.init.normal_(head.construction.weight)
    torch.nn.init.zeros_(head.construction.bias)  # so that the ReLU has something to cut off
    deep = torch.randn(2, 5, cells, cells)
    raw = torch.einsum("bchw,oc->bohw", deep, head.construction.weight[:, :, 0, 0])
    raw = raw + head.construction.bias[:, None, None]
    first = torch.relu(raw) if variant == "paper" else raw
    pooled = torch.stack(
        [
            first[
                :,
                :,
                row * cells // regions : -(-(row + 1) * cells // regions),
                column * cells // regions : -(-(column + 1) * cells // regions),
            ].mean((2, 3))
            for row in range(regions)
            for column in range(regions)
        ],
        2,
    ).view(2, -1, regions, regions)
    torch.testing.assert_close(head.locate(deep), pooled if variant == "paper" else squash(pooled))


def test_the_papers_places_start_alive_whatever_the_map_says():
    for seed in range(20):
        torch.manual_seed(seed)
        head = made_head("paper", regions=7)
        places = head.locate(torch.rand(2, 5, 7, 7))
        assert (places > 0).all()
        assert (places - 4).abs().max() < 1


def test_without_a_doubled_batch_there_are_logits_and_nothing_else():
    for mode in (True, False):
        head = made_head().train(mode)
        output = head(made_features(3))
        assert (output.logits.shape, output.branches, output.terms) == ((3, CLASSES), {}, {})


def test_what_the_shuffle_left_is_used_once_and_never_saved():
    head = made_head()
    keys = set(head.state_dict())
    _, labels = transformed(head, made_images(2), torch.tensor([0, 1]))
    assert set(head.state_dict()) == keys
    assert head(made_features(4), labels).branches
    assert not head(made_features(4), labels).branches


@pytest.mark.parametrize(("cells", "told"), [(7, []), (6, [6])])
def test_a_map_with_fewer_cells_than_regions_is_warned_of_once(cells, told):
    head = made_head(regions=7)
    features = Features(torch.randn(4, 4), {"last": torch.randn(4, 5, cells, cells)})
    with hear_warnings() as heard:
        for _ in range(2):
            transformed(head, made_images(2, side=70), torch.tensor([0, 1]))
            head(features)
        head(features)
    assert len(heard) == len(told)
    for warning in heard:
        assert warning.startswith("the dcl head's maps have 6 cells a side, for 7 regions")
        assert "--head.options.regions 6" in warning


def test_a_batch_of_another_size_is_refused_and_forgotten():
    head = made_head()
    transformed(head, made_images(2), torch.tensor([0, 1]))
    with pytest.raises(ValueError, match="batch_transform made 4 images, but 3 reached the DCL head"):
        head(made_features(3))
    assert head(made_features(3)).logits.shape == (3, CLASSES)


@pytest.mark.parametrize(("variant", "views", "asked"), [("repo_v0", 1, 2), ("paper", 2, 1)])
def test_another_number_of_views_than_asked_for_is_refused(variant, views, asked):
    with pytest.raises(ValueError, match=rf"asked for {asked} view\(s\)"):
        transformed(made_head(variant), made_images(2, views), torch.tensor([0, 1]))


@pytest.mark.parametrize("variant", VARIANTS)
def test_prediction_is_the_head_alone_in_the_paper_and_the_sum_in_the_code(variant):
    head, features = made_head(variant), made_features(3)
    expected = head.classifier(features.embedding)
    if variant != "paper":
        both = head.adversarial(features.embedding)
        for kind in range(CLASSES):
            expected[:, kind] = expected[:, kind] + both[:, kind] + both[:, kind + CLASSES]
    torch.testing.assert_close(head.infer(features), expected)


def test_a_backbone_without_a_pooled_vector_is_averaged():
    head = DclHead.build(Dims(embedding_dim=0), CLASSES, regions=2)
    deep = torch.randn(2, 5, 3, 3)
    features = Features(torch.zeros(2, 0), {"last": deep})
    torch.testing.assert_close(head.infer(features), head.classifier(deep.mean((2, 3))))


def test_the_adversarial_branch_keeps_cross_entropy_unless_it_is_named():
    head = made_head()
    features = made_features(4)

    def parts(**branch_losses):
        _, labels = transformed(head, made_images(2), torch.tensor([0, 1]))
        return Objective(lambda logits, target: logits.sum() * 0 + 7, branch_losses)(
            head(features, labels), labels
        ).parts

    plain, named = parts(), parts(adversarial=lambda logits, target: logits.sum() * 0 + 5)
    assert plain["main"] == 7
    assert 0 < plain["adversarial"] < 2
    assert named["adversarial"] == 5


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"variant": "hawk"}, "'hawk'; there is paper, repo_v0, repo"),
        ({"regions": 1}, "regions must be at least 2, got 1"),
        ({"neighbourhood": 3}, r"neighbourhood must lie in \[1, regions = 2\], got 3"),
        ({"variant": "repo", "neighbourhood": 1}, r"neighbourhood must lie in \[2, regions = 2\], got 1"),
        ({"alpha": 0.0}, "alpha must be positive"),
        ({"alpha": math.nan}, "all finite; got nan"),
        ({"alpha": math.inf}, "all finite; got inf"),
        ({"beta": math.nan}, "all finite; got 1.0, nan"),
        ({"beta": math.inf}, "all finite; got 1.0, inf"),
        ({"gamma": -1.0}, "not negative, and all finite; got 1.0, 1.0 and -1.0"),
        ({"gamma": math.nan}, "1.0 and nan"),
        ({"gamma": math.inf}, "1.0 and inf"),
    ],
)
def test_options_out_of_range_are_refused(options, message):
    with pytest.raises(UsageError, match=message):
        made_head(**options)


def made_model(variant: str) -> Classifier:
    backbone = build_backbone("test_resnet", "none", taps=("last",), embed="pooled")
    for module in backbone.modules():
        if isinstance(module, torch.nn.BatchNorm2d):  # a new block's last one is zero and stops the gradient
            torch.nn.init.uniform_(module.weight, 0.5, 1.5)
    return Classifier(backbone, DclHead.build(backbone, CLASSES, variant=variant, regions=3))


@pytest.mark.parametrize("variant", VARIANTS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_training_step_moves_every_weight_and_stays_finite(variant, dtype):
    model = made_model(variant).train()
    before = copy.deepcopy(model.state_dict())
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    hooks = model.head.hooks()
    images, target = transformed(model.head, made_images(4, hooks.views), torch.tensor([0, 1, 2, 0]))
    with torch.autocast("cpu", torch.bfloat16, enabled=dtype == torch.bfloat16):
        output = model(images, target)
    value = Objective(F.cross_entropy)(output, target)
    value.total.backward()
    assert all(torch.isfinite(p.grad).all() and p.grad.abs().sum() > 0 for p in model.parameters())
    optimizer.step()
    changed = [name for name, now in model.named_parameters() if not torch.equal(now, before[name])]
    assert len(changed) == len(list(model.parameters()))
    assert set(value.parts) == {"main", "adversarial", "construction"}


@pytest.mark.parametrize("variant", VARIANTS)
def test_the_places_are_learned(variant):
    """The region alignment must be able to read a map that spells out where each region came from."""
    head = DclHead.build(Dims(map_dims={"last": 2}), CLASSES, variant=variant, regions=3)
    optimizer = torch.optim.Adam(head.parameters(), lr=0.1)
    first = last = None
    for step in range(80):
        transformed(head, made_images(4, head.hooks().views), torch.zeros(4, dtype=torch.int64), seed=step)
        law = head._shuffled.law
        deep = law / 3 if law.shape[1] == 2 else torch.cat([law, torch.ones_like(law)], 1)
        last, _ = head(Features(torch.zeros(8, 4), {"last": deep})).terms["construction"]
        first = last if first is None else first
        optimizer.zero_grad()
        last.backward()
        optimizer.step()
    assert last < 0.3 * first


def test_compiling_the_head_changes_nothing_and_happens_once():
    head, compiles = made_head(), []

    def count(graph, _inputs):
        compiles.append(graph)
        return graph.forward

    torch._dynamo.reset()
    compiled = torch.compile(head, backend=count, fullgraph=True)
    for step in range(3):
        features = made_features(4)
        transformed(head, made_images(2), torch.tensor([0, 1]), seed=step)
        again = head._shuffled
        found = compiled(features)
        assert head._shuffled is None
        head._shuffled = again
        expected = head(features)
        torch.testing.assert_close(found.logits, expected.logits)
        torch.testing.assert_close(found.terms["construction"][0], expected.terms["construction"][0])
        assert torch.equal(found.branches["adversarial"].target, expected.branches["adversarial"].target)
    assert len(compiles) == 1
