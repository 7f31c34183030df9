"""Recipes: every file opens, tells what was reported, builds its model; presets fill gaps alone."""

from __future__ import annotations

import re
from dataclasses import replace

import pytest
import torch
import yaml

from finegrained.config import FineConfig
from finegrained.data.class_names import CARS, class_table
from finegrained.recipes import AIRCRAFT_NAMES, RECIPES, data_set_of, with_presets
from finetune.cli.options import parse_options
from finetune.errors import UsageError
from finetune.images.preprocess import PreprocessSpec
from finetune.training.config import HeadConfig
from finetune.training.learner import build_core

METHODS = (
    "bcnn_vgg16",
    "bcnn_two",
    "kernel_pooling_vgg16",
    "kernel_pooling_resnet50",
    "dfl_resnet50",
    "dcl_resnet50",
    "dcl_resnet50_repo",
)
GENERAL = ("paper", "short")  # for any data, with rates that a search found
REPORTED = {
    "cub_bcnn_vgg16_ce": ("84.1", "84.06"),
    "cars_bcnn_two_crl": ("91.44",),
    "cub_kernel_pooling_vgg16_ce": ("86.2",),
    "cars_kernel_pooling_resnet50_ce": ("91.1",),
    "cub_dfl_resnet50_crl": ("87.52",),
    "cars_dfl_resnet50_ce": ("93.8", "93.79"),
    "cub_dcl_resnet50_ce": ("87.8", "87.69"),
    "cars_dcl_resnet50_crl": ("94.60",),
    "cub_dcl_resnet50_repo_ce": ("87.8", "87.69"),
}


def recipe_names() -> list[str]:
    return sorted(file.stem for file in RECIPES.glob("*.yaml"))


def load_recipe(name: str) -> FineConfig:
    """Return a recipe's configuration as the command line finds it."""
    return parse_options(FineConfig, ["--config", name], prog="crl fine train", about="", recipes=RECIPES)[0]


def test_there_is_a_recipe_for_every_row_data_set_and_loss():
    wanted = {f"{d}_{m}_{x}" for d in ("cub", "cars") for m in METHODS for x in ("ce", "crl")}
    assert set(recipe_names()) == {*wanted, *GENERAL}


@pytest.mark.parametrize("name", recipe_names())
def test_every_recipe_names_its_own_rates(name):
    """Defaults may become others: a recipe's training is what its file says."""
    written = yaml.safe_load((RECIPES / f"{name}.yaml").read_text())["train"]
    assert {"optimizer", "lr", "head_lr_multiplier", "weight_decay", "schedule", "epochs"} <= set(written)


@pytest.mark.parametrize("name", sorted(set(recipe_names()) - set(GENERAL)))
def test_a_recipe_opens_and_tells_its_source(name):
    config = load_recipe(name)
    assert config.loss.name == ("crl" if name.endswith("_crl") else "cel")
    assert re.search(r"\.tv_in1k$", config.model.backbone)
    assert (config.model.image_size, config.train.select) == (448, "last")
    head = (RECIPES / f"{name}.yaml").read_text().partition("\nmodel:")[0]
    for words in ("Reported by", "Measured by us: nothing yet", "hardware", f"--config {name} "):
        assert words in head
    for score in REPORTED.get(name, ()):
        assert re.search(rf"\b{re.escape(score)}\b", head)


@pytest.mark.parametrize("name", [name for name in recipe_names() if "bcnn" in name or "kernel" in name])
def test_a_frozen_stage_asks_its_network_once_for_each_view_and_tells_the_disk(name):
    config = load_recipe(name)
    assert config.train.frozen_epochs > 0
    assert (config.train.augment, config.train.frozen_views) == ("flip", 2)
    with torch.device("meta"):
        spec = PreprocessSpec(448, "warp", 448, "bilinear", (0.5,) * 3, (0.5,) * 3)
        core = build_core(config, 200, spec, from_checkpoint=True).eval()
        features = core.backbone(torch.zeros(1, 3, 448, 448))
    size = 4 * (features.embedding.numel() + sum(values.numel() for values in features.maps.values()))
    pictures = 7330 if name.startswith("cars") else 5395
    told = (RECIPES / f"{name}.yaml").read_text()
    assert f"{size / 1e6:.1f} MB per image" in told
    assert f"about {2 * pictures * size / 1e9:.0f} GB for {pictures:,} training images" in told
    assert "0 runs" in told


