from dataclasses import dataclass, field

import numpy as np
import pytest
import torch

from finegrained.heads.bilinear import BilinearHead
from finetune.errors import UsageError
from finetune.models.backbone import Features, build_backbone


@dataclass
class Dims:
    name: str = "tiny"
    embedding_dim: int = 0
    taps: tuple = ("last",)
    map_dims: dict = field(default_factory=lambda: {"last": 4})


TWIN = Dims(map_dims={"last": 4, "second": 3})


@pytest.fixture(autouse=True)
def _seed():
    torch.set_num_threads(1)
    torch.manual_seed(0)


def features(size=(3, 5), second=None):
    maps = {"last": torch.randn(2, 4, *size, requires_grad=True)}
    if second:
        maps["second"] = torch.randn(2, 3, *second, requires_grad=True)
    return Features(torch.zeros(2, 0), maps)


def slow_logits(head, first, second):
    """Return the logits for maps (B, C, n) by the formula, one image and one pair of channels at a time."""
    first, second = first.detach().numpy().astype(float), second.detach().numpy().astype(float)
    rows = []
    for a, b in zip(first, second, strict=True):
        products = np.array([[np.mean(a[i] * b[j]) for j in range(len(b))] for i in range(len(a))]).ravel()
        root = products / np.sqrt(np.abs(products) + head.eps * np.abs(products).mean())
        rows.append(root / np.linalg.norm(root))
    weight, bias = head.classifier.weight.detach().numpy(), head.classifier.bias.detach().numpy()
    return torch.tensor(head.scale * np.stack(rows) @ weight.T + bias, dtype=torch.float32)


@pytest.mark.parametrize("options", [{}, {"eps": 0.1}, {"scale": 7.0}])
def test_the_logits_are_those_of_the_formula_on_a_signed_map(options):
    head = BilinearHead.build(Dims(), 3, **options)
    torch.nn.init.normal_(head.classifier.bias)
    read = features()
    flat = read.maps["last"].flatten(2)
    assert flat.min() < 0
    torch.testing.assert_close(head(read).logits, slow_logits(head, flat, flat))
    assert torch.equal(head.infer(read), head(read).logits)


def test_a_reduction_is_a_matrix_on_the_channels_shared_by_both_sides():
    head = BilinearHead.build(Dims(), 3, reduction=2)
    read = features()
    reduced = torch.einsum("rc,bcn->brn", head.reduce.weight[:, :, 0, 0], read.maps["last"].flatten(2))
    torch.testing.assert_close(head(read).logits, slow_logits(head, reduced, reduced))
    assert head.classifier.weight.shape == (3, 4)
    assert head.reduce.bias is None


def test_two_trunks_are_multiplied_with_each_other_on_the_smaller_grid():
    head = BilinearHead.build(TWIN, 5)
    read = features((4, 4), (2, 2))
    averaged = read.maps["last"].unfold(2, 2, 2).unfold(3, 2, 2).mean((-1, -2)).flatten(2)
    expected = slow_logits(head, averaged, read.maps["second"].flatten(2))
    torch.testing.assert_close(head(read).logits, expected)
    assert head.classifier.weight.shape == (5, 4 * 3)


@pytest.mark.parametrize("reduction", [0, 2])
@pytest.mark.parametrize("dims", [Dims(), TWIN])
def test_the_gradient_reaches_every_weight_and_both_trunks(dims, reduction):
    head = BilinearHead.build(dims, 3, reduction=reduction)
    read = features((3, 3), (2, 4) if dims is TWIN else None)
    torch.nn.functional.cross_entropy(head(read).logits, torch.tensor([0, 2])).backward()
    for tensor in (*head.parameters(), *read.maps.values()):
        assert tensor.grad.abs().sum() > 0
    convolutions = len(dims.map_dims) if reduction else 0
    assert len(list(head.parameters())) == 2 + convolutions


def test_two_trunks_have_a_reduction_each():
    head = BilinearHead.build(TWIN, 3, reduction=2)
    assert head.reduce.weight.shape == (2, 4, 1, 1)
    assert head.reduce_second.weight.shape == (2, 3, 1, 1)


def test_the_classifier_starts_kaiming_normal_with_a_bias_of_zero():
    head = BilinearHead.build(Dims(map_dims={"last": 64}), 10)
    assert head.classifier.weight.std().item() == pytest.approx((2 / 64**2) ** 0.5, rel=0.02)
    assert head.classifier.bias.abs().sum() == 0


def test_a_scale_of_s_moves_the_logits_as_a_rate_s_squared_as_high_does():
    plain, scaled = (BilinearHead.build(Dims(), 3, scale=scale) for scale in (1.0, 10.0))
    with torch.no_grad():
        scaled.classifier.weight.copy_(plain.classifier.weight / 10)
    read = features()
    for head, rate in ((plain, 1.0), (scaled, 0.01)):
        torch.nn.functional.cross_entropy(head(read).logits, torch.tensor([0, 2])).backward()
        with torch.no_grad():
            head.classifier.weight -= rate * head.classifier.weight.grad
    torch.testing.assert_close(plain(read).logits, scaled(read).logits)


def test_under_autocast_the_descriptor_is_float32_and_a_step_stays_finite():
    head = BilinearHead.build(Dims(), 3, reduction=2)
    read = features()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert head.descriptor(read).dtype == torch.float32
        logits = head(read).logits
    torch.nn.functional.cross_entropy(logits.float(), torch.tensor([0, 2])).backward()
    assert all(torch.isfinite(parameter.grad).all() for parameter in head.parameters())


def test_a_head_too_large_to_be_meant_is_refused_with_its_cost_and_the_cure():
    wide = Dims(map_dims={"last": 2048})
    with pytest.raises(UsageError, match=r"839 million parameters \(3\.4 GB.*head\.options\.reduction 256"):
        BilinearHead.build(wide, 200)
    assert BilinearHead.build(wide, 200, reduction=16).classifier.weight.shape == (200, 256)
    with pytest.raises(UsageError, match=r"--head\.options\.max_weights 32"):
        BilinearHead.build(Dims(), 2, max_weights=31)
    assert BilinearHead.build(Dims(), 2, max_weights=32).classifier.weight.numel() == 32


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"reduction": -1}, "reduction must be 0 .* got -1"),
        ({"eps": 0.0}, "eps must be a number above 0"),
        ({"eps": float("nan")}, "eps must be .* got nan"),
        ({"eps": float("inf")}, "eps must be .* got inf"),
        ({"scale": 0.0}, "scale must be a number above 0, got 0"),
        ({"scale": float("nan")}, "scale must be .* got nan"),
        ({"scale": float("inf")}, "scale must be .* got inf"),
    ],
)
def test_options_out_of_range_are_refused(options, message):
    with pytest.raises(UsageError, match=message):
        BilinearHead.build(Dims(), 3, **options)


def test_on_vgg_it_reads_relu5_3_before_the_pooling_and_has_the_papers_size():
    with torch.device("meta"):
        backbone = build_backbone(
            "vgg16", "none", taps=BilinearHead.default_taps, embed=BilinearHead.uses_embedding
        )
        head = BilinearHead.build(backbone, 200)
        read = backbone(torch.zeros(1, 3, 448, 448))
        assert read.maps["last"].shape == (1, 512, 28, 28)  # pool5 would be 14 x 14
        assert head(read).logits.shape == (1, 200)
    assert sum(p.numel() for p in head.parameters()) == 512 * 512 * 200 + 200
    assert sum(p.numel() for p in (*backbone.parameters(), *head.parameters())) == 14_714_688 + 52_429_000
