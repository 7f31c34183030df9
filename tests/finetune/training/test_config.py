"""The configuration: frozen, checked as a whole, plain in YAML and back."""

from __future__ import annotations

import subprocess
import sys
from dataclasses import FrozenInstanceError, fields, is_dataclass, replace
from pathlib import Path
from typing import Any

import pytest
import yaml

from finetune.cli.options import load_config
from finetune.errors import UsageError
from finetune.runs.config_file import FREE_KEYS
from finetune.training.config import (
    FitConfig,
    HeadConfig,
    LossConfig,
    ModelConfig,
    RunConfig,
    TrainConfig,
    to_dict,
)

SECTIONS = {
    "model": ModelConfig,
    "head": HeadConfig,
    "loss": LossConfig,
    "train": TrainConfig,
    "run": RunConfig,
}


def with_value(key: str, value: Any) -> FitConfig:
    """Return the default configuration with one dotted key changed."""
    section, name = key.split(".")
    return FitConfig(**{section: SECTIONS[section](**{name: value})})  # type: ignore[arg-type]


@pytest.mark.parametrize("section", [FitConfig, *SECTIONS.values()])
def test_configurations_are_frozen_and_documented(section: type[Any]):
    config = section()
    for item in fields(section):
        with pytest.raises(FrozenInstanceError):
            setattr(config, item.name, getattr(config, item.name))
        if section is not FitConfig:
            assert f"\n        {item.name}: " in (section.__doc__ or "")


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("model.image_size", 0),
        ("model.resize_ratio", 0.5),
        ("model.drop_rate", 1.0),
        ("model.drop_path_rate", -0.1),
        ("head.name", "linaer"),
        ("train.frozen_lr", 0.0),
        ("train.frozen_weight_decay", -1.0),
        ("train.frozen_views", -2),
        ("loss.name", "crll"),
        ("loss.label_smoothing", 1.0),
        ("train.epochs", -1),
        ("train.frozen_epochs", 31),
        ("train.frozen_epochs", -1),
        ("train.batch_size", 0),
        ("train.accumulate", 0),
        ("train.lr", 0.0),
        ("train.lr", float("nan")),
        ("train.head_lr_multiplier", 0.0),
        ("train.weight_decay", -1e-4),
        ("train.momentum", 1.0),
        ("train.gamma", 0.0),
        ("train.augment", "faces"),
        ("train.ema", 1.0),
        ("train.mixup", -0.1),
        ("train.cutmix", float("nan")),
        ("train.clip_grad", -1.0),
        ("train.patience", -1),
        ("train.warmup_epochs", -0.5),
        ("run.checkpoint_minutes", 0.0),
        ("run.workers", -2),
    ],
)
def test_a_value_that_cannot_be_right_is_refused_by_its_key(key: str, value: Any):
    with pytest.raises(UsageError, match=key) as told:
        with_value(key, value)
    assert str(value) in str(told.value)


def test_all_broken_rules_are_told_at_once():
    with pytest.raises(UsageError) as told:
        FitConfig(train=TrainConfig(epochs=-1, lr=-1, augment="?"), loss=LossConfig(name="?"))
    for key in ("train.epochs", "train.lr", "train.augment", "loss.name"):
        assert key in str(told.value)


@pytest.mark.parametrize(
    ("loss", "told"),
    [
        (LossConfig("crl", {"alpha": -0.5}), "alpha"),
        (LossConfig("crl", {"beta": -1.0}), "beta"),
        (LossConfig("focal", {"gamma": float("nan")}), "gamma"),
        (LossConfig("cel", {"alpha": 1.0}), "cel takes no options, not alpha"),
        (LossConfig(name="focla"), "did you mean 'focal'.*cel, .*tce"),
    ],
)
def test_a_loss_that_cannot_be_built_is_refused_before_any_work(loss: LossConfig, told: str):
    with pytest.raises(UsageError, match=rf"loss.name {loss.name}: .*{told}"):
        FitConfig(loss=loss)


@pytest.mark.parametrize(
    ("key", "value"),
    [("frozen_lr", 0.1), ("frozen_weight_decay", 0.0), ("frozen_schedule", "step"), ("frozen_views", 2)],
)
def test_settings_of_frozen_epochs_without_any_are_refused(key: str, value: Any):
    with pytest.raises(UsageError, match=rf"train\.{key} would change nothing with train\.frozen_epochs 0"):
        with_value(f"train.{key}", value)
    options: dict[str, Any] = {key: value}
    assert getattr(FitConfig(train=TrainConfig(frozen_epochs=1, **options)).train, key) == value
    assert FitConfig(train=TrainConfig(frozen_views=0)).train.frozen_epochs == 0


