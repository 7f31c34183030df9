"""The exported graph against training's own way to the logits, and its class maps against the logits."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from apps.export.graph import EnsembleGraph, ExportGraph, build_graph, find_map_layout
from finetune.images.batches import normalise
from finetune.models.backbone import Features
from finetune.models.classifier import Classifier
from finetune.models.heads.base import Head, HeadOutput
from tests.apps.random_nets import random_net, random_pictures, spec_of

SIZES = {
    "resnet18": 64,
    "mobilenetv3_small_050": 64,
    "convnext_atto": 64,
    "vit_tiny_patch16_224": 64,
    "swin_tiny_patch4_window7_224": 56,
    "tf_efficientnet_lite0": 64,
}
LAYOUTS = {"resnet18": "NCHW", "tf_efficientnet_lite0": "NCHW", "swin_tiny_patch4_window7_224": "NHWC"}


def pictures(size: int, count: int = 4) -> Tensor:
    return torch.from_numpy(random_pictures(count, size))


def test_scaling_is_training_s_to_the_last_bit():
    spec, images = spec_of(32), pictures(32)
    graph = ExportGraph(random_net("test_resnet", 32), spec)
    assert torch.equal(graph.scaled(images), normalise(images, spec.mean, spec.std))


@pytest.mark.parametrize("backbone", SIZES)
@torch.no_grad()
def test_answers_are_the_classifier_s_and_maps_are_there_where_they_explain_them(backbone: str):
    size = SIZES[backbone]
    core, spec, images = random_net(backbone, size), spec_of(size), pictures(size)
    wanted = core.infer(normalise(images, spec.mean, spec.std))
    graph = build_graph([core], spec, images)
    logits, probs, *cams = graph(images)
    torch.testing.assert_close(logits, wanted, rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(probs, logits.softmax(1))
    assert graph.layout == LAYOUTS.get(backbone)
    assert graph.output_names == ["logits", "probs", "cams"][: 2 + len(cams)]
    if graph.layout:
        assert cams[0].shape[:2] == logits.shape
        assert cams[0].std((2, 3)).min() > 0
        explained = cams[0].mean((2, 3)) + core.head.classifier.bias
        torch.testing.assert_close(explained, logits, rtol=1e-4, atol=1e-4)


def test_no_maps_where_the_embedding_is_not_the_mean_of_the_last_map():
    core = random_net("test_resnet", 64)
    assert find_map_layout(core, spec_of(64), pictures(64)) == "NCHW"
    core.backbone.model.global_pool = MaxPool()
    assert find_map_layout(core, spec_of(64), pictures(64)) is None


def test_no_maps_for_another_head():
    core = random_net("test_resnet", 32)
    other = Classifier(core.backbone, Doubled(core.head))
    assert find_map_layout(other, spec_of(32), pictures(32)) is None
    assert len(build_graph([other], spec_of(32), pictures(32))(pictures(32))) == 2


@torch.no_grad()
def test_ensemble_is_the_mean_of_its_members_probabilities():
    cores, images = [random_net("test_resnet", 32, seed=seed) for seed in range(3)], pictures(32)
    graph = build_graph(cores, spec_of(32), images)
    assert isinstance(graph, EnsembleGraph)
    logits, probs, cams = graph(images)
    members = [ExportGraph(core, spec_of(32), "NCHW")(images) for core in cores]
    softmax = torch.stack([member[0].softmax(1) for member in members])
    assert softmax.std(0).max() > 0.05
    torch.testing.assert_close(probs, softmax.mean(0))
    torch.testing.assert_close(logits, softmax.mean(0).log(), rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(cams, torch.stack([member[2] for member in members]).mean(0))


@torch.no_grad()
def test_ensemble_s_logits_are_finite_where_a_probability_is_zero():
    cores = [random_net("test_resnet", 32, seed=seed) for seed in range(2)]
    for core in cores:
        core.head.classifier.weight *= 1000
    logits, probs, *_ = build_graph(cores, spec_of(32), pictures(32))(pictures(32))
    assert (probs == 0).any()
    assert logits.isfinite().all()


@torch.no_grad()
def test_ensemble_has_maps_only_where_every_member_has():
    with_maps, without = random_net("test_resnet", 64), random_net("test_resnet", 64, seed=1)
    without.backbone.model.global_pool = MaxPool()
    assert len(build_graph([with_maps, without], spec_of(64), pictures(64))(pictures(64))) == 2
    with pytest.raises(ValueError, match="differ in layout"):
        EnsembleGraph([ExportGraph(with_maps, spec_of(64), "NCHW"), ExportGraph(without, spec_of(64))])


def test_graphs_are_in_evaluation_mode():
    core = random_net("test_resnet", 32).train()
    graph = EnsembleGraph([ExportGraph(core, spec_of(32))])
    assert not any(module.training for module in graph.modules())


class MaxPool(nn.Module):
    def forward(self, images: Tensor) -> Tensor:
        return images.amax((2, 3))


class Doubled(Head):
    def __init__(self, inner: Head) -> None:
        super().__init__()
        self.inner = inner

    def forward(self, features: Features, target: Tensor | None = None) -> HeadOutput:
        return HeadOutput(2 * self.inner(features).logits)
