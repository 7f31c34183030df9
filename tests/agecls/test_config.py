from __future__ import annotations

from typing import get_args, get_type_hints

import pytest
import yaml

from agecls.commands import COMMANDS, RECIPES
from agecls.config import ADIENCE_GROUPS, AgeConfig, AgeDataConfig, AgeEvaluateConfig, CrossValidationConfig
from agecls.data.folds import Protocol
from agecls.data.groups import POLICIES, AgeGroups
from finetune.cli.options import parse_options
from finetune.errors import UsageError
from finetune.images.preprocess import TEST_CROPS
from finetune.training.config import TrainConfig
from finetune.training.optimization.recipe import fine_tune_recipe

PAPER = ("paper_resnet101", "paper_resnet152", "paper_resnet34")


def parse(*argv: str) -> CrossValidationConfig:
    return parse_options(CrossValidationConfig, argv, prog="crl age cv", about="", recipes=RECIPES)[0]


def allowed(config_type: type, name: str) -> set[str]:
    return set(get_args(get_type_hints(config_type)[name]))


def test_choices_are_those_of_the_code_that_serves_them():
    assert allowed(AgeDataConfig, "policy") == set(POLICIES)
    assert allowed(AgeDataConfig, "protocol") == set(get_args(Protocol))
    assert allowed(AgeEvaluateConfig, "test_crops") == set(TEST_CROPS)
    assert (
        AgeGroups.parse(ADIENCE_GROUPS).names
        == AgeGroups.parse("0-2,4-6,8-12,15-20,25-32,38-43,48-53,60+").names
    )


@pytest.mark.parametrize("change", [{"select": "best"}, {"patience": 3}])
@pytest.mark.parametrize(
    ("data", "named"), [({}, "protocol fixed"), ({"protocol": "grouped", "fold": -1}, "fold -1")]
)
def test_selection_without_a_validation_part_is_refused(change, data, named):
    with pytest.raises(UsageError, match=f"need a validation part, which --data.{named} does not make"):
        AgeConfig(train=TrainConfig(**change), data=AgeDataConfig(**data))


def test_selection_on_a_validation_part_is_accepted():
    AgeConfig(train=TrainConfig(select="best", patience=3), data=AgeDataConfig(protocol="rotate"))


def test_folds_and_devices_are_read_from_commas():
    config = parse("--folds", "0,3", "--devices=cuda:0,cuda:1")
    assert (config.folds, config.devices) == ((0, 3), ("cuda:0", "cuda:1"))


def test_recipes_are_the_files_of_the_folder():
    assert {file.stem for file in RECIPES.glob("*.yaml")} == {*PAPER, "modern", "short", "paper"}
    assert [name for name, command in COMMANDS.items() if command.recipes] == ["train", "cv", "tune", "study"]


@pytest.mark.parametrize("file", sorted(RECIPES.glob("*.yaml")), ids=lambda file: file.stem)
def test_every_recipe_parses_alone_by_name_and_with_the_issues_options(file):
    config = parse("--config", str(file))
    assert parse(f"--config={file.stem}") == config
    assert config.loss.name == ("cel" if file.stem in ("short", "paper") else "crl")
    changed = parse("--config", file.stem, "--loss.name", "cel", "--data.root", "X", "--run.dir", "Y")
    assert (changed.loss.name, changed.data.root, changed.run.dir) == ("cel", "X", "Y")
    assert changed.train == config.train
    train = config.train
    recipe = fine_tune_recipe(
        train.epochs,
        train.frozen_epochs,
        lr=train.lr,
        head_lr_multiplier=train.head_lr_multiplier,
        schedule=train.schedule,
        warmup_epochs=train.warmup_epochs,
        milestones=train.milestones,
        gamma=train.gamma,
    )
    assert sum(stage.epochs for stage in recipe.stages) == train.epochs


@pytest.mark.parametrize("file", sorted(RECIPES.glob("*.yaml")), ids=lambda file: file.stem)
def test_every_recipe_names_its_own_rates(file):
    """The defaults became others, and may again: a recipe's training is what its file says."""
    written = yaml.safe_load(file.read_text())["train"]
    assert {"optimizer", "lr", "head_lr_multiplier", "weight_decay", "schedule", "epochs"} <= set(written)


def test_the_default_rates_are_those_of_the_short_recipe_and_other_tasks_keep_theirs():
    own, short = AgeConfig().train, parse("--config", "short").train
    assert (own.optimizer, own.lr, own.head_lr_multiplier) == ("adamw", 0.001, 1.0)
    assert (short.optimizer, short.lr, short.head_lr_multiplier) == ("adamw", 0.001, 1.0)
    assert (TrainConfig().optimizer, TrainConfig().lr, TrainConfig().head_lr_multiplier) == (
        "sgd",
        0.01,
        10.0,
    )


@pytest.mark.parametrize("name", PAPER)
def test_paper_recipe_states_what_the_paper_states(name):
    config = parse("--config", name)
    train = config.train
    assert config.model.backbone.startswith(name.removeprefix("paper_"))
    stated = (train.epochs, train.batch_size, train.optimizer, train.lr, train.schedule, train.milestones)
    assert stated == (120, 64, "sgd", 0.01, "step", (80,))
    assert (train.gamma, train.select, config.data.protocol) == (0.1, "last", "fixed")
    assert config.loss.parameters() == {}, "another loss by --loss.name must not meet CRL's parameters"


@pytest.mark.parametrize("name", PAPER)
def test_paper_recipe_marks_every_value(name):
    lines = (RECIPES / f"{name}.yaml").read_text().splitlines()
    values = [line for line in lines if line.startswith("  ")]
    assert len(values) > 15
    assert [line for line in values if "# " not in line] == []
    assert [line for line in values if "paper" not in line and "our choice" not in line] == []


@pytest.mark.parametrize(
    ("name", "scores"),
    [
        ("paper_resnet34", "61.09 / 92.06 61.52 / 92.65 56.32 / 90.99 57.05 / 91.26 55.27 / 89.30"),
        ("paper_resnet101", "62.21 / 92.18 62.73 / 92.79"),
        ("paper_resnet152", "62.85 / 92.87 63.26 / 93.25"),
    ],
)
def test_recipe_carries_the_reported_scores_in_its_head(name, scores):
    head = (RECIPES / f"{name}.yaml").read_text().partition("\nmodel:")[0]
    numbers = scores.replace(" / ", "/").split()
    assert all(pair.replace("/", " / ") in head for pair in numbers)
    assert "Single runs without spread" in head


def test_modern_recipe_claims_no_score():
    head = (RECIPES / "modern.yaml").read_text().partition("\nmodel:")[0]
    assert "not measured by us" in head
    assert not any(character.isdigit() for character in head.replace("ConvNeXt-Tiny", ""))


def test_a_name_that_is_neither_file_nor_recipe_lists_the_recipes():
    with pytest.raises(
        UsageError, match=r"--config papers: there is no such file; recipes by name: modern, paper, paper_"
    ):
        parse("--config", "papers")


def test_a_file_in_the_working_folder_comes_before_a_recipe(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "modern").write_text("train: {epochs: 3}")
    assert parse("--config", "modern").train.epochs == 3