@pytest.mark.parametrize("name", [name for name in recipe_names() if "dcl" in name and "repo" not in name])
def test_the_alignments_weight_says_that_it_is_averaged(name):
    before = (RECIPES / f"{name}.yaml").read_text().partition("    gamma: ")[0]
    assert "averaged over its 2 N^2 values, as in the released code" in before
    assert "gamma = 2 N^2 x" in before


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("data", ["cub", "cars"])
def test_the_two_losses_of_a_recipe_differ_in_nothing_else(method, data):
    ce, crl = (load_recipe(f"{data}_{method}_{loss}") for loss in ("ce", "crl"))
    assert replace(ce, loss=crl.loss) == crl


@pytest.mark.parametrize("method", METHODS)
def test_a_recipe_builds_its_model(method):
    config = load_recipe(f"cub_{method}_crl")
    spec = PreprocessSpec(96, config.model.resize, 96, "bilinear", (0.5,) * 3, (0.5,) * 3)
    core = build_core(config, 4, spec, from_checkpoint=True).eval()
    with torch.no_grad():
        assert core.infer(torch.zeros(1, 3, 96, 96)).shape == (1, 4)
    widths = {
        "bcnn_vgg16": 512 * 512,
        "bcnn_two": 512 * 512,
        "kernel_pooling_vgg16": 12_801,
        "kernel_pooling_resnet50": 14_337,
        "dfl_resnet50": 2048,
        "dcl_resnet50": 2048,
        "dcl_resnet50_repo": 2048,
    }
    outputs = [module for module in core.head.modules() if isinstance(module, torch.nn.Linear)]
    assert widths[method] in {module.in_features for module in outputs}


def test_an_unknown_recipe_is_refused_with_the_names_there_are():
    with pytest.raises(UsageError, match=r"recipes by name: .*, cub_dcl_resnet50_crl, "):
        load_recipe("cub_dcl_resnet_crl")


@pytest.mark.parametrize(
    ("data_set", "options"),
    [
        ("cub", {"regions": 7, "gamma": 1.0}),
        ("cars", {"regions": 7, "gamma": 0.01}),
        ("aircraft", {"regions": 2, "gamma": 0.01}),
        ("", {}),
    ],
)
def test_dcl_has_a_preset_for_each_data_set(data_set, options):
    config = FineConfig(head=HeadConfig("dcl"))
    assert with_presets(config, data_set).head.options == options


def test_a_preset_never_replaces_what_was_given():
    config = FineConfig(head=HeadConfig("dcl", options={"gamma": 0.5, "variant": "repo"}))
    options = with_presets(config, "cars").head.options
    assert options == {"gamma": 0.5, "variant": "repo", "regions": 7}
    assert with_presets(FineConfig(), "cars") == FineConfig()


def test_data_sets_are_known_by_layout_or_by_their_class_names():
    assert data_set_of("cub", ["whatever"]) == "cub"
    assert data_set_of("cars-K", ["whatever"]) == "cars"
    assert data_set_of("folders", class_table(CARS)[:60]) == "cars"
    assert data_set_of("folders", [*AIRCRAFT_NAMES, "A320"]) == "aircraft"
    assert data_set_of("folders", ["A380"]) == ""


@pytest.mark.parametrize("name", [name for name in recipe_names() if "_repo_" in name])
def test_the_released_dcl_differs_from_the_papers_in_its_variant_alone(name):
    released, paper = load_recipe(name), load_recipe(name.replace("_repo", ""))
    assert released.head.options["variant"] == "repo"
    head = replace(released.head, options={**released.head.options, "variant": "paper"})
    assert replace(released, head=head) == paper
    assert "comes from released code of this kind" in (RECIPES / f"{name}.yaml").read_text()
