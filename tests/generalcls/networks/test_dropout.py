"""Dropout with masks from outside: what they keep, what they depend on, in which format it answers."""

from __future__ import annotations

import pytest
import torch

from generalcls.networks.dropout import Dropout, draw_masks

MAPS, ROW, TOKENS = (0.25, (8, 6, 5)), (0.5, (40,)), (0.1, (7, 30))


def test_a_mask_keeps_its_share_everywhere():
    masks = draw_masks({"a": MAPS, "b": ROW, "c": TOKENS}, (3, 5), (0, 0), 400)
    for name, (p, shape) in {"a": MAPS, "b": ROW, "c": TOKENS}.items():
        mask = masks[name]
        assert mask.dtype == torch.bool
        assert mask.shape == (2, 400, *shape)
        for kept in (mask[0], mask[1], mask[:, :, 0], mask[:, 0]):
            share, spread = kept.double().mean().item(), (p * (1 - p) / kept.numel()) ** 0.5
            assert abs(share - (1 - p)) < 4.5 * spread, name


def test_a_mask_is_a_function_of_seed_and_step():
    def drawn(seeds: tuple[int, ...], step: int) -> torch.Tensor:
        return draw_masks({"a": MAPS}, seeds, (1, step), 4)["a"]

    assert torch.equal(drawn((3, 5), 2)[1], drawn((5,), 2)[0])
    assert not torch.equal(drawn((3,), 2), drawn((5,), 2))
    assert not torch.equal(drawn((3,), 2), drawn((3,), 3))
    assert not torch.equal(drawn((3,), 2), draw_masks({"a": MAPS}, (3,), (2, 2), 4)["a"])
    assert draw_masks({}, (3,), (0, 0), 4) == {}


def test_two_dropouts_of_one_step_have_nothing_in_common():
    masks = draw_masks({"a": ROW, "b": ROW}, (3,), (0, 0), 400)
    agreeing = (masks["a"] == masks["b"]).double().mean().item()
    assert abs(agreeing - 0.5) < 4.5 * 0.5 / masks["a"].numel() ** 0.5


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16])
def test_the_answer_has_the_inputs_format_and_mean(dtype: torch.dtype):
    dropout = Dropout(0.25)
    dropout.keep = draw_masks({"a": MAPS}, (0,), (0, 0), 100)["a"][0]
    answer = dropout(torch.ones(100, 8, 6, 5, dtype=dtype))
    assert answer.dtype == dtype
    assert set(answer.unique().tolist()) == {0.0, torch.tensor(4 / 3, dtype=dtype).item()}
    assert abs(answer.double().mean().item() - 1) < 0.05
