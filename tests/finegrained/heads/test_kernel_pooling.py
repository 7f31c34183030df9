import math

import pytest
import torch
from torch import Tensor, nn

from finegrained.heads.kernel_pooling import KernelPoolingHead
from finetune.errors import UsageError
from finetune.models.backbone import Features, build_backbone
from finetune.models.classifier import Classifier


class Passing(nn.Module):
    """A backbone whose last map is the image itself."""

    def forward(self, images: Tensor) -> Features:
        return of(images)


class Core(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.backbone = Passing()


def of(x: Tensor) -> Features:
    return Features(x.new_zeros(len(x), 0), {"last": x})


def picture(batch: int = 2, channels: int = 6, side: int = 3, seed: int = 0) -> Tensor:
    return torch.randn(batch, channels, side, side, generator=torch.Generator().manual_seed(seed))


def small(**options: float | str) -> KernelPoolingHead:
    return KernelPoolingHead("last", 6, 3, **{"dim": 16, "gamma": 0.3, **options})


def shares(head: KernelPoolingHead, x: Tensor) -> list[float]:
    """Each order's part of the squared length of phi."""
    sizes = [1, 6] + [head.sketch.dim] * (head.sketch.order - 1)
    parts = head.moments(of(x)).double().split(sizes, dim=1)
    lengths = torch.stack([part.square().sum() for part in parts])
    return (lengths / lengths.sum()).tolist()


@pytest.mark.parametrize(("channels", "length"), [(512, 12_801), (2048, 14_337)])
def test_the_descriptor_of_vgg_and_resnet_has_the_length_of_the_formula(channels, length):
    head = KernelPoolingHead("last", channels, 2)
    assert head.descriptor(of(picture(1, channels, 1))).shape == (1, length)
    assert head.classifier.in_features == length


def test_the_moments_are_one_the_mean_and_the_weighted_sketches():
    head = small(gamma=0.3)
    with torch.no_grad():
        head.weights.copy_(torch.tensor([1.5, -2.0, 0.5, 1.0, 3.0]))
    x = picture()
    root = math.sqrt(2 * 0.3)
    a = [w * root**p / math.sqrt(math.factorial(p)) for p, w in enumerate((1.5, -2.0, 0.5, 1.0, 3.0))]
    plain = [torch.ones(2, 1), x.mean((2, 3)), *head.sketch(x)]
    wanted = torch.cat([weight * part for weight, part in zip(a, plain, strict=True)], dim=1)
    torch.testing.assert_close(head.moments(of(x)), wanted)
    torch.testing.assert_close(head.composition().tolist(), a, rtol=1e-5, atol=0)


@pytest.mark.parametrize("gamma", [1e-4, 0.5, 3.0])
def test_the_weights_start_at_the_series_of_the_gaussian_kernel(gamma):
    wanted = [math.sqrt(math.exp(-2 * gamma) * (2 * gamma) ** p / math.factorial(p)) for p in range(5)]
    shared = math.exp(-gamma)
    found = (shared * small(gamma=gamma).composition()).tolist()
    torch.testing.assert_close(found, wanted, rtol=1e-5, atol=0)


def test_inner_products_of_unit_vectors_stand_for_the_gaussian_kernel():
    x = picture(2, 6, 1)
    x = x / x.norm(dim=1, keepdim=True)
    gamma = 0.5
    heads = [small(gamma=gamma, order=6, dim=256, seed=seed) for seed in range(100)]
    inner = torch.stack([torch.mul(*head.moments(of(x))).sum() for head in heads]).detach()
    found = math.exp(-2 * gamma) * inner
    wanted = torch.exp(-gamma * (x[0] - x[1]).square().sum())
    error = float(found.std()) / 10
    assert float((found.mean() - wanted).abs()) < 4 * error + 1e-4  # the series ends at order 6
    assert error < 0.01 * float(wanted)


def test_gamma_is_one_over_the_mean_inner_product_of_two_locations_by_hand():
    head = small(gamma="auto")
    pictures = torch.zeros(2, 6, 1, 2)
    pictures[0, 0] = torch.tensor([1.0, 3.0])  # products 1, 3, 3, 9: mean 4
    pictures[1, 1] = torch.tensor([2.0, -4.0])  # products 4, -8, -8, 16: mean 1
    prepare = head.hooks().prepare
    assert prepare is not None
    prepare(Core(), [(pictures, torch.tensor([0, 1]))])
    assert head.gamma.item() == pytest.approx(1 / 2.5)
    prepare(Core(), [(pictures[:1], torch.tensor([0])), (pictures[1:], torch.tensor([1]))])
    assert head.gamma.item() == pytest.approx(1 / 2.5)
    assert "gamma" in head.state_dict()
    assert not head.gamma.requires_grad


@pytest.mark.parametrize("scale", [1e-4, 1.0, 1e4])
def test_a_measured_gamma_gives_every_order_its_share_at_any_scale_of_activations(scale):
    x = picture(8).abs()
    head = small(gamma="auto")
    head.measure_gamma(Core(), [(scale * x, torch.zeros(8))])
    assert min(shares(head, scale * x)) > 0.01
    reference = small(gamma="auto")
    reference.measure_gamma(Core(), [(x, torch.zeros(8))])
    torch.testing.assert_close(
        head.moments(of(scale * x)), reference.moments(of(x)), rtol=1e-4, atol=1e-4 * float(x.max())
    )


def test_a_small_fixed_gamma_leaves_the_high_orders_of_unit_vectors_dead():
    x = picture(8)
    x = x / x.norm(dim=1, keepdim=True)
    head = small(gamma=1e-4)
    assert head.composition()[4].item() == pytest.approx(8.2e-9, rel=0.01)
    assert shares(head, x)[4] < 1e-12


def test_only_a_gamma_to_be_measured_asks_for_the_pictures():
    assert small(gamma="auto").hooks().prepare is not None
    assert small(gamma=2).hooks().prepare is None
    assert small(gamma="1e-4").gamma.item() == pytest.approx(1e-4)


@pytest.mark.parametrize("map_value", [0.0, math.inf, math.nan])
def test_activations_that_give_no_gamma_are_refused_with_the_cure(map_value):
    x = torch.full((2, 6, 2, 2), map_value)
    with pytest.raises(UsageError, match=r"map last over 2 training images .* --head\.options\.gamma"):
        small(gamma="auto").measure_gamma(Core(), [(x, torch.zeros(2))])


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"gamma": "none"}, "gamma is auto or a number above zero, got 'none'"),
        ({"gamma": 0.0}, "above zero, got 0.0"),
        ({"gamma": math.inf}, "above zero, got inf"),
        ({"order": 1}, r"order in \[2, 16\], got 16 and 1"),
        ({"order": 17}, r"order in \[2, 16\], got 16 and 17"),
        ({"seed": -1}, r"seed must lie in \[0, 2\^63\), got -1"),
        ({"seed": 2**63}, "seed must lie in"),
        (
            {"dim": 10**8},
            "order 4 and dim 100000000 with 3 classes holds 900 million parameters .*options.dim",
        ),
        ({"eps": 0.0}, "eps must be"),
        ({"scale": 0.0}, "scale must be"),
    ],
)
def test_options_out_of_range_are_refused(options, message):
    with pytest.raises(UsageError, match=message):
        small(**options)


