"""Recipes: every file opens, tells all that its table reports, and builds its network."""

from __future__ import annotations

import re

import pytest
import yaml

from finetune.cli.options import load_config, parse_options
from finetune.experiments.config import arms_of
from generalcls import configs
from generalcls.commands import COMMANDS, RECIPES
from generalcls.config import GeneralStudyConfig
from generalcls.networks.registry import build_network
from generalcls.published import CRL, NLLR, PUBLISHED

NAMES = sorted(file.stem for file in RECIPES.glob("*.yaml"))
TABLES = {"1": "I", "2": "II", "3": "III", "4": "IV", "5": "V", "6": "VI", "7": "VII", "8": "VIII"}
IMAGES = {
    "mnist": (1, 28, 10),
    "cifar10": (3, 32, 10),
    "cifar100": (3, 32, 100),
    "svhn": (3, 32, 10),
    "imagenet": (3, 224, 1000),
}


def table_of(name: str) -> tuple[str, str]:
    number = re.findall(r"table(\d)", name)[0]
    return (NLLR if "_nllr_" in name else CRL), TABLES[number]


def test_every_table_of_a_general_data_set_has_a_recipe() -> None:
    told = {(entry.paper, entry.table, entry.data) for entry in PUBLISHED}
    assert {(*table_of(name), name.partition("_")[0]) for name in NAMES} == told
    assert configs.__doc__ is not None


@pytest.mark.parametrize("name", NAMES)
def test_a_recipe_opens_and_tells_what_its_table_reports(name: str) -> None:
    config = load_config(GeneralStudyConfig, RECIPES / f"{name}.yaml")
    head = (RECIPES / f"{name}.yaml").read_text().partition("\ndata:")[0]
    paper, table = table_of(name)
    rows = [
        entry
        for entry in PUBLISHED
        if (entry.paper, entry.table, entry.data) == (paper, table, config.data.name)
        and (table != "IV" or entry.network == config.network.name)
        and (table != "II" or entry.setting == f"{config.train.epochs} epochs")
    ]
    assert rows
    for entry in rows:
        assert re.search(rf"(?<![\d.]){entry.value:.2f}(?![\d])", head), entry
    assert f"Table {table} of " in head
    assert f"--config {name} " in head
    assert "Measured by us: docs/results.md" in head


@pytest.mark.parametrize("name", NAMES)
def test_a_recipe_says_nothing_that_is_not_read(name: str) -> None:
    content = yaml.safe_load((RECIPES / f"{name}.yaml").read_text())
    options = ["--config", name, "--data.root", "somewhere", "--run.dir", "runs/x"]
    config, _, _ = parse_options(GeneralStudyConfig, options, prog="crl", about="", recipes=RECIPES)
    for section in ("data", "network", "train"):
        for key, value in content[section].items():
            read = getattr(getattr(config, section), key)
            assert (list(read) if isinstance(read, tuple) else read) == value
    assert list(config.losses) == content["losses"]
    assert config.losses[0] == "cel"
    assert config.data.root == "somewhere"


@pytest.mark.parametrize("name", NAMES)
def test_a_single_run_reads_a_recipe_as_a_study_does(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    command, options = COMMANDS["train"], ["--config", name, "--loss", "nllr"]
    config, _, _ = parse_options(
        command.config_type, options, prog="crl", about="", recipes=command.recipes, aside=command.aside
    )
    study = load_config(GeneralStudyConfig, RECIPES / f"{name}.yaml")
    assert (config.data, config.network, config.train) == (study.data, study.network, study.train)
    assert (config.loss, config.seed) == ("nllr", 0)
    content = yaml.safe_load((RECIPES / f"{name}.yaml").read_text())
    left = [key for key in content if key not in ("data", "network", "train")]
    assert f"{name}.yaml also holds {', '.join(left)}, which crl does not take" in capsys.readouterr().out


def test_the_recipes_networks_can_be_built_for_their_data() -> None:
    recipes = [load_config(GeneralStudyConfig, RECIPES / f"{name}.yaml") for name in NAMES]
    for network_name, data, size in {(r.network.name, r.data.name, r.data.image_size) for r in recipes}:
        channels, px, classes = IMAGES[data]
        assert size in (None, px)
        network = build_network(network_name, channels=channels, image_size=px, num_classes=classes)
        assert network.classifier.out_features == classes


def test_what_the_papers_state_of_their_training_is_in_the_recipes() -> None:
    def train(name: str) -> tuple[int, int, str, float]:
        told = load_config(GeneralStudyConfig, RECIPES / f"{name}.yaml").train
        return told.epochs, told.batch_size, told.optimizer, told.lr

    deep = [name for name in NAMES if re.match(r"cifar100?_(resnet|mobile)", name)]
    assert len(deep) == 8
    assert {train(name) for name in deep} == {(300, 256, "sgd", 0.1)}
    assert train("svhn_resnet164_table7") == (40, 64, "sgd", 0.1)
    assert train("imagenet_resnet34_table7") == (90, 256, "sgd", 0.1)
    assert train("cifar10_nllr_table1") == (100, 32, "rmsprop", 1e-4)
    assert train("cifar10_table2_500") == (500, 64, "rmsprop", 1e-4)
    assert train("mnist_nllr_table1") == (12, 128, "adadelta", 1.0)


def test_the_grid_recipes_have_an_arm_for_every_cell() -> None:
    for data in ("cifar10", "cifar100"):
        config = load_config(GeneralStudyConfig, RECIPES / f"{data}_resnet34_table1.yaml")
        told = {entry.loss for entry in PUBLISHED if (entry.data, entry.table) == (data, "I")}
        told -= {"cce", "nllr"}  # the NLLR paper's Table I
        assert {arm.name for arm in arms_of(config)} == told


@pytest.mark.parametrize("data", ["cifar10", "cifar100"])
def test_the_deep_tables_stand_as_printed(data: str) -> None:
    head = (RECIPES / f"{data}_resnet164_table3.yaml").read_text()
    for network in {entry.network for entry in PUBLISHED if (entry.data, entry.table) == (data, "III")}:
        row = {e.loss: e.value for e in PUBLISHED if (e.data, e.table, e.network) == (data, "III", network)}
        assert (
            f"{row['nllr']:.2f} / {row['cel']:.2f} / {row['crl']:.2f}"
            in head.partition(f"#   {network} ")[2][:40]
        )


def test_the_networks_that_are_known_without_torch_are_those_of_the_table():
    from generalcls.config import NETWORK_NAMES
    from generalcls.networks.registry import NETWORKS

    assert set(NETWORK_NAMES) == set(NETWORKS)
