from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from finetune.errors import ModelFileError
from finetune.models.bundle import METADATA_KEY, check_class_names, load_bundle, save_bundle, weights_hash

FACTS: dict[str, Any] = {
    "class_names": ["0-2", "4-6", "größer"],
    "preprocess": {"image_size": 224, "mean": (0.5, 0.5, 0.5)},
    "metrics": {"accuracy": 0.58, "one_off": float("nan"), "n": 2000},
}


def make_state() -> dict[str, Tensor]:
    torch.manual_seed(0)
    shared = torch.randn(4, 4)
    return {
        "conv": torch.randn(2, 3, 3, 3).to(memory_format=torch.channels_last),
        "transposed": torch.randn(5, 2).T,
        "tied.a": shared,
        "tied.b": shared,
        "view": shared[1:3],
        "half": torch.randn(3).bfloat16(),
        "count": torch.tensor(7),
        "empty": torch.empty(0, 3),
        "parameter": nn.Parameter(torch.ones(2)),
    }


def test_weights_and_facts_come_back(tmp_path: Path) -> None:
    state = make_state()
    save_bundle(tmp_path / "m.safetensors", state, FACTS)
    loaded, facts = load_bundle(tmp_path / "m.safetensors")
    assert loaded.keys() == state.keys()
    assert all(
        torch.equal(loaded[name], state[name]) and loaded[name].dtype == state[name].dtype for name in state
    )
    assert weights_hash(loaded) == weights_hash(state)
    assert facts == {
        "class_names": ["0-2", "4-6", "größer"],
        "preprocess": {"image_size": 224, "mean": [0.5, 0.5, 0.5]},
        "metrics": {"accuracy": 0.58, "one_off": None, "n": 2000},
    }
    assert [file.name for file in tmp_path.iterdir()] == ["m.safetensors"]


def test_an_nllr_that_stores_no_clamp_was_the_exact_form(tmp_path: Path) -> None:
    for stored in ({"name": "nllr"}, {"name": "nllr", "clamp": None}):
        save_bundle(tmp_path / "m.safetensors", make_state(), {**FACTS, "loss": stored})
        assert load_bundle(tmp_path / "m.safetensors")[1]["loss"] == {"name": "nllr", "clamp": 0.0}


def test_a_flipped_bit_or_a_missing_end_is_never_loaded_as_something_else(tmp_path: Path) -> None:
    file, state = tmp_path / "m.safetensors", make_state()
    save_bundle(file, state, FACTS)
    content, right = file.read_bytes(), load_bundle(file)
    for place in range(0, len(content), 3):
        damaged = bytearray(content)
        damaged[place] ^= 1 << place % 8
        file.write_bytes(damaged)
        with pytest.raises(ModelFileError, match=r"m\.safetensors"):
            load_bundle(file)
    for end in range(0, len(content), 41):
        file.write_bytes(content[:end])
        with pytest.raises(ModelFileError, match=r"m\.safetensors"):
            load_bundle(file)
    file.write_bytes(content)
    assert load_bundle(file)[1] == right[1]


def test_a_file_that_says_nothing_about_itself_is_refused(tmp_path: Path) -> None:
    save_file({"w": torch.ones(2)}, tmp_path / "plain.safetensors")
    with pytest.raises(ModelFileError, match="no finished model of this toolkit"):
        load_bundle(tmp_path / "plain.safetensors")


def test_a_newer_schema_is_refused(tmp_path: Path) -> None:
    save_file(
        {"w": torch.ones(2)},
        tmp_path / "n.safetensors",
        {METADATA_KEY: '{"schema": 2, "sha256": "", "facts": ""}'},
    )
    with pytest.raises(ModelFileError, match="schema 2, this toolkit reads 1"):
        load_bundle(tmp_path / "n.safetensors")


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(ModelFileError, match=r"none\.safetensors"):
        load_bundle(tmp_path / "none.safetensors")


@pytest.mark.parametrize("names", [None, [], "abc", [1, 2]])
def test_a_model_without_class_names_is_not_saved(tmp_path: Path, names: object) -> None:
    with pytest.raises(ValueError, match="class_names"):
        save_bundle(tmp_path / "m.safetensors", {"w": torch.ones(1)}, {"class_names": names})
    assert list(tmp_path.iterdir()) == []


def test_ten_classes_for_an_eight_class_set_are_told_apart() -> None:
    eight = ["0-2", "4-6", "8-12", "15-20", "25-32", "38-43", "48-53", "60+"]
    ten = [*eight[:6], "44-47", "48-53", "54-59", "60-70"]
    with pytest.raises(ModelFileError) as caught:
        check_class_names(ten, eight, Path("runs/m.safetensors"))
    lines = str(caught.value).splitlines()
    assert lines[0] == "runs/m.safetensors knows 10 classes, the data has 8:"
    assert lines[1:3] == ["  only in the model: 44-47, 54-59, 60-70", "  only in the data: 60+"]
    assert caught.value.exit_code == 4


def test_the_same_classes_in_another_order_are_refused() -> None:
    check_class_names(("a", "b"), ["a", "b"])
    with pytest.raises(ModelFileError, match="another order: b, a against a, b"):
        check_class_names(["b", "a"], ["a", "b"])


def test_the_hash_sees_every_bit_name_type_and_shape_and_no_memory_format() -> None:
    base = {"a": torch.arange(24.0).reshape(2, 3, 2, 2), "b": torch.tensor(1.0)}
    same = {"b": base["b"].clone(), "a": base["a"].to(memory_format=torch.channels_last)}
    assert weights_hash(base) == weights_hash(same)
    assert weights_hash({"a": torch.arange(8.0)[::2]}) == weights_hash({"a": torch.arange(4.0) * 2})
    last_bit = base["a"].clone()
    last_bit.view(torch.int32)[1, 2, 1, 1] ^= 1
    others = [
        {**base, "a": last_bit},
        {**base, "a": base["a"].reshape(2, 3, 4)},
        {**base, "b": torch.tensor(1.0).bfloat16()},
        {"a": base["a"], "c": base["b"]},
        {"a": base["a"]},
        {**base, "b": torch.tensor([1.0])},
        {**base, "b": torch.tensor(-0.0)},
        {**base, "b": torch.tensor(0.0)},
    ]
    hashes = [weights_hash(base), *(weights_hash(other) for other in others)]
    assert len(set(hashes)) == len(hashes)
