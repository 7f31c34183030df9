import os

import numpy as np
import pytest
import timm
import torch
from torch import nn

from finetune.errors import ModelFileError, UsageError
from finetune.images.decode import decode_image
from finetune.images.preprocess import preprocess
from finetune.models.backbone import build_backbone, build_trunk
from finetune.models.tensor_files import read_tensors

# name, image size, {stride: channels}
MODELS = [
    ("resnet18", 64, {8: 128, 32: 512}),
    ("mobilenetv3_small_050", 64, {16: 24, 32: 288}),
    ("vit_tiny_patch16_224", 64, {16: 192}),
    ("swin_tiny_patch4_window7_224", 64, {16: 384, 32: 768}),
    ("convnext_atto", 64, {32: 320}),
    pytest.param(
        "vgg11_bn", 64, {16: 512, 32: 512}, marks=pytest.mark.exhaustive
    ),  # 130 million weights, twice
]


@pytest.fixture(autouse=True)
def _one_thread():
    torch.set_num_threads(1)
    torch.manual_seed(0)


def randomise_batch_norm(model: nn.Module) -> None:
    """Give every batch norm its own statistics: freshly built residual blocks would hide mistakes."""
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            nn.init.uniform_(module.weight, 0.5, 1.5)
            nn.init.normal_(module.bias, std=0.1)
            module.running_mean.normal_(std=0.1)
            module.running_var.uniform_(0.5, 1.5)


def timm_model(name: str, size: int) -> nn.Module:
    fixed = {"img_size": size} if name.startswith(("vit", "swin")) else {}
    model = timm.create_model(name, num_classes=5, **fixed).eval()
    randomise_batch_norm(model)
    return model


def saved(model: nn.Module, file) -> str:
    torch.save(model.state_dict(), file)
    return str(file)


