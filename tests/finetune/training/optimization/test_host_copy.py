"""The state that is written beside a training: of the moment it was asked for."""

from __future__ import annotations

from collections import OrderedDict

import torch

from finetune.training.optimization.host_copy import host_copy, writes_beside


def test_a_copy_keeps_values_layout_and_sharing_whatever_the_next_steps_do() -> None:
    weight = torch.arange(24.0).view(2, 3, 2, 2).contiguous(memory_format=torch.channels_last)
    state = {
        "model": OrderedDict(a=weight, tied=weight, part=weight[:1]),
        "optimizer": {"state": {0: {"step": torch.tensor(3.0)}}, "rates": [0.1, (1, None)]},
        "empty": [torch.empty(0), torch.empty(0, dtype=torch.int64)],
    }
    copy, wait = host_copy(state, torch.device("cpu"))
    kept = weight.clone()
    weight.add_(1)
    state["optimizer"]["state"][0]["step"] += 1
    wait()
    assert torch.equal(copy["model"]["a"], kept)
    assert copy["model"]["a"].is_contiguous(memory_format=torch.channels_last)
    assert copy["model"]["tied"] is copy["model"]["a"]
    assert torch.equal(copy["model"]["part"], kept[:1])
    assert type(copy["model"]) is OrderedDict
    assert copy["optimizer"] == {"state": {0: {"step": torch.tensor(3.0)}}, "rates": [0.1, (1, None)]}
    assert [each.dtype for each in copy["empty"]] == [torch.float32, torch.int64]


def test_a_copy_carries_the_versions_of_a_modules_parts() -> None:
    layer = torch.nn.utils.spectral_norm(torch.nn.Linear(3, 2))
    copy, _ = host_copy(layer.state_dict(), torch.device("cpu"))
    assert copy._metadata == layer.state_dict()._metadata
    again = torch.nn.utils.spectral_norm(torch.nn.Linear(3, 2))
    again.load_state_dict(copy)  # without a version the layer would compute one of its buffers anew
    assert torch.equal(again.weight_v, layer.weight_v)


def test_only_a_gpu_goes_on_meanwhile() -> None:
    assert [writes_beside(torch.device(kind)) for kind in ("cuda", "cpu", "mps")] == [True, False, False]
