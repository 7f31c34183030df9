"""Where the classes lie, and the type that is computed in."""

from __future__ import annotations

import pytest
import torch

from core_losses.layout import class_dim, computing_dtype


def test_classes_lie_first_without_a_batch_and_second_with_one() -> None:
    assert [class_dim(torch.zeros(shape)) for shape in [(4,), (2, 4), (2, 4, 3, 3)]] == [0, 1, 1]


@pytest.mark.parametrize(
    ("given", "used"),
    [
        (torch.float16, torch.float32),
        (torch.bfloat16, torch.float32),
        (torch.float32, torch.float32),
        (torch.float64, torch.float64),
    ],
)
def test_half_types_become_float32_and_wider_ones_stay(given: torch.dtype, used: torch.dtype) -> None:
    assert computing_dtype(torch.zeros(2, dtype=given)).dtype == used


def test_integers_are_refused() -> None:
    with pytest.raises(TypeError, match=r"floating point, but arrived as torch.int64"):
        computing_dtype(torch.tensor([1, 2]))
