import copy
import math

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from core_losses import build_loss
from finegrained.heads.dfl import DflHead, PartStream
from finetune.cli import console
from finetune.errors import DataError, UsageError
from finetune.models.backbone import Features, build_backbone
from finetune.models.classifier import Classifier
from finetune.training.objective import Objective

CLASSES, K, C = 3, 2, 8


class MapBackbone(nn.Module):
    """Images that are feature maps already; half of the places make the second map."""

    name = "maps"
    taps = ("last-1", "last")
    map_dims = {"last-1": C, "last": C}  # noqa: RUF012
    embedding_dim = C

    def __init__(self):
        super().__init__()
        self.norm = nn.BatchNorm2d(C, affine=False)

    def forward(self, images):
        maps = self.norm(images)
        return Features(maps.mean((2, 3)), {"last-1": maps, "last": maps[..., ::2, ::2]})


@pytest.fixture(autouse=True)
def _quiet():
    torch.set_num_threads(1)
    torch.manual_seed(0)
    console.quiet()
    yield
    console.reset()


def head_on_maps(**options):
    return DflHead.build(MapBackbone(), CLASSES, **{"detectors": K, **options})


def features(batch=4, side=6):
    generator = torch.Generator().manual_seed(side)
    maps = torch.randn(batch, C, side, side, generator=generator)
    last = torch.randn(batch, C, side // 2, side // 2, generator=generator)
    return Features(torch.randn(batch, C, generator=generator), {"last-1": maps, "last": last})


def build(name, num_classes=4, **options):
    backbone = build_backbone(name, "none", taps=DflHead.default_taps, embed=DflHead.uses_embedding)
    return Classifier(backbone, DflHead.build(backbone, num_classes, **options))


def pictures(count=12, side=64, classes=4):
    generator = torch.Generator().manual_seed(1)
    images = torch.randn(count, 3, side, side, generator=generator)
    return list(zip(images.split(5), (torch.arange(count) % classes).split(5), strict=True))


def test_the_side_branch_is_the_mean_over_each_class_own_detectors():
    stream = head_on_maps(filter_norm="none").streams[0]
    maps = features().maps["last-1"]
    side = stream(maps)[1].detach()
    filters = stream.conv6.weight.detach()[:, :, 0, 0]
    for picture in range(4):
        for index in range(CLASSES):
            strongest = [
                max(
                    float(filters[index * K + j] @ maps[picture, :, y, x]) for y in range(6) for x in range(6)
                )
                for j in range(K)
            ]
            assert float(side[picture, index]) == pytest.approx(sum(strongest) / K, abs=1e-5)


def test_filters_are_class_major():
    stream = PartStream(CLASSES * K, CLASSES, K, "none")
    with torch.no_grad():
        stream.conv6.weight.copy_(torch.eye(CLASSES * K)[:, :, None, None])
    maps = torch.zeros(1, CLASSES * K, 2, 2)
    maps[0, 1 * K + 1, 1, 0] = 6.0  # detector 1 of class 1
    part, side = stream(maps)
    assert side.tolist() == [[0.0, 3.0, 0.0]]
    torch.testing.assert_close(part[0], 6 * stream.cls6.weight[:, 3])


def test_the_loss_of_three_branches_is_that_by_hand():
    head = DflHead(("a", "b"), (1, 1), 1, 2, start=head_on_maps(detectors=1).start)
    with torch.no_grad():
        head.cls5.weight.copy_(torch.tensor([[2.0], [0.0]]))
        head.streams[0].conv6.weight.copy_(torch.tensor([1.0, -1.0]).view(2, 1, 1, 1))
        head.streams[0].cls6.weight.copy_(torch.tensor([[2.0, 0.0], [0.0, 2.0]]))
    given = Features(torch.ones(1, 1), {"a": torch.tensor([[[[0.5, -3.0]]]]), "b": torch.zeros(1, 1, 1, 1)})
    output, target = head(given), torch.tensor([0])
    # z = max over two places of (F, -F) = (0.5, 3); the part classifier doubles it
    assert output.logits.tolist() == [[2.0, 0.0]]
    assert output.branches["part"].logits.tolist() == [[1.0, 6.0]]
    assert output.branches["side"].logits.tolist() == [[0.5, 3.0]]
    torch.testing.assert_close(head.infer(given), torch.tensor([[2.0 + 1.0 + 0.05, 6.0 + 0.3]]))

    ce = [math.log1p(math.exp(margin)) for margin in (-2.0, 5.0, 2.5)]
    value = Objective(F.cross_entropy)(output, target)
    assert value.parts["main"].item() == pytest.approx(ce[0])
    assert value.parts["part"].item() == pytest.approx(ce[1])
    assert value.parts["side"].item() == pytest.approx(0.1 * ce[2])
    assert value.total.detach().item() == pytest.approx(ce[0] + ce[1] + 0.1 * ce[2])

    crl = [math.log(2.5 - math.exp(-x)) + x for x in ce]  # log(alpha + 1 - p) - log p at alpha 1.5
    everywhere = Objective(build_loss("crl"))(output, target).total.detach()
    assert everywhere.item() == pytest.approx(crl[0] + crl[1] + 0.1 * crl[2])
    but_one = Objective(build_loss("crl"), {"part": F.cross_entropy})(output, target).total.detach()
    assert but_one.item() == pytest.approx(crl[0] + ce[1] + 0.1 * crl[2])


def test_two_scales_add_two_branches_on_the_second_map():
    head = head_on_maps(two_scale=True, side_weight=0.5)
    given = features()
    output = head(given)
    weights = {name: branch.weight for name, branch in output.branches.items()}
    assert weights == {"part": 1.0, "side": 0.5, "part2": 1.0, "side2": 0.5}
    part, side = head.streams[1](given.maps["last"])
    torch.testing.assert_close(output.branches["part2"].logits, part)
    torch.testing.assert_close(output.branches["side2"].logits, side)
    by_hand = output.logits + sum(weights[name] * branch.logits for name, branch in output.branches.items())
    torch.testing.assert_close(head.infer(given), by_hand)
    assert {name: answers.shape for name, answers in head.explain(given).items()} == {
        "responses": (4, CLASSES * K, 6, 6),
        "responses2": (4, CLASSES * K, 3, 3),
    }


@pytest.mark.parametrize("side", [1, 5, 14])
def test_the_maximum_runs_over_maps_of_any_size(side):
    head = head_on_maps()
    maps = torch.randn(2, C, side, side + 2)
    answers = head.explain(Features(torch.zeros(2, C), {"last-1": maps, "last": maps}))["responses"]
    _, part = head.streams[0](maps)
    torch.testing.assert_close(part, answers.amax((2, 3)).view(2, CLASSES, K).mean(2))


def test_logits_of_the_whole_picture_may_be_negative_and_start_near_uniform():
    given = features(batch=64)
    logits = head_on_maps()(given).logits
    assert (logits < 0).any()
    assert (logits > 0).any()
    assert logits.abs().max() < 0.2


def test_batch_norm_and_relu_stand_behind_the_filters_when_asked_for():
    head = head_on_maps(filter_norm="bn").train()
    answers = head.explain(features(batch=16))["responses"].detach()
    assert answers.min().item() == 0
    before = head.streams[0].norm[0]
    assert int(before.num_batches_tracked) == 1
    head.eval()
    raw = head.streams[0].conv6(features().maps["last-1"])
    by_hand = (raw - before.running_mean[:, None, None]) / (before.running_var + 1e-5).sqrt()[:, None, None]
    torch.testing.assert_close(head.explain(features())["responses"], by_hand.clamp(min=0))


def test_a_backbone_without_embedding_classifies_the_mean_of_its_last_map():
    model = build("vgg11", 3, detectors=2)
    assert model.backbone.embedding_dim == 0
    assert model.backbone.map_strides == {"last-1": 8, "last": 16}
    given = model.backbone.eval()(torch.randn(2, 3, 32, 32))
    expected = model.head.cls5(given.maps["last"].mean((2, 3)))
    torch.testing.assert_close(model.head(given).logits, expected)


def test_the_extra_weights_on_resnet50_are_those_counted_by_hand():
    class ResNet50:
        name, taps, embedding_dim = "resnet50", ("last-1", "last"), 2048
        map_dims = {"last-1": 1024, "last": 2048}  # noqa: RUF012

    with torch.device("meta"):
        head = DflHead.build(ResNet50(), 200)
    sizes = {name: value.numel() for name, value in head.named_parameters() if value.ndim > 1}
    assert sizes == {
        "cls5.weight": 2048 * 200,
        "streams.0.conv6.weight": 1024 * 2000,
        "streams.0.cls6.weight": 2000 * 200,
    }


def planted():
    """Twelve images: those of class c show the unit vectors 2 c and 2 c + 1, strongly, here and there."""
    maps = 0.01 * torch.randn(12, C, 6, 6, generator=torch.Generator().manual_seed(0))
    target = torch.arange(12) % CLASSES
    for index, picture in enumerate(maps):
        for j in range(K):
            picture[K * target[index] + j, (index + 4 * j) % 6, (2 * index + 3 * j) % 6] += 9.0
    return [(maps[:7], target[:7]), (maps[7:], target[7:])]


@pytest.mark.parametrize("two_scale", [False, True])
def test_preparing_writes_the_planted_parts_into_the_live_filters(two_scale):
    core = Classifier(MapBackbone(), head_on_maps(two_scale=two_scale, peaks=2))
    weight = core.head.streams[0].conv6.weight
    optimizer = torch.optim.SGD(core.parameters(), lr=0.1)
    core.head.hooks().prepare(core, planted())
    assert core.head.streams[0].conv6.weight is weight  # the very tensor that the optimiser moves
    assert any(weight is own for group in optimizer.param_groups for own in group["params"])
    assert torch.equal(core.state_dict()["head.streams.0.conv6.weight"], weight)
    filters = weight.detach()[:, :, 0, 0].view(CLASSES, K, C)
    lengths = filters.norm(dim=2)
    torch.testing.assert_close(lengths, torch.full_like(lengths, (2 / C) ** 0.5))
    for index in range(CLASSES):
        parts = (filters[index] / lengths[index][:, None]).abs().max(1)
        assert sorted(parts.indices.tolist()) == [2 * index, 2 * index + 1]
        assert (parts.values > 0.99).all()
    side = core.eval()(planted()[0][0]).branches["side"].logits
    assert torch.equal(side.argmax(1), planted()[0][1])  # before a single step


def test_a_prepared_class_without_a_picture_keeps_its_random_filters(capsys):
    console.reset()
    core = Classifier(MapBackbone(), head_on_maps())
    weight = core.head.streams[0].conv6.weight
    before = weight.detach().clone()
    some = [(images[target != 1], target[target != 1]) for images, target in planted()]
    core.head.hooks().prepare(core, some)
    same = (weight == before).view(CLASSES, -1).all(1)
    assert same.tolist() == [False, True, False]
    assert "for 1 classes at random" in capsys.readouterr().out
    with pytest.raises(DataError, match="there is none"):
        core.head.hooks().prepare(core, [])


@pytest.mark.parametrize("training", [True, False])
def test_building_and_preparing_leave_the_backbone_as_it_was(training):
    torch.manual_seed(1)
    pretrained = build_backbone("resnet18", "none", taps=("last-1", "last")).state_dict()
    backbone = build_backbone("resnet18", "none", taps=("last-1", "last"))
    backbone.load_state_dict(pretrained)
    core = Classifier(backbone, DflHead.build(backbone, 4, detectors=2)).train(training)
    head_before = copy.deepcopy(core.head.state_dict())
    core.head.hooks().prepare(core, pictures())
    for name, value in core.backbone.state_dict().items():
        assert torch.equal(value, pretrained[name]), name
    assert core.training is training
    assert core.backbone.training is training
    changed = {n for n, value in core.head.state_dict().items() if not torch.equal(value, head_before[n])}
    assert changed == {"streams.0.conv6.weight"}
    assert core.head.streams[0].conv6.weight.grad_fn is None
    assert core.head.streams[0].conv6.weight.requires_grad


def test_preparing_gives_the_same_bits_for_a_seed_and_draws_from_no_global_generator():
    def prepared(seed):
        torch.manual_seed(2)
        core = build("resnet18", detectors=3, kmeans_seed=seed)
        state = torch.get_rng_state()
        core.head.hooks().prepare(core, pictures(count=24))
        assert torch.equal(state, torch.get_rng_state())
        return core.head.streams[0].conv6.weight

    assert torch.equal(prepared(0), prepared(0))
    assert not torch.equal(prepared(0), prepared(1))


def test_a_random_start_asks_for_no_pass_over_the_pictures():
    head = head_on_maps(init="random")
    assert head.hooks().prepare is None
    spread = PartStream(64, 50, 10, "none").conv6.weight.detach().std()
    assert spread.item() == pytest.approx((2 / 64) ** 0.5, rel=0.03)


def test_every_weight_learns_and_a_step_under_autocast_is_finite():
    model = build("resnet18", detectors=2, two_scale=True).train()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01)
    images, target = torch.randn(4, 3, 64, 64), torch.arange(4)
    model.head.hooks().prepare(model, [(images, target)])
    with torch.autocast("cpu", torch.bfloat16):
        value = Objective(build_loss("crl"))(model(images, target), target)
    value.total.backward()
    for name, parameter in model.named_parameters():
        assert parameter.grad is not None, name
        assert parameter.grad.isfinite().all(), name
        assert not name.startswith("head") or parameter.grad.abs().max() > 0, name
    optimizer.step()
    assert all(parameter.isfinite().all() for parameter in model.parameters())
    with torch.inference_mode():
        assert model.eval().infer(images).isfinite().all()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"detectors": 0}, "detectors must be at least 1, got 0"),
        ({"nms": 2}, "nms must be odd and at least 1, got 2"),
        ({"side_weight": -0.1}, "side_weight must be finite and not negative, got -0.1"),
        ({"init": "means"}, "init must be kmeans or random, got 'means'"),
        ({"filter_norm": "layer"}, "filter_norm none or bn, got 'layer'"),
        ({"detectors": 10_000_000}, "10000000 detectors for each of 3 classes holds 330 million parameters"),
    ],
)
def test_what_cannot_be_right_is_refused(options, message):
    with pytest.raises(UsageError, match=message):
        head_on_maps(**options)


