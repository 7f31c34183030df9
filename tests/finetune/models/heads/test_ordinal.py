"""The heads of ordered classes: worked numbers, exact tails, their start, and that every loss reads them."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from core_losses import LOSSES, build_loss
from finetune.errors import UsageError
from finetune.models.backbone import Features
from finetune.models.classifier import build_classifier
from finetune.models.heads.ordinal import DIRECTION_PACE, CornHead, CumulativeHead, log_one_minus_exp
from finetune.models.heads.registry import head_class, head_options
from finetune.training.optimization.optim import parameter_groups

NAMES = ("corn", "cumulative")
TWO = torch.tensor([2])


def near(value: Any) -> Any:
    """A number that was computed apart from this project, to its printed digits."""
    return pytest.approx(value, abs=6e-7)


def corn(questions: list[float]) -> Tensor:
    """Return log p (1, K) of a head whose questions have these logits."""
    head = CornHead(1, len(questions) + 1).double()
    with torch.no_grad():
        head.classifier.weight.zero_()
        head.classifier.bias.copy_(torch.tensor(questions))
    return head.log_posteriors(torch.ones(1, 1).double())


def cumulative(direction: float, cuts: list[float]) -> Tensor:
    """Return log p (1, K) of a head with these cut points, which fall."""
    head = CumulativeHead(1, len(cuts) + 1).double()
    head.place_cuts(torch.tensor(cuts, dtype=torch.float64))
    with torch.no_grad():
        head.direction.weight.fill_(direction / DIRECTION_PACE)
    return head.log_posteriors(torch.ones(1, 1).double())


def test_the_worked_numbers_of_the_cumulative_head():
    z = cumulative(0.4, [1.5, 0.5, -0.5, -1.5])
    p = z.exp()[0]
    assert p.tolist() == near([0.130108, 0.158942, 0.235929, 0.225281, 0.24974])
    above = 1 - p.cumsum(0)[:-1]
    assert above.tolist() == near([0.869892, 0.71095, 0.475021, 0.24974])
    assert above.logit().tolist() == pytest.approx([1.9, 0.9, -0.1, -1.1], abs=1e-12)
    assert build_loss("cel")(z, TWO).item() == near(1.444226)
    assert build_loss("olog")(z, TWO).item() == near(1.412273)  # CORAL: the sum of the binary losses


def test_the_worked_numbers_of_the_continuation_ratios():
    z = corn([2.0, 1.0, -0.5, 0.3])
    assert z.exp()[0].tolist() == near([0.119203, 0.236883, 0.40081, 0.103455, 0.139649])
    value = build_loss("cel")(z, TWO).item()
    assert value == near(0.914267)
    assert value / 3 == near(0.304756)  # what a mean over the questions asked would print


@pytest.mark.parametrize("name", NAMES)
def test_two_classes_make_a_head_binary(name: str):
    x = torch.linspace(-30, 30, 41).double()[:, None]
    head = head_class(name)(1, 2).double()
    with torch.no_grad():
        (weight,) = [p for p in head.parameters() if p.ndim == 2]
        weight.fill_(1.0 if name == "corn" else 1 / DIRECTION_PACE)
    torch.testing.assert_close(head.log_posteriors(x)[:, 1], F.logsigmoid(x[:, 0]))
    target = torch.arange(41) % 2
    binary = F.binary_cross_entropy_with_logits(x[:, 0], target.double())
    for loss in ("cel", "olog"):
        torch.testing.assert_close(build_loss(loss)(head.log_posteriors(x), target), binary)


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("classes", [2, 3, 8, 101])
def test_the_start_is_uniform(name: str, classes: int):
    torch.manual_seed(0)
    head = head_class(name)(16, classes)
    zero = head.eval().infer(Features(torch.zeros(2, 16)))
    torch.testing.assert_close(zero.exp(), torch.full((2, classes), 1 / classes), rtol=1e-4, atol=0)
    weights = torch.cat([p.flatten() for p in head.parameters() if p.ndim == 2])
    assert weights.abs().max() < 0.05
    assert head.map_classifier() is None


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_posteriors_sum_to_one_at_logits_of_ten_thousand(name: str, dtype: torch.dtype):
    source = torch.Generator().manual_seed(1)
    head = head_class(name)(4, 8).to(dtype)
    for scale in (1e-3, 1.0, 1e4):
        x = (torch.rand(50, 4, generator=source, dtype=dtype) * 2 - 1) * scale
        with torch.no_grad():
            for weight in (p for p in head.parameters() if p.ndim == 2):
                weight.copy_(torch.randn(weight.shape, generator=source, dtype=dtype))
        z = head.log_posteriors(x.requires_grad_())
        assert z.isfinite().all()
        assert z.logsumexp(1).abs().max() < (2e-6 if dtype == torch.float32 else 1e-12)
        (grad,) = torch.autograd.grad(F.nll_loss(z, torch.arange(50) % 8), x)
        assert grad.isfinite().all()


def test_no_cut_overtakes_another_whatever_is_learned():
    head, source = CumulativeHead(4, 6), torch.Generator().manual_seed(0)
    for _ in range(1000):
        with torch.no_grad():
            head.cuts.add_(torch.randn(5, generator=source) / 3)
        z = head.log_posteriors(torch.zeros(1, 4))  # each step down of P(class > k) is a class's posterior
        assert z.isfinite().all()
        assert z.logsumexp(1).item() == pytest.approx(0.0, abs=1e-5)


def test_a_difference_of_sigmoids_keeps_its_digits():
    gaps = torch.tensor([1e-6, 1e-3, 0.69, 5.0, 40.0, 500.0])
    exact = torch.log(-torch.expm1(-gaps.double()))
    torch.testing.assert_close(log_one_minus_exp(gaps).double(), exact, rtol=1e-6, atol=1e-7)
    z = cumulative(-40.0, [2.0, 1.0, 0.0])  # every class above the first has a posterior below 1e-16
    assert z[0, 2].item() == pytest.approx(torch.log(torch.tensor(1 - torch.e**-1)).item() - 39.0, abs=1e-9)


@pytest.mark.parametrize("name", NAMES)
def test_gradients_are_the_slopes(name: str):
    torch.manual_seed(0)
    head = head_class(name)(3, 4).double()
    x = torch.randn(2, 3, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(head.log_posteriors, x)
    parameters = [p.detach().requires_grad_() for p in head.parameters()]
    names = [key for key, _ in head.named_parameters()]

    def of(*values: Tensor) -> Tensor:
        held = dict(zip(names, values, strict=True))
        return torch.func.functional_call(head, held, (Features(x.detach()),)).logits

    assert torch.autograd.gradcheck(of, parameters)


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_ends_before_the_head(name: str, dtype: torch.dtype):
    torch.manual_seed(0)
    head, x = head_class(name)(6, 8).eval(), torch.randn(4, 6).to(dtype)
    wanted = head.infer(Features(x.float()))
    with torch.autocast("cpu", dtype=torch.bfloat16):
        found = head.infer(Features(x))
    assert found.dtype == torch.float32
    assert torch.equal(found, wanted)


@pytest.mark.parametrize("name", NAMES)
def test_every_loss_reads_the_head(name: str):
    torch.manual_seed(0)
    head, x = head_class(name)(6, 5), torch.randn(7, 6)
    z, target = head.log_posteriors(x), torch.arange(7) % 5
    for loss in LOSSES:
        value = build_loss(loss)(z, target)
        grads = torch.autograd.grad(value, list(head.parameters()), retain_graph=True)
        assert all(grad.isfinite().all() for grad in grads), loss
    plain = build_loss("cel")(z, target)
    torch.testing.assert_close(build_loss("crl", beta=0.0)(z, target), plain)
    torch.testing.assert_close(-z.gather(1, target[:, None]).mean(), plain)


@pytest.mark.parametrize("name", NAMES)
def test_no_weight_decay_on_biases_and_cuts(name: str):
    core = build_classifier("test_resnet", name, 5, weights="none", image_size=32)
    groups = parameter_groups(core, lr=0.1, weight_decay=0.5)
    decay = {id(p): group["weight_decay"] for group in groups for p in group["params"]}
    told = {key: decay[id(p)] for key, p in core.head.named_parameters()}
    layer, rest = ("classifier.weight", "classifier.bias") if name == "corn" else ("direction.weight", "cuts")
    assert told == {layer: 0.5, rest: 0.0}


@pytest.mark.parametrize("name", NAMES)
def test_dropout_is_an_option_as_in_the_linear_head(name: str):
    assert head_options(name) == {"dropout": 0.0}
    head = head_class(name)(50, 5, dropout=0.5)
    x = Features(torch.ones(1, 50))
    assert not torch.equal(head.train()(x).logits, head.eval()(x).logits)
    assert isinstance(head.dropout, nn.Dropout)
    with pytest.raises(UsageError, match=r"head.dropout must lie in \[0, 1\), got 1"):
        head_class(name)(50, 5, dropout=1.0)
