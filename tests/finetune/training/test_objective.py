import pytest
import torch
from torch import nn
from torch.nn import functional as F

from core_losses import soft_target_rows
from finetune.errors import UsageError
from finetune.models.heads.base import Branch, HeadOutput
from finetune.training.epoch_metrics import Totals
from finetune.training.loss_choice import LossConfig
from finetune.training.objective import Objective
from finetune.training.optimization.account import Account

TARGET = torch.tensor([0, 2])


def ones(logits, target):
    return logits.sum() * 0 + 1.0


def test_main_logits_alone_give_the_loss_itself():
    logits = torch.randn(2, 3, requires_grad=True)
    value = Objective(F.cross_entropy)(HeadOutput(logits), TARGET)
    torch.testing.assert_close(value.total, F.cross_entropy(logits, TARGET))
    assert value.total.requires_grad
    assert not value.parts["main"].requires_grad


def test_branches_and_terms_add_up_with_their_weights_by_hand():
    zeros = torch.zeros(2, 4)
    other = torch.tensor([3, 3, 1])
    output = HeadOutput(
        zeros,
        branches={"side": Branch(torch.zeros(2, 8), weight=0.1), "mixed": Branch(torch.zeros(3, 16), other)},
        terms={"alignment": (torch.tensor(5.0), 0.2)},
    )
    value = Objective(F.cross_entropy)(output, TARGET)
    log2 = 0.6931471805599453
    expected = {"main": 2 * log2, "side": 0.1 * 3 * log2, "mixed": 4 * log2, "alignment": 1.0}
    assert {name: float(part) for name, part in value.parts.items()} == pytest.approx(expected)
    assert float(value.total) == pytest.approx(sum(expected.values()))


def test_the_chosen_loss_goes_on_every_class_branch_and_domain_branches_keep_cross_entropy():
    zeros = torch.zeros(2, 2)
    output = HeadOutput(
        zeros,
        branches={"side": Branch(zeros), "domain": Branch(zeros, torch.tensor([0, 1]), domain=True)},
    )
    parts = Objective(ones)(output, torch.tensor([0, 1])).parts
    assert float(parts["main"]) == float(parts["side"]) == 1.0
    assert float(parts["domain"]) == pytest.approx(0.6931472)


def test_a_branch_loss_can_be_replaced_by_name_the_main_and_domain_ones_too():
    zeros = torch.zeros(2, 2)
    output = HeadOutput(zeros, branches={"side": Branch(zeros), "domain": Branch(zeros, domain=True)})
    for name in ("main", "side", "domain"):
        parts = Objective(F.cross_entropy, {name: ones})(output, torch.tensor([0, 1])).parts
        assert {part: float(value) == 1.0 for part, value in parts.items()} == {
            part: part == name for part in ("main", "side", "domain")
        }


def test_a_replacement_for_no_branch_is_refused_with_the_names_there_are():
    with pytest.raises(UsageError, match="no branch is called sidee; this head has main, side"):
        Objective(ones, {"sidee": ones})(
            HeadOutput(torch.zeros(2, 2), {"side": Branch(torch.zeros(2, 2))}), TARGET
        )


def test_class_weights_never_meet_a_branch_of_another_width():
    weighted = nn.CrossEntropyLoss(weight=torch.tensor([1.0, 2.0, 3.0]))
    doubled = Branch(torch.zeros(2, 6), torch.tensor([0, 5]))
    with pytest.raises(
        UsageError, match=r"3 classes and cannot weigh the branch side, which has 6: .*side cel"
    ):
        Objective(weighted)(HeadOutput(torch.zeros(2, 3), {"side": doubled}), TARGET)
    asked = Branch(doubled.logits, doubled.target, domain=True)
    Objective(weighted)(HeadOutput(torch.zeros(2, 3), {"side": asked}), TARGET)
    Objective(weighted, {"side": F.cross_entropy})(HeadOutput(torch.zeros(2, 3), {"side": doubled}), TARGET)


def test_two_parts_of_one_name_are_our_own_mistake():
    output = HeadOutput(torch.zeros(2, 3), terms={"main": (torch.tensor(1.0), 1.0)})
    with pytest.raises(ValueError, match="parts must differ in name"):
        Objective(ones)(output, TARGET)


def test_soft_targets_pass_through_and_half_precision_becomes_single():
    seen = []

    def loss(logits, target):
        seen.append((logits.dtype, target))
        return logits.sum()

    soft = torch.tensor([[0.5, 0.5], [0.0, 1.0]])
    Objective(loss)(HeadOutput(torch.zeros(2, 2, dtype=torch.bfloat16)), soft)
    Objective(loss)(HeadOutput(torch.zeros(2, 2, dtype=torch.float64)), soft)
    assert [dtype for dtype, _ in seen] == [torch.float32, torch.float64]
    assert seen[0][1] is soft


ROWS = soft_target_rows("sord", range(3))


def test_soft_target_rows_take_the_place_of_the_batchs_own_target():
    logits, mixed = torch.randn(2, 3), torch.tensor([[0.7, 0.0, 0.3], [0.0, 1.0, 0.0]])
    objective = Objective(F.cross_entropy, rows=ROWS)
    value = objective(HeadOutput(logits), TARGET).total
    torch.testing.assert_close(value, F.cross_entropy(logits, ROWS[TARGET]))
    torch.testing.assert_close(
        objective(HeadOutput(logits), mixed).total, F.cross_entropy(logits, mixed @ ROWS)
    )
    other, domain = (
        Branch(logits, torch.tensor([1, 1])),
        Branch(logits[:, :2], torch.tensor([0, 1]), domain=True),
    )
    output = HeadOutput(logits, branches={"side": Branch(logits), "own": other, "domain": domain})
    parts = objective(output, TARGET).parts
    wanted = {"main": value, "side": value, "own": F.cross_entropy(logits, torch.tensor([1, 1]))}
    wanted["domain"] = F.cross_entropy(logits[:, :2], torch.tensor([0, 1]))
    assert {name: float(part) for name, part in parts.items()} == pytest.approx(
        {name: float(part) for name, part in wanted.items()}
    )


def test_a_softened_batch_has_no_gradient_factor_and_counts_the_hard_label():
    logits = torch.tensor([[2.0, 0.0, 0.0], [2.0, 0.0, 0.0]])
    for rows, told in ((None, 2.0), (ROWS, 0.0)):
        totals = Totals.zero(torch.device("cpu"))
        Account(Objective(LossConfig("crl").build(), rows=rows))(HeadOutput(logits), TARGET, totals)
        assert totals.sums[1:3].tolist() == [1.0, 2.0]
        assert totals.sums[4] == told
