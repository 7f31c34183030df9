"""Face networks' files: made with random weights in the public programs' names, read tensor by tensor."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import timm
import torch
from torch import Tensor, nn
from torch.nn import functional

from finetune.errors import ModelFileError, UsageError
from finetune.models.backbone import build_backbone
from finetune.models.face_networks import FaceResNet, FaceVit, default_cfgs
from finetune.models.names import OWN_BACKBONES, backbone_fault
from finetune.models.tensor_files import read_tensors
from finetune.models.weight_layouts import CLIP, FACE_RESNET, FACE_VIT, Layout, in_our_names, layout_of

Shapes = dict[str, tuple[int, ...]]


def clip_shapes(width: int, patch: int, depth: int, side: int, output: int = 512) -> Shapes:
    """Return the names and shapes of an image tower as OpenAI's and FaRL's files have them."""
    shapes: Shapes = {
        "visual.class_embedding": (width,),
        "visual.positional_embedding": ((side // patch) ** 2 + 1, width),
        "visual.proj": (width, output),
        "visual.conv1.weight": (width, 3, patch, patch),
    }
    for name in ("ln_pre", "ln_post"):
        shapes |= {f"visual.{name}.{leaf}": (width,) for leaf in ("weight", "bias")}
    for block in range(depth):
        place = f"visual.transformer.resblocks.{block}"
        sizes = {
            "attn.in_proj_": (3 * width, width),
            "attn.out_proj.": (width, width),
            "mlp.c_fc.": (4 * width, width),
            "mlp.c_proj.": (width, 4 * width),
        }
        for name, (rows, columns) in sizes.items():
            shapes |= {f"{place}.{name}weight": (rows, columns), f"{place}.{name}bias": (rows,)}
        for name in ("ln_1", "ln_2"):
            shapes |= {f"{place}.{name}.{leaf}": (width,) for leaf in ("weight", "bias")}
    return shapes


def norm_shapes(name: str, width: int) -> Shapes:
    """Return the names and shapes of a batch norm."""
    found: Shapes = {f"{name}.{leaf}": (width,) for leaf in ("weight", "bias", "running_mean", "running_var")}
    return {**found, f"{name}.num_batches_tracked": ()}


def resnet_shapes(layers: tuple[int, ...], width: int = 64, embedding: int = 512, side: int = 112) -> Shapes:
    """Return the names and shapes of ArcFace's residual network as its training program saves them."""
    shapes: Shapes = {"conv1.weight": (width, 3, 3, 3), **norm_shapes("bn1", width), "prelu.weight": (width,)}
    inputs = width
    for stage, count in enumerate(layers, 1):
        planes = width * 2 ** (stage - 1)
        for block in range(count):
            place = f"layer{stage}.{block}"
            shapes |= norm_shapes(f"{place}.bn1", inputs)
            shapes |= {f"{place}.conv1.weight": (planes, inputs, 3, 3), f"{place}.prelu.weight": (planes,)}
            shapes |= norm_shapes(f"{place}.bn2", planes)
            shapes |= {f"{place}.conv2.weight": (planes, planes, 3, 3), **norm_shapes(f"{place}.bn3", planes)}
            if block == 0:
                shapes |= {f"{place}.downsample.0.weight": (planes, inputs, 1, 1)}
                shapes |= norm_shapes(f"{place}.downsample.1", planes)
            inputs = planes
    shapes |= norm_shapes("bn2", inputs)
    shapes |= {"fc.weight": (embedding, inputs * (side // 16) ** 2), "fc.bias": (embedding,)}
    return shapes | norm_shapes("features", embedding)


def face_vit_shapes(width: int, depth: int, embedding: int = 512) -> Shapes:
    """Return the names and shapes of ArcFace's transformer as its training program saves them."""
    shapes: Shapes = {
        "pos_embed": (1, 144, width),
        "mask_token": (1, 1, width),
        "patch_embed.proj.weight": (width, 3, 9, 9),
        "patch_embed.proj.bias": (width,),
        "norm.weight": (width,),
        "norm.bias": (width,),
        "feature.0.weight": (width, 144 * width),
        "feature.2.weight": (embedding, width),
        **norm_shapes("feature.1", width),
        **norm_shapes("feature.3", embedding),
    }
    for block in range(depth):
        place = f"blocks.{block}"
        shapes |= {
            f"{place}.attn.qkv.weight": (3 * width, width),
            f"{place}.attn.proj.weight": (width, width),
        }
        shapes |= {f"{place}.mlp.fc1.weight": (4 * width, width), f"{place}.mlp.fc1.bias": (4 * width,)}
        shapes |= {f"{place}.mlp.fc2.weight": (width, 4 * width), f"{place}.mlp.fc2.bias": (width,)}
        names = ("attn.proj.bias", "norm1.weight", "norm1.bias", "norm2.weight", "norm2.bias")
        shapes |= {f"{place}.{name}": (width,) for name in names}
    return shapes


def made(shapes: Shapes) -> dict[str, Tensor]:
    """Return random tensors of these shapes; running variances are positive."""
    found = {}
    for name, shape in shapes.items():
        value = 0.2 * torch.randn(shape)
        found[name] = value.abs() + 0.5 if name.endswith("running_var") else value
        if name.endswith("num_batches_tracked"):
            found[name] = torch.tensor(3)
    return found


def on_meta(name: str) -> nn.Module:
    """Return a network without memory."""
    with torch.device("meta"):
        network: nn.Module = timm.create_model(name, num_classes=0)
    return network


@pytest.mark.parametrize(
    ("name", "shapes", "layout"),
    [
        ("vit_base_patch16_clip_quickgelu_224", clip_shapes(768, 16, 12, 224), CLIP),
        ("vit_large_patch14_clip_quickgelu_224", clip_shapes(1024, 14, 24, 224, 768), CLIP),
        ("iresnet18", resnet_shapes((2, 2, 2, 2)), FACE_RESNET),
        ("iresnet50", resnet_shapes((3, 4, 14, 3)), FACE_RESNET),
        ("iresnet100", resnet_shapes((3, 13, 30, 3)), FACE_RESNET),
        ("face_vit_tiny_patch9_112", face_vit_shapes(256, 12), FACE_VIT),
        ("face_vit_base_patch9_112", face_vit_shapes(512, 24), FACE_VIT),
    ],
)
def test_whole_files_fit_our_networks_name_by_name(name: str, shapes: Shapes, layout: Layout) -> None:
    file = {key: torch.empty(shape, device="meta") for key, shape in shapes.items()}
    mapped = in_our_names(file, "face.pth")
    ours = on_meta(name).state_dict()
    assert {key: tuple(value.shape) for key, value in mapped.tensors.items()} == {
        key: tuple(value.shape) for key, value in ours.items()
    }
    assert layout_of(file) is layout
    assert mapped.fits == name


class Tower(nn.Module):
    """CLIP's image tower by torch's own attention, from the tensors of a file alone: the slow way."""

    def __init__(self, file: dict[str, Tensor], heads: int) -> None:
        super().__init__()
        self.file, self.heads = file, heads

    def forward(self, images: Tensor) -> Tensor:
        """Return the class token behind the last norm, (B, D)."""
        own = {name.removeprefix("visual."): value for name, value in self.file.items()}
        patch, width = own["conv1.weight"].shape[-1], len(own["class_embedding"])
        grid = functional.conv2d(images, own["conv1.weight"], stride=patch).flatten(2).transpose(1, 2)
        token = own["class_embedding"].expand(len(images), 1, width)
        x = torch.cat([token, grid], 1) + own["positional_embedding"]
        x = self.norm(x, own, "ln_pre")
        depth = 1 + max(int(name.split(".")[2]) for name in own if name.startswith("transformer.resblocks"))
        for block in range(depth):
            part = {k.removeprefix(f"transformer.resblocks.{block}."): v for k, v in own.items()}
            attention = nn.MultiheadAttention(width, self.heads, batch_first=True)
            attention.load_state_dict({k[5:]: v for k, v in part.items() if k.startswith("attn.")})
            inner = self.norm(x, part, "ln_1")
            x = x + attention(inner, inner, inner, need_weights=False)[0]
            inner = functional.linear(
                self.norm(x, part, "ln_2"), part["mlp.c_fc.weight"], part["mlp.c_fc.bias"]
            )
            inner = inner * torch.sigmoid(1.702 * inner)
            x = x + functional.linear(inner, part["mlp.c_proj.weight"], part["mlp.c_proj.bias"])
        return self.norm(x[:, 0], own, "ln_post")

    @staticmethod
    def norm(x: Tensor, own: dict[str, Tensor], name: str) -> Tensor:
        """Return the layer norm of `name`."""
        return functional.layer_norm(x, x.shape[-1:], own[f"{name}.weight"], own[f"{name}.bias"])


def tiny_clip() -> nn.Module:
    """Return timm's CLIP tower of two blocks of 32 values, at 32 px."""
    network: nn.Module = timm.create_model(
        "vit_base_patch16_clip_quickgelu_224", num_classes=0, embed_dim=32, depth=2, num_heads=4, img_size=32
    )
    return network.eval()


def test_an_image_tower_computes_what_its_file_says() -> None:
    file = made(clip_shapes(32, 16, 2, 32))
    network = tiny_clip()
    network.load_state_dict(in_our_names(file, "farl.pth").tensors)
    images = torch.randn(2, 3, 32, 32)
    with torch.no_grad():
        torch.testing.assert_close(network(images), Tower(file, 4)(images), rtol=1e-4, atol=1e-4)


def test_a_residual_network_computes_what_its_file_says() -> None:
    """By the formula: norm, convolution, norm, PReLU, convolution, norm, plus the shortcut."""
    file = made(resnet_shapes((1, 1, 1, 1), 4, 8, 32))
    network = FaceResNet((1, 1, 1, 1), img_size=32, width=4, embedding=8).eval()
    network.load_state_dict(in_our_names(file, "arcface.pth").tensors)

    def norm(x: Tensor, name: str) -> Tensor:
        stats = (file[f"{name}.running_mean"], file[f"{name}.running_var"])
        return functional.batch_norm(x, *stats, file[f"{name}.weight"], file[f"{name}.bias"])

    images = torch.randn(2, 3, 32, 32)
    x = functional.conv2d(images, file["conv1.weight"], padding=1)
    x = functional.prelu(norm(x, "bn1"), file["prelu.weight"])
    for stage in range(1, 5):
        place = f"layer{stage}.0"
        inner = functional.conv2d(norm(x, f"{place}.bn1"), file[f"{place}.conv1.weight"], padding=1)
        inner = functional.prelu(norm(inner, f"{place}.bn2"), file[f"{place}.prelu.weight"])
        inner = functional.conv2d(inner, file[f"{place}.conv2.weight"], stride=2, padding=1)
        around = functional.conv2d(x, file[f"{place}.downsample.0.weight"], stride=2)
        x = norm(inner, f"{place}.bn3") + norm(around, f"{place}.downsample.1")
    wanted = norm(
        functional.linear(norm(x, "bn2").flatten(1), file["fc.weight"], file["fc.bias"]), "features"
    )
    with torch.no_grad():
        torch.testing.assert_close(network(images), wanted, rtol=1e-4, atol=1e-4)


def test_a_face_transformer_reads_every_token_in_order() -> None:
    file = made(face_vit_shapes(16, 1, 8))
    network = FaceVit(8, img_size=112, patch_size=9, embed_dim=16, depth=1, num_heads=8, num_classes=0).eval()
    network.load_state_dict(in_our_names(file, "vit.pt").tensors)
    images = torch.randn(2, 3, 112, 112)
    with torch.no_grad():
        tokens = network.forward_features(images)
        assert tokens.shape == (2, 144, 16)
        x = functional.linear(tokens.flatten(1), file["feature.0.weight"])
        for place, weight in (("feature.1", "feature.2.weight"), ("feature.3", "")):
            stats = (file[f"{place}.running_mean"], file[f"{place}.running_var"])
            x = functional.batch_norm(x, *stats, file[f"{place}.weight"], file[f"{place}.bias"], eps=2e-5)
            x = functional.linear(x, file[weight]) if weight else x
        torch.testing.assert_close(network(images), x)
        edge = images.clone()
        edge[..., 108:, :] = edge[..., :, 108:] = 9.0
        torch.testing.assert_close(network(edge), x)  # 12 patches of 9 px: the rest is not looked at


@pytest.fixture(scope="module")
def arcface(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A whole file of the smallest residual network, as a training checkpoint, with a tensor too many."""
    file = tmp_path_factory.mktemp("arcface") / "arcface.pt"
    tensors = {**made(resnet_shapes((2, 2, 2, 2))), "se.fc1.weight": torch.zeros(2)}
    torch.save({"epoch": 3, "state_dict_backbone": tensors}, file)
    return file


def test_a_checkpoint_becomes_a_backbone_that_says_what_it_is(arcface: Path) -> None:
    with pytest.raises(ModelFileError, match=re.escape("se.fc1.weight")):
        build_backbone("iresnet18", arcface)
    backbone = build_backbone("iresnet18", arcface, taps=("last-1",), unmapped="drop")
    assert any("se.fc1.weight" in note and "dropped" in note for note in backbone.notes)
    assert any("tensors are read" in note for note in backbone.notes)
    assert backbone.embedding_dim == 512
    assert backbone.map_strides == {"last-1": 8}
    spec = backbone.preprocess_spec()
    assert (spec.image_size, spec.mean, spec.std) == (112, (0.5, 0.5, 0.5), (0.5, 0.5, 0.5))
    assert backbone.weights.license == "unknown"
    assert "InsightFace" in backbone.weights.layout
    assert "licence unknown" in backbone.weights.describe()
    found = backbone.eval()(torch.zeros(1, 3, 112, 112))
    assert found.embedding.shape == (1, 512)
    assert found.maps["last-1"].shape == (1, 256, 14, 14)


def test_a_file_of_another_network_or_size_names_what_it_is_of(
    arcface: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(ModelFileError, match=r"these are of --model\.backbone iresnet18"):
        build_backbone("test_resnet", arcface, unmapped="drop")
    with pytest.raises(ModelFileError, match=r"fc\.weight"):
        build_backbone("iresnet18", arcface, image_size=32, unmapped="drop")
    with pytest.raises(UsageError, match="does not take"):
        build_backbone("iresnet18", "none", image_size=32, drop_path_rate=0.1)
    cut = read_tensors(arcface)
    del cut["layer1.0.conv1.weight"], cut["se.fc1.weight"]
    monkeypatch.setattr("finetune.models.backbone.read_tensors", lambda file: cut)
    with pytest.raises(ModelFileError, match=r"layer1\.0\.conv1\.weight"):
        build_backbone("iresnet18", arcface)


def test_what_belongs_to_texts_and_to_pretraining_is_left_out_and_counted() -> None:
    file = made(clip_shapes(8, 16, 1, 32))
    more = (
        "transformer.resblocks.0.ln_1.weight",
        "token_embedding.weight",
        "logit_scale",
        "visual.mask_token",
    )
    mapped = in_our_names({**file, **{name: torch.zeros(1) for name in more}}, "farl.pth")
    assert len(mapped.tensors) == len(file) - 1
    assert f"{len(more) + 1} tensors beside the image network were left out" in mapped.notes[1]
    assert mapped.fits == ""  # no public tower is eight values wide


def test_plain_files_of_timm_are_left_as_they_are() -> None:
    own = timm.create_model("test_resnet").state_dict()
    mapped = in_our_names(own, "mine.pth")
    assert mapped.tensors.keys() == own.keys()
    assert (mapped.layout, mapped.notes) == ("", ())


def test_the_names_of_our_networks_are_known_before_torch_is_imported() -> None:
    assert set(default_cfgs) == OWN_BACKBONES
    assert all(timm.is_model(name) for name in OWN_BACKBONES)
    assert backbone_fault("iresnet50") is None
