"""Grad-CAM against the class activation map, and on every layout that a backbone may have."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pytest
import torch

from finetune.errors import UsageError
from finetune.figures.evidence import evidence_map
from finetune.images.batches import normalise
from finetune.images.preprocess import PreprocessSpec
from finetune.models.backbone import Features
from finetune.models.classifier import Classifier, build_classifier
from finetune.models.grad_cam import grad_cam
from finetune.models.heads.base import FeatureDims, Head, HeadOutput
from finetune.models.heads.registry import HEADS
from finetune.models.layers import as_maps

SIZE = 64
SPEC = PreprocessSpec(SIZE, "warp", SIZE, "bicubic", (0.5, 0.5, 0.5), (0.25, 0.25, 0.25))


def network(name: str, seed: int = 0) -> Classifier:
    """Return a small untrained network whose batch normalisation has the statistics of noise."""
    torch.manual_seed(seed)
    fixed = SIZE if "vit" in name or "swin" in name else None
    core = build_classifier(name, "linear", 5, weights="none", image_size=fixed)
    for module in core.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            module.momentum = 1.0
            module.weight.data.uniform_(0.5, 1.5)
    with torch.no_grad():
        core.train()(torch.randn(8, 3, SIZE, SIZE))
    torch.nn.init.normal_(core.head.classifier.weight)
    return core.eval()


class Both(Head):
    """Reads the last two maps, and the embedding unless it is told not to: a product of the three."""

    default_taps = ("last-1", "last")
    uses_embedding = True

    def __init__(self, dims: tuple[int, ...], num_classes: int) -> None:
        super().__init__()
        self.parts = torch.nn.ModuleList(torch.nn.Linear(dim, num_classes) for dim in dims)

    @classmethod
    def build(cls, backbone: FeatureDims, num_classes: int) -> Both:
        dims = [backbone.map_dims[tap] for tap in backbone.taps]
        return cls((*dims, backbone.embedding_dim) if cls.uses_embedding else tuple(dims), num_classes)

    def forward(self, features: Features, target: torch.Tensor | None = None) -> HeadOutput:
        inputs = [values.amax((2, 3)) for values in features.maps.values()]
        inputs += [features.embedding] if self.uses_embedding else []
        logits = torch.stack([part(given) for part, given in zip(self.parts, inputs, strict=True)])
        return HeadOutput(logits.sum(0) + logits.prod(0))


class MapsOnly(Both):
    uses_embedding = False


def reading_maps(name: str, head: type[Both], monkeypatch: pytest.MonkeyPatch) -> Classifier:
    """Return an untrained network with one of these heads."""
    monkeypatch.setitem(HEADS, "both", head)
    torch.manual_seed(0)
    fixed = SIZE if "vit" in name or "swin" in name else None
    return build_classifier(name, "both", 5, weights="none", image_size=fixed).eval()


def test_a_head_that_reads_maps_and_embedding_is_explained_through_both(
    crop: np.ndarray, monkeypatch: pytest.MonkeyPatch
):
    core = reading_maps("test_resnet", Both, monkeypatch)
    images = normalise(torch.from_numpy(crop)[None], SPEC.mean, SPEC.std)
    maps = {tap: values.detach() for tap, values in core.backbone(images).maps.items()}
    maps["last"].requires_grad_()
    embedding = core.backbone.model.forward_head(maps["last"], pre_logits=True)
    logits = core.head.infer(Features(embedding, maps))
    torch.testing.assert_close(logits, core.infer(images))
    for index in range(5):
        (slope,) = torch.autograd.grad(logits[0, index], maps["last"], retain_graph=True)
        coarse = (slope[0].mean((1, 2), keepdim=True) * maps["last"].detach()[0]).sum(0).numpy()
        np.testing.assert_allclose(grad_cam(core, SPEC, crop, index), evidence_map(coarse, SIZE), atol=1e-4)


@pytest.mark.parametrize("head", [Both, MapsOnly])
@pytest.mark.parametrize(
    "name",
    [
        *("test_resnet", "test_vit", "test_convnext", "test_efficientnet", "mobilenetv3_small_050"),
        "swin_tiny_patch4_window7_224",
    ],
)
def test_heads_on_maps_are_explained_on_every_layout(
    name: str, head: type[Both], crop: np.ndarray, monkeypatch: pytest.MonkeyPatch
):
    core = reading_maps(name, head, monkeypatch)
    found = [grad_cam(core, SPEC, crop, index) for index in range(5)]
    assert all(evidence.shape == (SIZE, SIZE) and np.isfinite(evidence).all() for evidence in found)
    assert any(evidence.max() == 1 for evidence in found)


def test_maps_that_are_channels_first_already_are_not_turned(
    crop: np.ndarray, monkeypatch: pytest.MonkeyPatch
):
    core = reading_maps("swin_tiny_patch4_window7_224", MapsOnly, monkeypatch)
    images = normalise(torch.from_numpy(crop)[None], SPEC.mean, SPEC.std)
    maps = {tap: values.detach() for tap, values in core.backbone(images).maps.items()}
    logits = core.head.infer(Features(torch.empty(1, 0), maps | {"last": maps["last"].requires_grad_()}))
    (slope,) = torch.autograd.grad(logits[0, 1], maps["last"])
    coarse = (slope[0].mean((1, 2), keepdim=True) * maps["last"].detach()[0]).sum(0).numpy()
    np.testing.assert_allclose(grad_cam(core, SPEC, crop, 1), evidence_map(coarse, SIZE), atol=1e-4)


@pytest.fixture
def crop() -> np.ndarray:
    """A crop of noise, brighter towards one corner."""
    ramp = np.linspace(0, 120, SIZE)[:, None, None] + np.linspace(0, 100, SIZE)[None, :, None]
    noise = np.random.default_rng(0).integers(0, 36, (SIZE, SIZE, 3))
    return (ramp + noise).astype(np.uint8)


@pytest.mark.parametrize("name", ["test_resnet", "tf_efficientnet_lite0"])
def test_it_is_the_class_activation_map_where_the_head_is_linear_on_the_mean(name: str, crop: np.ndarray):
    core = network(name)
    with torch.no_grad():
        images = normalise(torch.from_numpy(crop)[None], SPEC.mean, SPEC.std)
        features = core.backbone.model.forward_features(images)
        maps = torch.einsum("kc,chw->khw", core.head.classifier.weight, features[0]).numpy()
    for class_index in range(5):
        found = grad_cam(core, SPEC, crop, class_index)
        np.testing.assert_allclose(found, evidence_map(maps[class_index], SIZE), atol=1e-4)
    assert max(grad_cam(core, SPEC, crop, index).max() for index in range(5)) == 1


@pytest.mark.parametrize(
    "name", ["test_vit", "test_convnext", "mobilenetv3_small_050", "swin_tiny_patch4_window7_224"]
)
def test_every_layout_of_features_becomes_a_map(name: str, crop: np.ndarray):
    core = network(name)
    found = [grad_cam(core, SPEC, crop, index) for index in range(5)]
    for evidence in found:
        assert evidence.shape == (SIZE, SIZE)
        assert np.isfinite(evidence).all()
        assert 0 <= evidence.min() <= evidence.max() <= 1
    assert any(evidence.max() == 1 for evidence in found)


def test_layouts_are_read_row_by_row():
    """Places numbered along the rows: 0 1 2 / 3 4 5 / 6 7 8, in one channel of two."""
    numbers = torch.arange(9.0)
    wanted = numbers.reshape(3, 3)
    tokens = torch.stack([numbers, -numbers], dim=1)
    with_class = torch.cat([torch.full((1, 2), 99.0), tokens])[None]
    for model, values in (
        (SimpleNamespace(num_prefix_tokens=1), with_class),
        (SimpleNamespace(), tokens[None]),
        (SimpleNamespace(output_fmt="NHWC"), tokens.reshape(1, 3, 3, 2)),
        (SimpleNamespace(output_fmt="NCHW"), tokens.T.reshape(1, 2, 3, 3)),
    ):
        found = as_maps(model, values)[0]
        assert found.shape == (2, 3, 3)
        assert torch.equal(found[0], wanted)
    for values in (with_class, torch.zeros(1, 5)):
        with pytest.raises(UsageError, match="places"):
            as_maps(SimpleNamespace(), values)


def test_the_model_is_left_as_it_was(crop: np.ndarray):
    core = network("test_resnet")
    core.train()
    core.backbone.model.bn1.eval()
    before = {name: value.clone() for name, value in core.state_dict().items()}
    modes = {name: module.training for name, module in core.named_modules()}
    with torch.inference_mode(False), torch.no_grad():
        grad_cam(core, SPEC, crop, 1)
    assert {name: module.training for name, module in core.named_modules()} == modes
    assert all(torch.equal(value, before[name]) for name, value in core.state_dict().items())
    assert all(parameter.grad is None for parameter in core.parameters())


def test_a_frozen_model_is_explained_as_well(crop: np.ndarray):
    core = network("test_vit")
    wanted = grad_cam(core, SPEC, crop, 2)
    core.requires_grad_(False)
    np.testing.assert_array_equal(grad_cam(core, SPEC, crop, 2), wanted)


def test_another_crop_or_class_is_refused(crop: np.ndarray):
    core = network("test_resnet")
    with pytest.raises(UsageError, match=r"0\.\.4"):
        grad_cam(core, SPEC, crop, 5)
    with pytest.raises(UsageError, match=r"\(64, 64, 3\)"):
        grad_cam(core, SPEC, crop[:32], 0)
