"""Two backbones as one: which maps come from where, scales, saving and loading, and what is refused."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from finetune.errors import UsageError
from finetune.images.batches import normalise
from finetune.models.backbone import Features, build_backbone
from finetune.models.bundle import save_bundle
from finetune.models.classifier import build_classifier
from finetune.models.grad_cam import grad_cam
from finetune.models.heads.base import FeatureDims, Head, HeadOutput
from finetune.models.heads.registry import HEADS
from finetune.models.twin_backbone import TwinBackbone
from finetune.models.two_view import TwoView
from finetune.training.config import FitConfig, HeadConfig, to_dict
from finetune.training.data import TrainingData
from finetune.training.learner import build_learner, load_classifier
from finetune.training.optimization.distributed import World
from finetune.training.optimization.optim import parameter_groups
from tests.finetune.quick import quick, train, trained_hash

pytestmark = pytest.mark.usefixtures("one_thread")


class PairHead(Head):
    """Logits from the means of both backbones' maps."""

    default_taps = ("last",)
    uses_embedding = False
    reads_second = True

    def __init__(self, channels: int, others: int, num_classes: int) -> None:
        super().__init__()
        self.own, self.other = nn.Linear(channels, num_classes), nn.Linear(others, num_classes)

    @classmethod
    def build(cls, backbone: FeatureDims, num_classes: int) -> PairHead:
        return cls(backbone.map_dims[backbone.taps[0]], backbone.map_dims["second"], num_classes)

    def forward(self, features: Features, target: Tensor | None = None) -> HeadOutput:
        own, other = features.maps["last"].mean((2, 3)), features.maps["second"].mean((2, 3))
        return HeadOutput(self.own(own) + self.other(other))


@pytest.fixture(autouse=True)
def _pair_head(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(HEADS, "pair", PairHead)


def twin(first: str = "test_resnet", second: str = "test_convnext") -> TwinBackbone:
    torch.manual_seed(0)
    bodies = [build_backbone(name, "none", taps=("last",), embed=False) for name in (first, second)]
    return TwinBackbone(*bodies).eval()


def configured() -> FitConfig:
    config = quick(model_second="test_convnext", model_second_weights="none", train_epochs=1)
    return replace(config, head=HeadConfig("pair"))


def test_the_maps_of_both_have_their_names_channels_and_strides():
    body = twin()
    found = body(torch.randn(2, 3, 64, 64))
    assert list(found.maps) == ["last", "second"]
    assert body.taps == ("last",)
    for tap, values in found.maps.items():
        assert values.shape[1] == body.map_dims[tap]
        assert values.shape[2] == 64 // body.map_strides[tap]
    assert found.embedding.shape == (2, 0)


def test_each_backbone_sees_images_in_its_own_scale():
    body = twin()
    body.second.model.pretrained_cfg = {**body.second.model.pretrained_cfg, "mean": (0.1, 0.2, 0.3)}
    body.second.model.pretrained_cfg["std"] = (0.5, 0.25, 1.0)
    body = TwinBackbone(body.first, body.second).eval()
    pixels = torch.randint(0, 256, (2, 32, 32, 3), dtype=torch.uint8)
    own, other = body.first.preprocess_spec(), body.second.preprocess_spec()
    assert own.mean != other.mean
    found = body(normalise(pixels, own.mean, own.std))
    wanted = body.second(normalise(pixels, other.mean, other.std)).maps["last"]
    torch.testing.assert_close(found.maps["second"], wanted, rtol=1e-4, atol=1e-4)


def test_names_weights_and_what_never_decays_are_those_of_both():
    core = build_classifier(
        "test_vit", "pair", 3, weights="none", second="test_resnet", second_weights="none"
    )
    assert core.backbone.name == "test_vit and test_resnet"
    assert core.backbone.weights.to_dict()["second"]["kind"] == "none"
    assert "second weights: none" in core.backbone.weights.describe()
    groups = parameter_groups(core, lr=0.1, weight_decay=0.5)
    position = core.backbone.first.model.pos_embed
    (group,) = [each for each in groups if any(parameter is position for parameter in each["params"])]
    assert group["weight_decay"] == 0.0
    assert sum(len(each["params"]) for each in groups) == len(list(core.parameters()))


def test_two_backbones_train_resume_save_and_load(task: TrainingData, tmp_path: Path):
    config = configured()
    before = build_learner(task, config, World()).core.state_dict()
    fitted = train(task, tmp_path / "run", config)
    after = fitted.model.state_dict()
    learned = [
        name for name in before if name.endswith("weight") and not torch.equal(before[name], after[name])
    ]
    assert {name.split(".")[1] for name in learned} >= {"first", "second", "own", "other"}
    assert trained_hash(train(task, tmp_path / "run", config)) == trained_hash(fitted)
    facts = {
        "class_names": list(task.manifest.class_names),
        "preprocess": task.spec.to_dict(),
        "model": to_dict(config.model),
        "head": to_dict(config.head),
    }
    save_bundle(tmp_path / "model.safetensors", after, facts)
    again = load_classifier(tmp_path / "model.safetensors")[0]
    images = torch.randn(2, 3, 32, 32)
    with torch.inference_mode():
        torch.testing.assert_close(again.infer(images), fitted.model.infer(images))


def test_a_frozen_pair_is_cached_and_explained(task: TrainingData, tmp_path: Path):
    config = configured()
    config = replace(config, train=replace(config.train, frozen_epochs=1, augment="none"))
    kept = train(task, tmp_path / "kept", config)
    plain = train(task, tmp_path / "plain", replace(config, train=replace(config.train, frozen_views=0)))
    for name, value in plain.model.state_dict().items():
        torch.testing.assert_close(kept.model.state_dict()[name], value, rtol=1e-5, atol=1e-5)
    crop = task.source[0][:32, :32]
    assert grad_cam(kept.model, task.spec, crop, 1).shape == (32, 32)
    with torch.no_grad():
        assert TwoView(kept.model, task.spec).infer(torch.randn(2, 3, 32, 32)).shape == (2, 3)


def test_a_second_backbone_for_a_head_that_reads_one_is_refused():
    with pytest.raises(UsageError, match=r"the linear head reads one backbone, model\.second names another"):
        build_classifier("test_resnet", "linear", 3, weights="none", second="test_vit", second_weights="none")


def test_backbones_that_do_not_go_together_are_refused():
    body = build_backbone("test_vit", "none", taps=("last",), embed=False, image_size=32)
    other = build_backbone("test_vit", "none", taps=("last",), embed=False, image_size=64)
    with pytest.raises(UsageError, match="images of 32 px and test_vit for 64 px"):
        TwinBackbone(body, other)
    many = build_backbone("test_resnet", "none", taps=("last-1", "last"), embed=False)
    with pytest.raises(UsageError, match="one map, got taps"):
        TwinBackbone(body, many)
