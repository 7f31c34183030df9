"""The cost table: published and confirmed numbers, rows of heads that cannot be had, and the command."""

from __future__ import annotations

import json
from dataclasses import replace
from functools import cache

import pytest
import torch

from finegrained.config import CostConfig
from finegrained.cost import measure as cost_module
from finegrained.cost.measure import cost_of, count_cost, measure_costs, read_head
from finegrained.cost.table import Cost, Rate, cells, for_terminal, page
from finetune.errors import ResourceError, UsageError
from finetune.models.backbone import FeatureBackbone
from finetune.models.heads.registry import head_names
from finetune.training.optimization.precision import choose_precision
from tests.finegrained.tiny_birds import fine

LARGE = CostConfig(image_size=448, classes=200, batch_size=2, repeats=0)
SMALL = CostConfig(
    backbones=("test_resnet",), image_size=64, classes=5, batch_size=2, repeats=1, device="cpu"
)


@cache
def counted(backbone: str, head: str, config: CostConfig = LARGE) -> Cost:
    """Return what several tests ask for, counted once."""
    return count_cost(backbone, read_head(head), config)


def asked(head: str, config: CostConfig = SMALL, backbone: str = "test_resnet") -> Cost:
    return cost_of(backbone, read_head(head), config, choose_precision("cpu"))


@pytest.mark.parametrize(
    ("backbone", "side", "gmacs"), [("resnet50", 224, 4.1), ("resnet50", 448, 16.3), ("vgg16", 448, 61.4)]
)
def test_multiply_adds_of_backbones(backbone: str, side: int, gmacs: float):
    row = counted(backbone, "dcl", replace(LARGE, image_size=side))
    assert (row.macs - row.head_macs) / 1e9 == pytest.approx(gmacs, abs=0.05)


@pytest.mark.parametrize(
    ("backbone", "head", "millions"),
    [
        ("vgg16", "bilinear", 512 * 512 * 200 + 200),
        ("resnet50", "bilinear:reduction=256", 2048 * 256 + 256 * 256 * 200 + 200),
        ("resnet50", "bilinear:max_weights=900000000", 2048 * 2048 * 200 + 200),
        ("vgg16", "compact_bilinear", 8192 * 200 + 200),
        ("vgg16", "kernel_pooling", 12801 * 200 + 200 + 5),
        ("resnet50", "kernel_pooling", 14337 * 200 + 200 + 5),
        ("resnet50", "isqrt_cov", 2048 * 256 + 2 * 256 + 32896 * 200 + 200),
        ("resnet50", "dfl:filter_norm=none", 1024 * 2000 + 2000 * 200 + 200 + 2048 * 200 + 200),
        ("resnet50", "linear", 2048 * 200 + 200),
    ],
)
def test_parameters_of_heads_with_200_classes(backbone: str, head: str, millions: int):
    row = counted(backbone, head)
    assert (row.head_parameters, row.head_parameters_at_test) == (millions, millions)


def test_parameters_of_backbones_with_what_the_heads_leave_out():
    assert counted("vgg16", "bilinear").backbone_parameters == pytest.approx(14.7e6, abs=5e4)
    assert counted("resnet50", "bilinear:reduction=256").backbone_parameters == pytest.approx(23.5e6, abs=5e4)


def test_dcl_is_a_linear_head_at_test():
    plain, dcl = counted("resnet50", "linear"), counted("resnet50", "dcl")
    assert dcl.head_parameters_at_test == plain.head_parameters
    assert (dcl.macs, dcl.head_macs) == (plain.macs, plain.head_macs)
    assert (
        dcl.head_parameters - plain.head_parameters == 2048 * 2 + 2048 * 2 + 2
    )  # two outputs each, one bias pair
    assert dcl.training_bytes > 1.5 * plain.training_bytes  # every image is shown twice


def test_multiply_adds_of_a_gram_matrix_and_its_classifier():
    assert counted("vgg16", "bilinear").head_macs == 512 * 512 * 28 * 28 + 512 * 512 * 200


def test_multiply_adds_of_spectra():
    transforms = (4 * 196 + 3) * 4096 * 12 * 2.5 / 2
    assert counted("resnet50", "kernel_pooling").head_macs == pytest.approx(
        transforms + 14337 * 200, rel=1e-6
    )


def test_a_head_that_is_refused_keeps_its_row_and_says_why():
    row = asked("bilinear", LARGE, "resnet50")
    assert row.head_parameters is None
    assert "839 million parameters" in row.note
    assert "reduction" in row.note
    assert cells([row])[1][0][2:] == ["n/a"] * 6


def test_a_size_that_the_backbone_does_not_read_is_told(monkeypatch):
    config = replace(SMALL, image_size=60, repeats=0)
    for name in ("test_vit", "vit_tiny_patch16_224"):  # as a training says it
        told = f"refused: {name} cuts images into patches of 16 px, and 60 px is no multiple"
        assert told in asked("linear", config, name).note
    monkeypatch.setattr(FeatureBackbone, "preprocess_spec", lambda *_: None)
    assert "refused: it does not read images of 60 px" in asked("linear", config, "test_vit").note