@pytest.mark.parametrize("order", [2, 4])
def test_the_weight_of_every_order_learns(order):
    head = small(order=order)
    head.infer(of(picture())).square().sum().backward()
    assert head.weights.shape == (order + 1,)
    assert head.weights.grad is not None
    assert (head.weights.grad.abs() > 0).all()


def test_a_stored_head_answers_the_same_in_a_model_of_another_seed_and_gamma():
    x = of(picture())
    trained, loaded = small(gamma=2.0, seed=0), small(gamma="auto", seed=1)
    loaded.load_state_dict(trained.state_dict())
    assert torch.equal(trained.infer(x), loaded.infer(x))


def test_every_picture_counts_alone_at_any_size():
    head = small(scale=3.0)
    x = picture(3, 6, 5)
    torch.testing.assert_close(head.infer(of(x[1:2])), head.infer(of(x))[1:2])
    wanted = 3 * head.descriptor(of(x)) @ head.classifier.weight.T
    torch.testing.assert_close(head(of(x)).logits, wanted)
    assert head.infer(of(picture(2, 6, 1))).isfinite().all()


def test_large_activations_in_half_precision_do_not_overflow():
    head = small(gamma="auto")
    x = 1000 * picture().abs()
    head.measure_gamma(Core(), [(x.half(), torch.zeros(2))])
    with torch.autocast("cpu", dtype=torch.float16):
        found = head.moments(of(x.half()))
    assert found.dtype == torch.float32
    torch.testing.assert_close(found, head.moments(of(x.half().float())))


def test_a_step_in_bfloat16_stays_finite_and_reaches_every_weight():
    torch.manual_seed(0)
    body = build_backbone("test_resnet", "none", taps=KernelPoolingHead.default_taps, embed=False)
    head = KernelPoolingHead.build(body, 3, dim=64)
    model = Classifier(body, head).eval()
    images = torch.randn(4, 3, 64, 64)
    head.measure_gamma(model, [(images, torch.zeros(4))])
    model.train()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    for _ in range(2):
        with torch.autocast("cpu", dtype=torch.bfloat16):
            logits = model(images).logits
        loss = nn.functional.cross_entropy(logits.float(), torch.tensor([0, 1, 2, 0]))
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    assert loss.isfinite()
    for name, parameter in model.named_parameters():
        assert parameter.grad is not None, name
        assert parameter.grad.isfinite().all(), name
        assert parameter.grad.abs().sum() > 0, name