@pytest.mark.parametrize(
    ("name", "taps", "told"),
    [
        ("vgg11", (16, "last"), "16 has a stride of 16 px and last one of 16 px"),
        ("vgg11", ("last", 16), "last has a stride of 16 px"),
        ("vgg11", ("last-1", 8), "last-1 has a stride of 8 px and 8 one of 8 px"),
        ("resnet18", ("last", "last-1"), "last has a stride of 32 px and last-1 one of 16 px"),
        ("resnet18", (32, 8), "32 has a stride of 32 px"),
        ("test_vit", ("last", "last-2"), "last has a stride of 16 px and last-2 one of 16 px"),
        ("test_vit", ("last", 16), "16 one of 16 px: give --head.taps, such as last-1 and last"),
    ],
)
def test_the_same_map_twice_or_the_coarser_one_first_is_refused(name, taps, told):
    with torch.device("meta"):
        backbone = build_backbone(name, "none", taps=taps, image_size=64)
    with pytest.raises(UsageError, match=told):
        DflHead.build(backbone, 4)


@pytest.mark.parametrize(
    ("name", "taps"),
    [("vgg11", (8, "last")), ("resnet18", ("last-2", 32)), ("test_vit", ("last-2", "last-1"))],
)
def test_two_maps_in_order_are_read_by_stride_or_by_name(name, taps):
    with torch.device("meta"):
        backbone = build_backbone(name, "none", taps=taps, image_size=64)
    assert DflHead.build(backbone, 4, detectors=2).taps == taps


def test_one_map_under_one_name_is_refused():
    backbone = build_backbone("resnet18", "none", taps=("last", "last"))
    with pytest.raises(UsageError, match=r"reads two different maps.* resnet18 gives last: give --head.taps"):
        DflHead.build(backbone, 4)
