from __future__ import annotations

from pathlib import Path

import pytest

from finetune.cli.options import parse_options
from finetune.errors import DataError, UsageError
from finetune.runs.folder import read_config, read_json
from finetune.runs.parse import DEEPEST, TextError, parse_json, parse_yaml
from finetune.training.config import FitConfig

MANY = 300_000
TENFOLD = "".join(f"k{i}: &k{i} [{', '.join([f'*k{i - 1}'] * 10)}]\n" for i in range(1, 10))
CHAIN = "".join(f"k{i}: &k{i} [*k{i - 1}]\n" for i in range(1, 2 * DEEPEST))


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("train: {lr: 0.1}\ntrain: {lr: 0.2}\n", r"line 2: train stands twice \(first in line 1\)"),
        ("train:\n  lr: 0.1\n  epochs: 3\n  lr: 0.2\n", r"line 4: lr stands twice \(first in line 2\)"),
        ("a: [{b: 1, b: 1}]", "line 1: b stands twice"),
        ("1: a\n1: b\n", "line 2: 1 stands twice"),
        pytest.param("[" * MANY, "nested more than", id="brackets"),
        pytest.param("{a: " * MANY, "nested more than", id="braces"),
        pytest.param("- " * MANY, "nested more than", id="dashes"),
        ("a: [", "line 1"),
        ("train:\n  epochs: 010\n", "line 2: 010 is 8 to some programs and 10 to others"),
        ("train:\n  epochs: 1:30\n", "line 2: 1:30 is 90 to YAML"),
        ("a: -2:30.5", "line 1: -2:30.5 is 150.5 to YAML"),
        pytest.param(
            f"k0: &k0 1\n{TENFOLD}", "line 6: more than 100,000 values once its aliases", id="laughs"
        ),
        pytest.param(f"k0: &k0 1\n{CHAIN}", "nested more than", id="aliases of aliases"),
        ("train: &t\n  lr: 0.1\n  base: *t\n", "line 1: an alias .* inside what it repeats"),
        ("a: &a {<<: *a}", "line 1: an alias"),
    ],
)
def test_a_text_that_cannot_be_right_is_refused_with_its_line(text: str, told: str):
    with pytest.raises(TextError, match=told):
        parse_yaml(text)


def test_what_yaml_allows_is_read():
    merged = "base: &b {lr: 0.1, epochs: 2}\ntrain:\n  <<: *b\n  lr: 0.2\n"
    assert parse_yaml(merged)["train"] == {"lr": 0.2, "epochs": 2}
    assert parse_yaml("a: {x: 1}\nb: {x: 1}\n") == {"a": {"x": 1}, "b": {"x": 1}}
    assert parse_yaml("[" * (DEEPEST - 1) + "]" * (DEEPEST - 1)) is not None
    assert parse_yaml("") is None
    assert parse_yaml("[10, 0, -3, 0.5, 1_000, 0x10, '010', '1:30', 08, 00.5]") == (
        [10, 0, -3, 0.5, 1000, 16, "010", "1:30", "08", 0.5]
    )


def test_a_change_of_what_was_read_does_not_reach_the_next_reader():
    first = parse_yaml("train: {epochs: [1, 2]}")
    first["train"]["epochs"].append(3)
    assert parse_yaml("train: {epochs: [1, 2]}") == {"train": {"epochs": [1, 2]}}


@pytest.mark.parametrize("text", ["[" * MANY, '{"a":' * MANY, "{", b"\xff"], ids=["[", "a", "{", "bytes"])
def test_a_json_text_that_cannot_be_read_is_a_value_error(text: str | bytes):
    with pytest.raises(ValueError, match=r"nested|Expecting|UTF-8"):
        parse_json(text)
    assert parse_json('{"n": [1]}') == {"n": [1]}


def test_files_of_users_and_of_runs_are_refused_by_name(tmp_path: Path):
    config, record = tmp_path / "my.yaml", tmp_path / "run.json"
    config.write_text("train:\n  lr: 0.1\n  lr: 0.2\n")
    with pytest.raises(UsageError, match=r"my\.yaml is not valid YAML: line 3: lr stands twice"):
        parse_options(FitConfig, ["--config", str(config)], prog="crl", about="")
    with pytest.raises(DataError, match=r"my\.yaml.*line 3: lr stands twice"):
        read_config(config)
    loss = tmp_path / "loss.yaml"
    loss.write_text("name: crl\nname: cel\n")
    with pytest.raises(UsageError, match=r"loss\.yaml is not valid YAML: line 2: name stands twice"):
        parse_options(FitConfig, ["--loss", str(loss)], prog="crl", about="")
    for file in (config, record):
        file.write_text("[" * MANY)
    with pytest.raises(UsageError, match=r"my\.yaml.*nested"):
        parse_options(FitConfig, ["--config", str(config)], prog="crl", about="")
    with pytest.raises(DataError, match=r"run\.json.*nested"):
        read_json(record)
    with pytest.raises(UsageError, match="nested"):
        parse_options(FitConfig, ["--head.options", "[" * 100_000], prog="crl", about="")
