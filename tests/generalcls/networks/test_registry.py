"""Networks: parameter counts derived by hand, sizes, seeds, and training side by side equal to one by one."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn
from torch.func import functional_call, stack_module_state, vmap

from finetune.errors import UsageError
from generalcls.networks.dropout import Dropout
from generalcls.networks.registry import (
    NETWORKS,
    Network,
    build_network,
    count_parameters,
    network_facts,
    suitable_network,
)
from generalcls.networks.small import Dense
from generalcls.networks.vgg_densenet import VGG_STAGES


def conv(in_maps: int, out_maps: int, side: int = 3, *, bias: int = 0) -> int:
    return in_maps * out_maps * side * side + bias * out_maps


def linear(width: int, made: int) -> int:
    return width * made + made


def norm(width: int) -> int:
    return 2 * width


def resnet(blocks: list[int], num_classes: int, *, bottleneck: bool) -> int:
    """Count He et al. (2016), Table 1, with a 3x3 stem; projections where the shape changes."""
    total, width = conv(3, 64) + norm(64), 64
    for stage, depth in enumerate(blocks):
        inner = 64 * 2**stage
        outer = inner * 4 if bottleneck else inner
        for place in range(depth):
            if bottleneck:
                total += conv(width, inner, 1) + conv(inner, inner) + conv(inner, outer, 1) + 2 * norm(inner)
            else:
                total += conv(width, inner) + conv(inner, inner) + norm(inner)
            total += norm(outer)
            if place == 0 and width != outer:
                total += conv(width, outer, 1) + norm(outer)
            width = outer
    return total + linear(width, num_classes)


def resnet164(num_classes: int) -> int:
    """Count He et al. (2016b): norm before each convolution and at the end, projections without."""
    total, width = conv(3, 16), 16
    for inner in (16, 32, 64):
        for _ in range(18):
            outer = 4 * inner
            total += norm(width) + conv(width, inner, 1) + 2 * norm(inner)
            total += conv(inner, inner) + conv(inner, outer, 1) + (width != outer) * conv(width, outer, 1)
            width = outer
    return total + norm(width) + linear(width, num_classes)


def vgg(name: str, num_classes: int) -> int:
    total, width = 0, 3
    for stage, depth in VGG_STAGES[name]:
        for _ in range(depth):
            total, width = total + conv(width, stage, bias=1) + norm(stage), stage
    return total + linear(width, num_classes)


def densenet40(num_classes: int) -> int:
    total, width = conv(3, 16), 16
    for block in range(3):
        total += (block > 0) * (norm(width) + conv(width, width, 1))
        for _ in range(12):
            total, width = total + norm(width) + conv(width, 12), width + 12
    return total + norm(width) + linear(width, num_classes)


def mobilenetv2(num_classes: int) -> int:
    """Count Sandler et al. (2018), Table 2: (expansion, maps, blocks)."""
    total, width = conv(3, 32) + norm(32), 32
    for expansion, maps, depth in (
        (1, 16, 1), (6, 24, 2), (6, 32, 3), (6, 64, 4), (6, 96, 3), (6, 160, 3), (6, 320, 1)
    ):  # fmt: skip
        for _ in range(depth):
            inner = expansion * width
            total += (expansion > 1) * (conv(width, inner, 1) + norm(inner))
            total += conv(1, inner) + norm(inner) + conv(inner, maps, 1) + norm(maps)
            width = maps
    return total + conv(width, 1280, 1) + norm(1280) + linear(1280, num_classes)


# (network, channels, px, classes, derived by the rule above, told by others or worked out by hand)
COUNTS = [
    ("logistic", 1, 28, 10, linear(784, 10), 7_850),
    ("mlp", 1, 28, 10, linear(784, 512) + linear(512, 10), 407_050),
    (
        "mnist_cnn", 1, 28, 10,
        conv(1, 32, bias=1) + conv(32, 64, bias=1) + linear(64 * 12 * 12, 128) + linear(128, 10),
        1_199_882,  # keras-team/keras, examples/mnist_cnn.py, model.summary()
    ),
    (
        "cifar_cnn", 3, 32, 10,
        sum(conv(a, b, bias=1) for a, b in ((3, 32), (32, 32), (32, 64), (64, 64)))
        + linear(64 * 6 * 6, 512) + linear(512, 10),
        1_250_858,  # keras-team/keras, examples/cifar10_cnn.py, model.summary()
    ),
    ("resnet34", 3, 32, 10, resnet([3, 4, 6, 3], 10, bottleneck=False), 21_282_122),
    ("resnet50", 3, 32, 10, resnet([3, 4, 6, 3], 10, bottleneck=True), 23_520_842),
    ("resnet101", 3, 32, 100, resnet([3, 4, 23, 3], 100, bottleneck=True), 42_697_380),
    ("resnet164", 3, 32, 10, resnet164(10), 1_703_258),  # "1.7M": He et al. (2016b), Table 4
    ("vgg16_bn", 3, 32, 10, vgg("vgg16_bn", 10), 14_728_266),
    ("vgg19_bn", 3, 32, 10, vgg("vgg19_bn", 10), 20_040_522),
    ("densenet40", 3, 32, 10, densenet40(10), 1_019_722),  # "1.0M": Huang et al. (2017), Table 2
    ("mobilenetv2", 3, 32, 100, mobilenetv2(100), 2_351_972),
    # 21,797,672: torchvision's and timm's published count of ResNet-34 at 1,000 classes
    (
        "timm/resnet34", 3, 64, 1000,
        resnet([3, 4, 6, 3], 1000, bottleneck=False) - conv(3, 64) + conv(3, 64, 7),
        21_797_672,
    ),
]  # fmt: skip


@pytest.mark.parametrize(("name", "channels", "px", "classes", "derived", "told"), COUNTS)
def test_parameters_are_those_of_the_papers(
    name: str, channels: int, px: int, classes: int, derived: int, told: int
) -> None:
    network = build_network(name, channels=channels, image_size=px, num_classes=classes)
    assert count_parameters(network) == derived == told


def test_every_network_has_its_count_tested() -> None:
    assert {row[0] for row in COUNTS if not row[0].startswith("timm/")} == set(NETWORKS)


def test_mobilenetv2_has_the_published_size_on_imagenet() -> None:
    assert mobilenetv2(1000) == 3_504_872  # torchvision's and timm's count; "3.4M" in the paper's Table 4


# Their blocks are those of their smaller sisters, which the default run tests.
LARGE = {"resnet50", "resnet101", "vgg19_bn"}
ALL_BY_COST = [
    pytest.param(name, marks=pytest.mark.exhaustive) if name in LARGE else name for name in NETWORKS
]
SMALLEST = {"logistic": 8, "mlp": 8, "mnist_cnn": 8, "vgg16_bn": 32, "vgg19_bn": 32}


def _fixed_masks(network: nn.Module, images: Tensor) -> None:
    """Give every dropout one mask, drawn here; torch's generator must not decide."""
    network.eval()
    network(images)
    generator = torch.Generator().manual_seed(5)
    for part in network.modules():
        if isinstance(part, Dropout) and part.p:
            shape = (len(images), *part.shape)
            part.keep = torch.rand(shape, generator=generator) > part.p
    network.train()


