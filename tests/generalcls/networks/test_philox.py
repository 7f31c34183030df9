"""Philox against its published answers, and dropout's masks by it."""

from __future__ import annotations

import pytest
import torch

from generalcls.networks.philox import device_masks, mask_keys, philox

CPU = torch.device("cpu")
MAPS, ROW, TOKENS = (0.25, (8, 6, 5)), (0.5, (40,)), (0.1, (7, 30))


def drawn(
    dropouts: dict, seeds: tuple[int, ...], epoch: int, step: int, count: int
) -> dict[str, torch.Tensor]:
    return device_masks(dropouts, mask_keys(seeds, CPU), torch.tensor(epoch), torch.tensor(step), count)


@pytest.mark.parametrize(
    ("counter", "key", "told"),
    [
        ((0, 0, 0, 0), (0, 0), "6627e8d5 e169c58d bc57ac4c 9b00dbd8"),
        ((2**32 - 1,) * 4, (2**32 - 1,) * 2, "408f276d 41c83b0e a20bc7c6 6d5451fd"),
        (  # the digits of pi
            (0x243F6A88, 0x85A308D3, 0x13198A2E, 0x03707344),
            (0xA4093822, 0x299F31D0),
            "d16cfe09 94fdcceb 5001e420 24126ea1",
        ),
    ],
)
def test_the_published_answers(counter: tuple[int, ...], key: tuple[int, ...], told: str) -> None:
    found = philox([torch.tensor(word) for word in counter], [torch.tensor(word) for word in key])
    assert " ".join(f"{word.item():08x}" for word in found) == told


def test_a_mask_keeps_its_share_everywhere() -> None:
    for name, mask in drawn({"a": MAPS, "b": ROW, "c": TOKENS}, (3, 5), 0, 0, 400).items():
        p, shape = {"a": MAPS, "b": ROW, "c": TOKENS}[name]
        assert mask.dtype == torch.bool
        assert mask.shape == (2, 400, *shape)
        for kept in (mask[0], mask[1], mask[:, :, 0], mask[:, 0]):
            share, spread = kept.double().mean().item(), (p * (1 - p) / kept.numel()) ** 0.5
            assert abs(share - (1 - p)) < 4.5 * spread, name


def test_a_mask_is_a_function_of_seed_and_step() -> None:
    def own(seeds: tuple[int, ...], step: int, epoch: int = 1) -> torch.Tensor:
        return drawn({"a": MAPS, "b": ROW}, seeds, epoch, step, 4)["a"]

    assert torch.equal(own((3, 5), 2)[1], own((5,), 2)[0])
    for other in (own((5,), 2), own((3,), 3), own((3,), 2, 2)):
        assert abs((own((3,), 2) == other).double().mean().item() - 0.625) < 0.06  # .75^2 + .25^2
    assert drawn({}, (3,), 0, 0, 4) == {}


def test_two_dropouts_of_one_step_have_nothing_in_common() -> None:
    masks = drawn({"a": ROW, "b": ROW}, (3,), 0, 0, 400)
    agreeing = (masks["a"] == masks["b"]).double().mean().item()
    assert abs(agreeing - 0.5) < 4.5 * 0.5 / masks["a"].numel() ** 0.5