@pytest.mark.parametrize(("name", "size", "channels"), MODELS)
def test_embedding_under_timms_classifier_gives_timms_logits_and_maps_are_channels_first(
    name, size, channels, tmp_path
):
    model = timm_model(name, size)
    weights = saved(model, tmp_path / "weights.pth")
    backbone = build_backbone(name, weights, taps=tuple(channels), image_size=size).eval()
    images = torch.randn(2, 3, size, size)
    with torch.inference_mode():
        expected = model(images)
        features = backbone(images)
        logits = model.get_classifier()(features.embedding)
    torch.testing.assert_close(logits, expected, rtol=1e-5, atol=1e-6)
    assert expected.std() > 1e-4
    assert features.embedding.shape == (2, backbone.embedding_dim)
    assert backbone.map_dims == channels
    shapes = {stride: tuple(feature_map.shape) for stride, feature_map in features.maps.items()}
    assert shapes == {stride: (2, c, size // stride, size // stride) for stride, c in channels.items()}


@pytest.mark.parametrize(
    ("name", "size"), [("vit_tiny_patch16_224", 32), ("swin_tiny_patch4_window7_224", 32)]
)
def test_the_map_is_the_grid_of_the_tokens_in_reading_order(name, size):
    stride = 16 if name.startswith("vit") else 32
    backbone = build_backbone(name, "none", taps=(stride,), image_size=size if stride == 16 else 64).eval()
    side = backbone.image_size
    images = torch.randn(1, 3, side, side)
    with torch.inference_mode():
        tokens = backbone.model.forward_features(images)
        grid = backbone(images).maps[stride]
    flat = tokens[:, 1:] if stride == 16 else tokens.flatten(1, 2)
    torch.testing.assert_close(grid.flatten(2).transpose(1, 2), flat)


def test_without_taps_the_embedding_is_the_same():
    tapped = build_backbone("resnet18", "none", taps=(16,)).eval()
    plain = build_backbone("resnet18", "none").eval()
    plain.load_state_dict(tapped.state_dict())
    images = torch.randn(2, 3, 32, 32)
    with torch.inference_mode():
        torch.testing.assert_close(plain(images).embedding, tapped(images).embedding, rtol=0, atol=0)
        assert plain(images).maps == {}


def test_a_head_that_reads_maps_only_pays_for_no_layer_behind_them():
    backbone = build_backbone("vgg11_bn", "none", taps=(16,), embed=False)
    assert sum(p.numel() for p in backbone.parameters()) < 10_000_000
    features = backbone(torch.randn(2, 3, 32, 32))
    assert features.embedding.shape == (2, 0)
    assert features.maps[16].shape == (2, 512, 2, 2)
    features.maps[16].sum().backward()
    assert all(p.grad is not None for p in backbone.parameters())


def test_an_unknown_stride_is_refused_with_those_there_are():
    listed = "feature maps of stride 2, 4, 8, 16, 32, also called last, last-1, last-2, last-3; asked for "
    with pytest.raises(UsageError, match=f"{listed}last, 7"):
        build_backbone("resnet18", "none", taps=("last", 7))


# name, size, the module whose output "last-1" and "last" must be, their strides
PLACES = [
    ("vgg16", 64, ("features.22", "features.29"), (8, 16)),  # relu4_3, and relu5_3 before pool5
    ("vgg19_bn", 64, ("features.38", "features.51"), (8, 16)),
    ("resnet50", 64, ("layer3", "layer4"), (16, 32)),
    ("tf_efficientnet_lite0", 64, ("blocks.4", "blocks.6"), (16, 32)),
    ("convnext_atto", 64, ("stages.2", "stages.3"), (16, 32)),
    ("swin_tiny_patch4_window7_224", 64, ("layers.2", "layers.3"), (16, 32)),
    ("vit_tiny_patch16_224", 32, ("blocks.8", "blocks.11"), (16, 16)),
    ("vit_small_patch14_dinov2", 28, ("blocks.8", "blocks.11"), (14, 14)),
]


@pytest.mark.parametrize(("name", "size", "modules", "strides"), PLACES)
def test_places_counted_from_the_end_are_the_layers_that_the_methods_name(name, size, modules, strides):
    backbone = build_backbone(name, "none", taps=("last-1", "last"), embed=False, image_size=size).eval()
    assert (*backbone.map_strides.values(),) == strides
    caught = {}
    for place, module in zip(("last-1", "last"), modules, strict=True):
        found = backbone.model.get_submodule(module)
        found.register_forward_hook(lambda _m, _i, out, place=place: caught.update({place: out.clone()}))
    with torch.inference_mode():
        maps = backbone(torch.randn(1, 3, size, size)).maps
        for place, values in maps.items():
            expected = caught[place]
            if expected.ndim == 3:  # tokens: the final norm, and the grid without the class token
                tokens = backbone.model.norm(expected)[:, backbone.model.num_prefix_tokens :]
                expected = tokens.transpose(1, 2).unflatten(2, values.shape[2:])
            elif name.startswith("swin"):
                normed = backbone.model.norm(expected) if place == "last" else expected
                expected = normed.permute(0, 3, 1, 2)
            torch.testing.assert_close(values, expected)
            assert values.shape[1] == backbone.map_dims[place]


def test_an_embedding_that_only_pooling_makes_is_kept_and_one_behind_hidden_layers_is_not():
    assert build_backbone("vgg11", "none", taps=("last",), embed="pooled").embedding_dim == 0
    assert build_backbone("resnet18", "none", taps=("last",), embed="pooled").embedding_dim == 512


def test_unknown_names_and_tags_are_refused_with_near_ones():
    with pytest.raises(UsageError, match=r"did you mean.*resnet34"):
        build_backbone("resnet_34", "none")
    with pytest.raises(UsageError, match=r"no pretrained tag 'nope'; it has .*tv_in1k"):
        build_backbone("resnet34.nope", "none")
    with pytest.raises(UsageError, match="does not take one of the options drop_path_rate"):
        build_backbone("vgg11_bn", "none", drop_path_rate=0.1)


def test_every_tensor_but_the_classifier_is_loaded_and_the_note_says_so(tmp_path):
    model = timm_model("resnet18", 32)
    weights = saved(model, tmp_path / "resnet18_mine.pth")
    backbone = build_backbone("resnet18", tmp_path)
    state = backbone.model.state_dict()
    assert all(
        torch.equal(value, state[key]) for key, value in model.state_dict().items() if key[:3] != "fc."
    )
    assert {key for key in model.state_dict() if key not in state} == {"fc.weight", "fc.bias"}
    assert backbone.notes == [f"the 5-class classifier of {weights} was left out: the head starts again"]
    assert backbone.weights.kind == "file"
    assert len(backbone.weights.sha256) == 64


def test_weights_without_a_classifier_load_without_a_note(tmp_path):
    model = timm_model("resnet18", 32)
    model.reset_classifier(0)
    backbone = build_backbone("resnet18", saved(model, tmp_path / "w.pth"))
    assert backbone.notes == []
    assert torch.equal(backbone.model.conv1.weight, model.conv1.weight)


def test_weights_of_another_model_or_with_a_missing_tensor_are_refused(tmp_path):
    weights = saved(timm_model("mobilenetv3_small_050", 32), tmp_path / "w.pth")
    with pytest.raises(ModelFileError, match="does not hold the weights of resnet18"):
        build_backbone("resnet18", weights)
    state = timm_model("resnet18", 32).state_dict()
    del state["layer1.0.conv1.weight"]
    torch.save(state, tmp_path / "w.pth")
    with pytest.raises(ModelFileError, match=r"Missing key.*layer1\.0\.conv1\.weight"):
        build_backbone("resnet18", weights)


def test_position_tables_are_resampled_to_the_image_size(tmp_path):
    weights = saved(timm_model("vit_tiny_patch16_224", 64), tmp_path / "w.pth")
    backbone = build_backbone("vit_tiny_patch16_224", weights, image_size=96)
    assert backbone.model.pos_embed.shape == (1, 1 + 36, 192)
    assert backbone(torch.randn(1, 3, 96, 96)).embedding.shape == (1, 192)
    with pytest.raises(UsageError, match="built for images of 96 px and cannot read 64 px"):
        backbone.preprocess_spec(64)


def test_pretrained_is_refused_at_once_without_a_network(tmp_path, monkeypatch):
    monkeypatch.setattr(torch.hub, "_hub_dir", str(tmp_path))
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    environment = dict(os.environ)
    with pytest.raises(ModelFileError, match=r"model\.safetensors of timm/resnet34\.tv_in1k"):
        build_backbone("resnet34.tv_in1k")
    assert dict(os.environ) == environment


def test_preprocessing_is_the_pretrained_configurations():
    backbone = build_backbone("tf_efficientnet_lite0", "none")
    spec = backbone.preprocess_spec()
    assert (spec.image_size, spec.resize, spec.resize_size) == (224, "warp", 256)
    assert spec.mean == spec.std == (0.5, 0.5, 0.5)
    assert spec.interpolation == "bicubic"
    other = backbone.preprocess_spec(64, "short", 1.25)
    assert (other.image_size, other.resize, other.resize_size) == (64, "short", 80)


def test_what_the_authors_never_decay_is_named_as_parameters_are():
    backbone = build_backbone("vit_tiny_patch16_224", "none", image_size=32)
    names = dict(backbone.named_parameters())
    assert {"model.pos_embed", "model.cls_token"} <= backbone.no_weight_decay() & names.keys()
    assert build_backbone("resnet18", "none").no_weight_decay() == set()


@pytest.mark.real_data
def test_real_imagenet_weights_fit_to_the_last_tensor_and_know_a_cat(real_data):
    file = real_data / "weights" / "tf_efficientnet_lite0_imagenet.pth"
    backbone = build_backbone("tf_efficientnet_lite0", file).eval()
    tensors = read_tensors(file)
    left_out = tensors.keys() - {name.removeprefix("model.") for name in backbone.state_dict()}
    assert left_out == {"classifier.weight", "classifier.bias"}
    assert len(backbone.notes) == 1
    assert backbone.weights.size_bytes == file.stat().st_size
    spec = backbone.preprocess_spec()
    picture = preprocess(decode_image(real_data / "photos" / "chelsea.png"), spec)
    pixels = (picture / np.float32(255) - np.float32(spec.mean)) / np.float32(spec.std)
    with torch.inference_mode():
        embedding = backbone(torch.from_numpy(pixels).permute(2, 0, 1)[None]).embedding
    probs = (embedding @ tensors["classifier.weight"].T + tensors["classifier.bias"]).softmax(1)[0]
    assert probs[281:286].sum() > 0.8  # ImageNet's five domestic cats


def test_a_trunk_has_new_weights_its_own_channels_and_no_stochastic_depth():
    trunk, dim = build_trunk("swin_tiny_patch4_window7_224", 1, 64, {"depths": (1, 1, 1, 2), "embed_dim": 24})
    images = torch.rand(2, 1, 64, 64)
    assert trunk.training
    torch.testing.assert_close(trunk(images), trunk(images), rtol=0, atol=0)
    assert trunk(images).shape == (2, dim) == (2, 192)


def test_a_trunk_that_timm_does_not_have_is_refused():
    with pytest.raises(UsageError, match="did you mean resnet"):
        build_trunk("resnet43", 3, 32)
    with pytest.raises(UsageError, match="resnet18 does not take one of the options widths"):
        build_trunk("resnet18", 3, 32, {"widths": 3})


def test_a_size_that_patches_do_not_cover_is_refused_with_the_next_ones():
    backbone = build_backbone("vit_tiny_patch16_224", "none", image_size=66)
    with pytest.raises(UsageError, match=r"patches of 16 px, and 66 px is no multiple.*size of 64 or 80"):
        backbone.preprocess_spec(66)
    assert build_backbone("vit_tiny_patch16_224", "none", image_size=64).preprocess_spec(64).image_size == 64
    with pytest.raises(UsageError, match="an image size of 16"):
        build_trunk("vit_tiny_patch16_224", 3, 8)
    with pytest.raises(UsageError, match="cannot be built of images of 66 px"):
        build_backbone("vit_tiny_r_s16_p8_224", "none", image_size=66)
