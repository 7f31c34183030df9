"""What an epoch adds up to: means over images, pushes, what heads log, and old checkpoints."""

from __future__ import annotations

from functools import partial

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from core_losses import CompetingRatioLoss, NLLRLoss
from finetune.models.heads.base import HeadOutput
from finetune.training.checkpoint import Progress
from finetune.training.epoch_metrics import Totals, pushes
from finetune.training.optimization.distributed import World

CPU = torch.device("cpu")


def test_totals_are_means_over_pictures_not_batches():
    totals = Totals.zero(CPU)
    three = HeadOutput(
        torch.tensor([[2.0, 1.0], [0.0, 3.0], [1.0, 0.0]]), logged={"blend": torch.tensor(7.0)}
    )
    one = HeadOutput(torch.tensor([[0.0, 1.0]]), logged={"blend": torch.tensor(3.0)})
    totals.add(torch.tensor(1.0), three, torch.tensor([0, 1, 1]))
    totals.add(torch.tensor(5.0), one, torch.tensor([[0.3, 0.7]]))
    expected = {
        "train_loss": (3 * 1.0 + 5.0) / 4,
        "train_accuracy": 3 / 4,
        "train_blend": 6.0,
    }
    assert totals.means(World()) == expected
    assert totals.finite()
    totals.add(torch.tensor(float("nan")), HeadOutput(torch.zeros(1, 2)), torch.tensor([0]))
    assert not totals.finite()


def test_predictions_are_counted_without_the_margin():
    totals = Totals.zero(CPU)
    output = HeadOutput(torch.tensor([[0.0, 1.0]]), plain=torch.tensor([[2.0, 1.0]]))
    totals.add(torch.tensor(1.0), output, torch.tensor([0]))
    assert totals.means(World())["train_accuracy"] == 1.0


def test_the_factor_is_a_mean_of_ratios_and_the_ratio_one_of_means():
    totals = Totals.zero(CPU)
    logits, target = torch.tensor([[2.0, 0.0], [0.0, 0.0], [200.0, 0.0]]), torch.tensor([0, 1, 0])
    found = pushes(NLLRLoss(clamp=0), HeadOutput(logits), target)
    totals.add(torch.tensor(1.0), HeadOutput(logits), target, found)
    q = [torch.tensor(-2.0).sigmoid().item(), 0.5]  # the third is beyond float32: it has no ratio
    means = totals.means(World())
    assert means["train_gradient_factor"] == pytest.approx((1 / q[0] + 1 / q[1]) / 2)
    assert means["train_gradient_ratio"] == pytest.approx(3 / sum(q))
    assert (means["train_grad"], means["train_grad_ce"]) == (1.0, pytest.approx(sum(q) / 3))


def test_factors_beyond_the_number_format_are_left_out_and_do_not_look_like_a_bad_loss():
    totals = Totals.zero(CPU)
    tiny = (torch.ones(2), torch.tensor([1.0, 5e-324], dtype=torch.float64))
    totals.add(torch.tensor(1.0), HeadOutput(torch.zeros(2, 2)), torch.tensor([0, 1]), tiny)
    assert totals.finite()
    told = {"train_loss", "train_accuracy", "train_gradient_ratio", "train_grad", "train_grad_ce"}
    assert set(totals.means(World())) == told


def test_pushes_are_those_of_a_known_loss_on_plain_logits_and_classes():
    output, target = HeadOutput(torch.zeros(2, 4, dtype=torch.bfloat16)), torch.tensor([0, 3])
    found = pushes(CompetingRatioLoss(), output, target)
    assert found is not None
    assert (found[0] / found[1]).tolist() == pytest.approx([1 + 0.25 / 2.25] * 2)
    soft: Tensor = torch.full((2, 4), 0.25)
    margined = HeadOutput(torch.zeros(2, 4), plain=torch.zeros(2, 4))
    assert pushes(CompetingRatioLoss(), output, soft) is None
    assert pushes(CompetingRatioLoss(), margined, target) is None
    assert pushes(partial(F.cross_entropy), output, target) is None


def test_a_checkpoint_holds_what_was_logged_and_one_of_an_older_version_goes_on():
    totals = Totals(torch.arange(7, dtype=torch.float64), {"blend": torch.tensor(6.0, dtype=torch.float64)})
    state = Progress(totals=totals).state(World())
    back = Progress.restored(state, CPU, World()).totals
    assert back is not None
    assert torch.equal(back.sums, totals.sums)
    assert back.means(World()) == totals.means(World())
    old = {**state, "totals": torch.tensor([[4.0, 1.0, 2.0]], dtype=torch.float64)}
    resumed = Progress.restored(old, CPU, World()).totals
    assert resumed is not None
    assert resumed.means(World()) == {"train_loss": 2.0, "train_accuracy": 0.5}


def test_another_number_of_processes_gives_the_totals_of_all_to_the_first():
    rows = {"sums": torch.ones(2, 7, dtype=torch.float64), "blend": torch.tensor([3.0, 5.0])}
    state = {**Progress().state(World()), "totals": rows}
    first, second = (Progress.restored(state, CPU, World(rank=rank, size=3)).totals for rank in range(2))
    assert first is not None
    assert second is not None
    assert (first.sums[2], first.logged["blend"]) == (2, 8)
    assert (second.sums[2], second.logged["blend"]) == (0, 0)
