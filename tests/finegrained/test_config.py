"""The study's options: its own defaults, on the command line too, and invalid values."""

from __future__ import annotations

from dataclasses import fields, is_dataclass
from typing import get_type_hints

import pytest

from finegrained.config import FineConfig, FineDataConfig
from finetune.cli.options import described_fields, parse_options
from finetune.errors import UsageError


def parsed(*argv: str) -> FineConfig:
    return parse_options(FineConfig, argv, prog="crl", about="")[0]


def test_defaults_are_the_same_from_the_command_line():
    assert parsed() == FineConfig()
    assert (FineConfig().model.image_size, FineConfig().train.augment) == (448, "crop")
    assert FineConfig().train.select == "last"


def test_options_reach_their_fields():
    config = parsed("--data.crop", "box", "--evaluate.test_crops", "cam", "--head.options.dropout", "0.5")
    assert (config.data.crop, config.evaluate.test_crops) == ("box", "cam")
    assert config.head.options == {"dropout": 0.5}


@pytest.mark.parametrize("part", [hint for hint in get_type_hints(FineConfig).values() if is_dataclass(hint)])
def test_every_option_is_described(part):
    told = described_fields(part)
    assert [item.name for item in fields(part) if not told.get(item.name)] == []


@pytest.mark.parametrize(
    ("name", "value"), [("val_share", 1.0), ("val_share", -0.1), ("test_share", 0.0), ("box_margin", -1.0)]
)
def test_shares_and_margins_out_of_range_are_refused(name, value):
    with pytest.raises(UsageError, match=rf"data\.{name} must .*got {value}"):
        FineDataConfig(**{name: value})


def test_training_needs_pictures():
    with pytest.raises(UsageError, match="belongs to verify"):
        FineConfig(data=FineDataConfig(metadata_only=True))