# torch has no batched rule for a CPU's attention: slower, not wrong
@pytest.mark.filterwarnings("ignore:There is a performance drop")
@pytest.mark.parametrize("name", [*ALL_BY_COST, "timm/mobilenetv3_small_050", "timm/vit_tiny_patch16_224"])
def test_two_models_side_by_side_equal_the_two_one_by_one(name: str) -> None:
    px = SMALLEST.get(name, 16)
    images = torch.rand(3, 3, px, px, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    models: list[Network] = []
    for seed in (0, 1):
        torch.manual_seed(seed)
        models.append(build_network(name, channels=3, image_size=px, num_classes=5).double())
        _fixed_masks(models[-1], images)
    params, buffers = stack_module_state(models)  # type: ignore[arg-type]
    buffers = {key: buffer.clone() for key, buffer in buffers.items()}
    skeleton = models[0]

    def one(
        own_params: dict[str, Tensor], own_buffers: dict[str, Tensor]
    ) -> tuple[Tensor, dict[str, Tensor]]:
        return functional_call(skeleton, (own_params, own_buffers), (images,)), own_buffers

    together, after = vmap(one, randomness="error")(params, buffers)
    apart = torch.stack([model(images) for model in models])
    assert together.shape == (2, 3, 5)
    assert not torch.allclose(apart[0], apart[1])
    torch.testing.assert_close(together, apart, rtol=1e-8, atol=1e-8)
    for key, buffer in after.items():
        assert not key.endswith("running_mean") or not torch.equal(buffer[0], torch.zeros_like(buffer[0]))
        for row, model in enumerate(models):
            torch.testing.assert_close(buffer[row], model.get_buffer(key), rtol=1e-8, atol=1e-8)


@pytest.mark.parametrize(
    "name", ["mlp", "cifar_cnn", "resnet164", "densenet40", "timm/mobilenetv3_small_050"]
)
def test_first_weights_are_a_function_of_the_seed(name: str) -> None:
    def first(seed: int) -> list[Tensor]:
        torch.manual_seed(seed)
        return list(build_network(name, channels=3, image_size=16, num_classes=4).parameters())

    assert all(torch.equal(a, b) for a, b in zip(first(3), first(3), strict=True))
    assert not all(torch.equal(a, b) for a, b in zip(first(3), first(4), strict=True))


@pytest.mark.parametrize("name", NETWORKS)
def test_nothing_works_in_place_and_dropout_is_ours(name: str) -> None:
    network = build_network(name, channels=1, image_size=max(SMALLEST.get(name, 16), 16), num_classes=3)
    assert network.training
    assert not any(getattr(part, "inplace", False) for part in network.modules())
    assert not any(isinstance(part, nn.Dropout) for part in network.modules())


@pytest.mark.parametrize("name", ALL_BY_COST)
def test_small_images_of_both_ends_are_read(name: str) -> None:
    smallest, largest = NETWORKS[name].sizes
    for px in {max(smallest, 4), min(largest, 45)}:
        network = build_network(name, channels=1, image_size=px, num_classes=3).eval()
        images = torch.rand(2, 1, px, px)
        with torch.no_grad():
            embedding = network.features(images)
            assert embedding.shape == (2, network.classifier.in_features)
            torch.testing.assert_close(network(images), network.classifier(embedding))


def test_the_deep_networks_keep_the_resolution_of_small_images() -> None:
    maps: dict[str, tuple[int, ...]] = {}
    for name, place in (("resnet34", "layer4"), ("resnet164", "stages"), ("mobilenetv2", "conv_head")):
        trunk = build_network(name, channels=3, image_size=32, num_classes=10).trunk.eval()
        trunk.get_submodule(place).register_forward_hook(
            lambda _module, _given, made, name=name: maps.update({name: tuple(made.shape[2:])})
        )
        with torch.no_grad():
            trunk(torch.rand(1, 3, 32, 32))
    assert maps == {"resnet34": (4, 4), "resnet164": (8, 8), "mobilenetv2": (4, 4)}


def test_timm_models_train_without_stochastic_depth() -> None:
    network = build_network("timm/swin_tiny_patch4_window7_224", channels=3, image_size=32, num_classes=3)
    images = torch.rand(2, 3, 32, 32)
    torch.testing.assert_close(network(images), network(images), rtol=0, atol=0)


@pytest.mark.parametrize(
    ("name", "px", "told"),
    [
        ("cifar_cnn", 8, "reads images of 16 to 64 px, got 8 px"),
        ("resnet34", 224, "timm/NAME for large images"),
        ("vgg16_bn", 28, "reads images of 32 to 64 px"),
        (
            "timm/vit_tiny_patch16_224",
            8,
            "patches of 16 px, and 8 px is no multiple.*image size of 16",
        ),
        ("timm/resnet43", 32, "did you mean resnet"),
        ("resnet43", 32, "there are logistic, mlp, mnist_cnn"),
    ],
)
def test_what_cannot_be_built_is_refused(name: str, px: int, told: str) -> None:
    with pytest.raises(UsageError, match=told):
        build_network(name, channels=3, image_size=px, num_classes=10)


def test_one_class_is_refused() -> None:
    with pytest.raises(UsageError, match="at least 2 classes, got 1"):
        build_network("mlp", channels=1, image_size=8, num_classes=1)


def test_scaling_is_known_without_building() -> None:
    assert network_facts("mnist_cnn").scaling == "unit"
    assert network_facts("resnet34").scaling == network_facts("timm/anything").scaling == "standard"


def test_each_data_set_has_a_suitable_network() -> None:
    px = {"digits": 8, "mnist": 28, "cifar10": 32, "cifar100": 32, "svhn": 32, "imagenet": 224, "folders": 64}
    chosen = {name: suitable_network(name, side) for name, side in px.items()}
    assert chosen == {
        "digits": "mlp",
        "mnist": "mnist_cnn",
        "cifar10": "cifar_cnn",
        "cifar100": "cifar_cnn",
        "svhn": "cifar_cnn",
        "imagenet": "timm/resnet34",
        "folders": "cifar_cnn",
    }
    assert suitable_network("folders", 8) == suitable_network("folders", 128) == "timm/resnet18"


@pytest.mark.parametrize("half", [False, True])
def test_our_dense_layer_answers_in_the_format_of_torchs(half: bool):
    torch.manual_seed(1)  # no sum near zero, where the second rounding of half precision shows
    layer, inputs = Dense(6, 4), torch.randn(5, 6)
    with torch.autocast("cpu", torch.bfloat16, enabled=half):
        own, theirs = layer(inputs), nn.functional.linear(inputs, layer.weight, layer.bias)
    assert own.dtype == theirs.dtype
    torch.testing.assert_close(own, theirs)
