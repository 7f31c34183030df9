"""The second look: which region it takes, how it is cut out, and what becomes of the two answers."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from finetune.errors import UsageError
from finetune.images.batches import EvalBatches
from finetune.images.preprocess import PreprocessSpec
from finetune.models.classifier import Classifier, build_classifier
from finetune.models.layers import as_maps
from finetune.models.two_view import TwoView, square_around
from finetune.training.data import TrainingData
from finetune.training.loop import evaluate
from finetune.training.optimization.distributed import World
from finetune.training.optimization.precision import choose_precision

pytestmark = pytest.mark.usefixtures("one_thread")
SIZE = 64
PYRAMIDS = ("test_resnet", "test_convnext", "test_efficientnet", "swin_tiny_patch4_window7_224", "test_vit")
SPEC = PreprocessSpec(SIZE, "warp", SIZE, "bicubic", (0.5,) * 3, (0.25,) * 3)


def network(name: str = "test_resnet", size: int = SIZE) -> Classifier:
    torch.manual_seed(0)
    fixed = size if "vit" in name or "swin" in name else None
    core = build_classifier(name, "linear", 3, weights="none", image_size=fixed)
    torch.nn.init.normal_(core.head.classifier.weight, std=0.1)
    return core.eval()


def test_the_square_holds_the_strongest_group_and_no_stray_place():
    energy = np.ones((8, 8))
    energy[2:4, 1:4] = 10.0
    energy[7, 7] = 30.0
    assert square_around(energy, 1.0, 0.1).tolist() == [1 / 8, 1.5 / 8, 3 / 8]
    energy[7, 7] = 100.0
    assert square_around(energy, 1.0, 0.1).tolist() == [7 / 8, 7 / 8, 1 / 8]
    assert square_around(energy, 1.0, 0.5).tolist() == [0.5, 0.5, 0.5], "inside the image at its least size"


def test_a_map_without_any_difference_means_the_whole_picture():
    assert square_around(np.full((5, 7), 3.0), 1.0, 0.2).tolist() == [0, 0, 1]
    assert square_around(np.zeros((5, 7)), 1.0, 0.2).tolist() == [0, 0, 1]


def test_a_wide_group_on_a_map_that_is_no_square_stays_inside():
    energy = np.zeros((4, 8))
    energy[0, :] = 1.0
    assert square_around(energy, 1.0, 0.2).tolist() == [0, 0, 1]


def test_a_square_is_cut_out_and_enlarged():
    two = TwoView(network(), SPEC)
    images = torch.randn(2, 3, SIZE, SIZE).to(memory_format=torch.channels_last)
    found = two.cut(images, np.array([[0.25, 0.5, 0.5], [0.0, 0.0, 1.0]]))
    part = images[:1, :, 32:64, 16:48]
    wanted = F.interpolate(part, size=(SIZE, SIZE), mode="bilinear", align_corners=False)
    inner = (..., slice(2, -2), slice(2, -2))  # beyond the square's edge the image goes on
    torch.testing.assert_close(found[:1][inner], wanted[inner], rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(found[1], images[1], rtol=1e-4, atol=1e-4)
    assert found.is_contiguous(memory_format=torch.channels_last)


@pytest.mark.parametrize(
    "name", ["test_resnet", "test_vit", "test_efficientnet", "test_convnext", "swin_tiny_patch4_window7_224"]
)
@torch.no_grad()
def test_the_answer_is_the_weighted_mean_of_both_probabilities(name: str):
    core = network(name)
    two = TwoView(core, SPEC, share=0.3)
    images = torch.randn(4, 3, SIZE, SIZE)
    images[:, :, 20:40, 8:24] *= 4
    logits, squares = two.look(images)
    torch.testing.assert_close(logits, core.infer(images))
    assert ((squares[:, :2] >= 0).all(), (squares[:, :2] + squares[:, 2:] <= 1 + 1e-9).all()) == (True, True)
    region = core.infer(two.cut(images, squares))
    wanted = 0.7 * logits.softmax(1) + 0.3 * region.softmax(1)
    torch.testing.assert_close(two.infer(images).softmax(1), wanted)


@torch.no_grad()
def test_the_region_is_that_of_the_last_map():
    core = network("test_resnet")
    images = torch.randn(3, 3, SIZE, SIZE)
    energy = core.backbone.model.forward_features(images).norm(dim=1).numpy()
    squares = TwoView(core, SPEC).look(images)[1]
    assert squares.tolist() == [square_around(each, 1.0, 0.4).tolist() for each in energy]


@pytest.mark.parametrize(
    ("name", "head", "taps"),
    [
        ("vgg11", "bilinear", None),
        ("vgg11", "dfl", None),
        ("vgg11", "bilinear", ("last-1",)),
        *[(name, "bilinear", ("last-1",)) for name in PYRAMIDS],
        ("test_byobnet", "bilinear", ("last-1",)),  # its last module stays, but is not run
        ("xcit_nano_12_p16_224", "linear", None),  # its class token comes behind the blocks
    ],
)
@torch.no_grad()
def test_heads_that_drop_layers_of_the_backbone_look_twice_too(
    name: str, head: str, taps: tuple[str, ...] | None
):
    torch.manual_seed(0)
    fixed = SIZE if any(kind in name for kind in ("vit", "swin", "xcit")) else None
    options = {"reduction": 4} if head == "bilinear" else {}
    core = build_classifier(
        name, head, 3, weights="none", image_size=fixed, taps=taps, head_options=options
    ).eval()
    images = torch.randn(2, 3, SIZE, SIZE)
    logits, squares = TwoView(core, SPEC).look(images)
    torch.testing.assert_close(logits, core.infer(images))
    if name == "vgg11":  # without a norm behind the map, which the head gets and the catch does not
        deepest = list(core.backbone(images).maps.values())[-1].norm(dim=1).numpy()
        assert squares.tolist() == [square_around(each, 1.0, 0.4).tolist() for each in deepest]


def test_features_without_places_are_refused_in_words():
    with pytest.raises(UsageError, match="features with places, this one's have shape list"):
        as_maps(None, [torch.zeros(1, 3, 4, 4)])
    with pytest.raises(UsageError, match=r"have shape \(2, 15, 8\)"):
        as_maps(None, torch.zeros(2, 15, 8))


def test_it_takes_the_place_of_the_classifier_in_evaluation(task: TrainingData):
    core, precision = network("test_vit", 32), choose_precision("cpu", "float32")
    batches = EvalBatches(task.source, task.manifest.label, task.val, task.spec, batch_size=4)
    found = evaluate(TwoView(core, task.spec), batches, task.spec, precision, World())
    plain = evaluate(core, batches, task.spec, precision, World())
    np.testing.assert_allclose(found["probs"].sum(1), 1, atol=1e-6)
    assert found["index"].tolist() == plain["index"].tolist() == task.val.tolist()
    assert np.abs(found["probs"] - plain["probs"]).max() > 1e-3


def test_the_weights_are_shared_and_nothing_is_added():
    core = network()
    two = TwoView(core, SPEC)
    assert two.state_dict().keys() == core.state_dict().keys()
    assert next(two.parameters()) is next(core.parameters())


@pytest.mark.parametrize("options", [{"share": 0.0}, {"share": 1.0}, {"threshold": 0.0}, {"least_side": 1.5}])
def test_values_out_of_range_are_refused(options: dict[str, float]):
    with pytest.raises(UsageError, match="need 0 < share < 1"):
        TwoView(network(), SPEC, **options)