@pytest.mark.parametrize(
    ("head", "options", "known", "unknown"),
    [
        ("linear", {}, ["main"], "side"),
        ("dcl", {}, ["main", "adversarial"], "adverserial"),
        ("dfl", {}, ["main", "part", "side"], "side2"),
        ("dfl", {"two_scale": True}, ["part", "side", "part2", "side2"], "sied"),
    ],
)
def test_a_loss_for_a_branch_that_the_head_does_not_have_is_refused_before_any_work(
    head: str, options: dict[str, Any], known: list[str], unknown: str
):
    chosen = HeadConfig(head, options=options)
    FitConfig(head=chosen, loss=LossConfig(branches=dict.fromkeys(known, "crl")))
    with pytest.raises(UsageError, match=rf"loss\.branches\.{unknown}: no branch .* has main") as told:
        FitConfig(head=chosen, loss=LossConfig(branches={unknown: "crl"}))
    assert all(name in str(told.value) for name in known)


def test_nllr_is_crl_with_alpha_0_and_beta_1():
    assert FitConfig(loss=LossConfig("crl", {"alpha": 0, "beta": 1.0})).loss.parameters() == {
        "alpha": 0.0,
        "beta": 1.0,
    }
    assert LossConfig("nllr:clamp=1e-6").parameters() == {"clamp": 1e-6}
    assert LossConfig().parameters() == {}


def test_a_misspelt_name_gets_the_allowed_ones_and_a_suggestion():
    with pytest.raises(UsageError, match=r"one of none, flip, .*got 'strng' \(did you mean strong\?\)"):
        with_value("train.augment", "strng")
    with pytest.raises(UsageError, match=r"head.name must be one of .*linear.*got 'zzz'$"):
        with_value("head.name", "zzz")
    with pytest.raises(UsageError, match="does not take the option dropot; it takes dropout"):
        with_value("head.options", {"dropot": 0.1})
    with pytest.raises(UsageError, match=r"loss\.branches\.side nope: there is no loss 'nope'"):
        with_value("loss.branches", {"side": "nope"})


def test_a_configuration_comes_back_from_its_yaml(tmp_path: Path):
    config = FitConfig(
        model=ModelConfig(backbone="resnet18.tv_in1k", weights="none", image_size=96, resize_ratio=1.0),
        loss=LossConfig(
            "crl", {"alpha": 1.5, "beta": 0.0}, label_smoothing=0.1, class_weights="inverse_sqrt"
        ),
        train=TrainConfig(
            epochs=90, schedule="step", milestones=(30, 60), lr=1e-3, optimizer="adamw", ema=0.999
        ),
        run=RunConfig(dir="runs/ä b", allow_change=("train.lr", "run.*"), workers=0, deterministic=False),
        device="cuda:1",
    )
    file = tmp_path / "config.yaml"
    file.write_text(yaml.safe_dump(to_dict(config), sort_keys=False, allow_unicode=True), encoding="utf-8")
    assert load_config(FitConfig, file) == config
    file.write_text(yaml.safe_dump(to_dict(FitConfig())))
    assert load_config(FitConfig, file) == FitConfig()


def test_a_plain_configuration_holds_only_plain_values():
    def leaves(value: Any) -> list[Any]:
        parts = value.values() if isinstance(value, dict) else value if isinstance(value, list) else None
        return [value] if parts is None else [leaf for part in parts for leaf in leaves(part)]

    plain = to_dict(replace(FitConfig(), train=TrainConfig(milestones=(5, 6), schedule="step")))
    assert plain["train"]["milestones"] == [5, 6]
    assert all(type(leaf) in (str, int, float, bool, type(None)) for leaf in leaves(plain))


def test_free_keys_exist_and_none_of_them_decides_what_is_learned():
    config, keys = to_dict(FitConfig()), [key for key in FREE_KEYS if not key.startswith("evaluate.")]
    for key in keys:
        section, _, name = key.rpartition(".")
        assert name in (config[section] if section else config)
    assert all(not key.startswith(("model", "head", "loss", "train")) for key in keys)
    assert {"run.precision", "run.compile", "run.deterministic"}.isdisjoint(keys)


def test_the_module_imports_without_torch_and_jsonargparse():
    code = (
        "import sys, finetune.training.config as c; "
        "sys.exit('torch' in sys.modules or 'jsonargparse' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
    assert all(is_dataclass(section) for section in SECTIONS.values())