def test_what_would_not_fit_is_counted_and_not_run(monkeypatch):
    monkeypatch.setattr(cost_module, "memory_bytes", lambda: 1000)
    monkeypatch.setattr(cost_module, "time_cost", None)
    row = asked("linear")
    assert row.training_bytes > 1000
    assert row.training is None
    assert "lower --batch_size" in row.note


def test_a_gpu_that_is_too_small_costs_its_row_alone(monkeypatch):
    def full(*_: object) -> Cost:
        raise torch.OutOfMemoryError

    monkeypatch.setattr(cost_module, "time_cost", full)
    row = asked("linear")
    assert row.macs
    assert "too little memory" in row.note


def test_heads_are_read_with_their_options():
    assert read_head("linear") == ("linear", "linear", {})
    found = read_head("dcl:variant=repo:regions=2:gamma=1e-2")
    assert found.options == {"variant": "repo", "regions": 2, "gamma": 0.01}
    assert read_head("dfl:two_scale=true").options == {"two_scale": True}


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("bilnear", "there is .*, bilinear, "),
        ("bilinear:reduce=3", "it takes reduction"),
        ("bilinear:reduction=many", "must be int"),
        ("bilinear:reduction", "OPTION=VALUE"),
    ],
)
def test_a_mistyped_head_is_told(text: str, told: str):
    with pytest.raises(UsageError, match=told):
        read_head(text)


@pytest.mark.parametrize(
    ("change", "told"),
    [
        ({"backbones": ()}, "at least one backbone"),
        ({"backbones": ("test_resnet", "resnet51")}, "no timm model is called 'resnet51'"),
        ({"heads": ("linear", "lenear")}, "no head is called"),
        ({"image_size": 0}, "must be positive"),
        ({"classes": 1}, "at least 2"),
        ({"batch_size": 1}, "at least 2"),
        ({"repeats": -1}, "--repeats"),
    ],
)
def test_what_cannot_be_right_is_refused_before_anything_runs(change, told: str, monkeypatch):
    monkeypatch.setattr(cost_module, "cost_of", None)
    with pytest.raises(UsageError, match=told):
        measure_costs(replace(SMALL, **change))


def test_a_place_that_cannot_be_written_is_told_first(tmp_path, monkeypatch):
    monkeypatch.setattr(cost_module, "cost_of", None)
    (tmp_path / "file").touch()
    with pytest.raises(ResourceError):
        measure_costs(replace(SMALL, out=str(tmp_path / "file" / "costs.md")))


def test_the_command_measures_heads_and_writes_the_page(tmp_path, capsys):
    out = tmp_path / "pages" / "costs.md"
    words = ["--backbones=test_resnet", "--image_size=64", "--classes=5", "--batch_size=2", "--repeats=1"]
    words += ["--heads", "linear,dcl:regions=4"]
    code, printed, err = fine(capsys, "cost", *words, "--device=cpu", "--out", out, "--json")
    assert code == 0, err
    found = json.loads(printed)
    assert [row["head"] for row in found["rows"]] == ["linear", "dcl:regions=4"]
    for row in found["rows"]:
        for kind in ("inference", "training"):
            assert 0 < row[kind]["slowest"] <= row[kind]["median"] <= row[kind]["fastest"]
    assert all(row["peak_bytes"] is None and row["note"] == "" for row in found["rows"])
    assert found["threads"] == torch.get_num_threads()
    text = out.read_text()
    assert found["conditions"] in text
    assert "thread(s)" in found["conditions"]
    assert "| `test_resnet` | `dcl:regions=4` |" in text
    assert "training img/s" in err


@pytest.mark.exhaustive  # three seconds
def test_all_heads_are_counted_and_nothing_timed_without_repeats(capsys):
    result = measure_costs(replace(SMALL, repeats=0))
    assert [row["head"] for row in result["rows"]] == head_names()
    assert all(row["macs"] and row["training_bytes"] and not row["note"] for row in result["rows"])
    assert result["rows"][0]["training"] is None
    assert result["conditions"].startswith("Counted, nothing timed")
    printed = capsys.readouterr().out
    assert "img/s" not in printed
    assert "training MB" in printed


def test_the_tables_show_what_was_measured():
    speeds = Rate.of(6, [3.0, 0.5, 0.4]), Rate(3.0, 3.0, 3.0)
    rows = [
        Cost("net", "linear", 23_508_032, 409_800, 409_800, 4_087_545_856, 409_600, 10**9, None, *speeds),
        Cost("net", "bilinear", note="refused: too | large"),
    ]
    header, found = cells(rows)
    assert header[-2:] == ["inference img/s", "training img/s"]
    assert found[0][2:8] == ["23.508", "0.410", "0.410", "4.09", "0.000", "1000"]
    assert found[0][8:] == ["12.0 (2.0 to 15.0)", "3.0 (3.0 to 3.0)"]
    written = page(rows, "Here.")
    assert "| `net` | `bilinear` | n/a |" in written
    assert "- bilinear on net: refused: too \\| large" in written
    aligned = for_terminal([replace(rows[0], peak_bytes=2 * 10**9), rows[1]])
    assert aligned[0][-1] == "GPU peak MB"
    assert [line[-1] for line in aligned[1]] == ["       2000", "        n/a"]
