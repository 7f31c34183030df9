import pytest
import torch
from torch import nn

from finetune.errors import UsageError
from finetune.models.classifier import build_classifier, has_batch_norm, num_parameters, unwrap
from finetune.models.heads import registry as heads
from finetune.models.heads.base import Head, HeadOutput


@pytest.fixture(autouse=True)
def _one_thread():
    torch.set_num_threads(1)
    torch.manual_seed(0)


def test_a_classifier_trains_and_infers_from_images():
    model = build_classifier(
        "mobilenetv3_small_050", "linear", 4, weights="none", head_options={"dropout": 0.2}
    )
    images = torch.randn(2, 3, 32, 32)
    model(images, torch.tensor([0, 3])).logits.sum().backward()
    assert all(p.grad is not None for p in model.parameters())
    model.eval()
    with torch.inference_mode():
        assert torch.equal(model.infer(images), model(images).logits)
        assert model.infer(images).shape == (2, 4)


def test_the_parts_of_a_state_dict_are_named_backbone_and_head():
    model = build_classifier("resnet18", "linear", 4, weights="none")
    assert {name.split(".")[0] for name in model.state_dict()} == {"backbone", "head"}
    assert {name for name in model.state_dict() if name.startswith("head")} == {
        "head.classifier.weight",
        "head.classifier.bias",
    }


def test_the_number_of_parameters_is_the_sum_over_both_parts():
    model = build_classifier("resnet18", "linear", 8, weights="none")
    assert num_parameters(model) == 11_176_512 + 513 * 8
    model.freeze_backbone(True)
    assert num_parameters(model, trainable_only=True) == 513 * 8


def test_a_head_gets_the_maps_it_asks_for(monkeypatch):
    class MapHead(Head):
        default_taps = (16,)
        uses_embedding = False

        def __init__(self, tap, channels, num_classes):
            super().__init__()
            self.tap = tap
            self.classifier = nn.Conv2d(channels, num_classes, 1)

        @classmethod
        def build(cls, backbone, num_classes):
            return cls(backbone.taps[0], backbone.map_dims[backbone.taps[0]], num_classes)

        def forward(self, features, target=None):
            scores = self.classifier(features.maps[self.tap])
            return HeadOutput(scores.amax((2, 3)), maps={"scores": scores})

    monkeypatch.setitem(heads.HEADS, "map", MapHead)
    model = build_classifier("resnet18", "map", 5, weights="none")
    output = model(torch.randn(2, 3, 64, 64))
    assert output.logits.shape == (2, 5)
    assert output.maps["scores"].shape == (2, 5, 4, 4)
    assert model.backbone.taps == (16,)
    assert model.backbone.embedding_dim == 0
    other = build_classifier("resnet18", "map", 5, weights="none", taps=("last-2",))
    assert other(torch.randn(2, 3, 64, 64)).maps["scores"].shape == (2, 5, 8, 8)
    features = other.backbone(torch.randn(2, 3, 64, 64))
    torch.testing.assert_close(other(features).logits, other.head(features).logits)
    with pytest.raises(UsageError, match=r"reads 1 feature maps \(by default 16\); head.taps names 8, 16"):
        build_classifier("resnet18", "map", 5, weights="none", taps=(8, 16))


def test_an_unknown_head_is_refused_before_the_backbone_is_built():
    with pytest.raises(UsageError, match="no head is called"):
        build_classifier("no_such_backbone", "no_such_head", 4)


def test_batch_norm_is_found_where_there_is_any():
    assert has_batch_norm(build_classifier("resnet18", "linear", 2, weights="none"))
    assert not has_batch_norm(build_classifier("convnext_atto", "linear", 2, weights="none"))


def test_a_compiled_model_is_unwrapped_to_itself():
    model = build_classifier("convnext_atto", "linear", 2, weights="none")
    assert unwrap(torch.compile(model)) is model
    assert unwrap(model) is model


def test_a_classifier_exports_as_one_graph_and_matches_itself():
    model = build_classifier("convnext_atto", "linear", 3, weights="none").eval()

    class Inference(nn.Module):
        def __init__(self):
            super().__init__()
            self.model = model

        def forward(self, images):
            return self.model.infer(images)

    images = torch.randn(2, 3, 32, 32)
    batch = torch.export.Dim("batch", min=1, max=64)
    program = torch.export.export(Inference(), (images,), dynamic_shapes=({0: batch},))
    other = torch.randn(5, 3, 32, 32)
    with torch.inference_mode():
        torch.testing.assert_close(program.module()(other), model.infer(other), rtol=1e-4, atol=1e-5)
