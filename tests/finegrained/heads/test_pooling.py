import math

import pytest
import torch
from torch._subclasses.fake_tensor import FakeTensorMode

from finegrained.heads.pooling import (
    RELATIVE_EPS,
    averaged,
    averaged_by_products,
    check_positive,
    check_weights,
    gram,
    improved,
    l2_normalise,
    match_sizes,
    signed_sqrt,
)
from finetune.errors import UsageError
from tests.fake_gpu.called import CalledOperations


def noise(*shape: int, seed: int = 0, dtype: torch.dtype = torch.float32) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=dtype)


def test_gram_is_the_mean_outer_product_over_the_locations():
    first, second = noise(2, 3, 4, 5), noise(2, 6, 4, 5, seed=1)
    expected = torch.zeros(2, 3, 6)
    for b in range(2):
        for row in range(4):
            for column in range(5):
                expected[b] += torch.outer(first[b, :, row, column], second[b, :, row, column]) / 20
    torch.testing.assert_close(gram(first, second), expected)


def test_gram_of_one_map_is_symmetric_with_no_eigenvalue_below_zero():
    found = gram(noise(2, 6, 2, 2))
    torch.testing.assert_close(found, found.transpose(1, 2))
    assert torch.linalg.eigvalsh(found).min() > -1e-6


@pytest.mark.parametrize("function", [gram, signed_sqrt, improved, lambda x: l2_normalise(x.flatten(1))])
def test_autocast_changes_no_bit_of_the_result_and_half_maps_are_widened_first(function):
    x = noise(2, 4, 8, 8)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        under = function(x)
        half = function(x.bfloat16())
    assert under.dtype == half.dtype == torch.float32
    assert torch.equal(under, function(x))
    assert torch.equal(half, function(x.bfloat16().float()))
    assert function(x.double()).dtype == torch.float64


def test_activations_whose_squares_overflow_half_precision_stay_finite():
    x = (noise(2, 4, 8, 8) * 1000).half()  # 1000^2 is past the 65,504 of float16
    x.requires_grad_(True)
    found = improved(gram(x))
    (found * noise(2, 16)).sum().backward()
    assert gram(x).max() > 65_504
    assert torch.isfinite(found).all()
    assert torch.isfinite(x.grad).all()


def test_maps_of_two_sizes_meet_on_the_smaller_grid():
    large = torch.arange(16.0).reshape(1, 1, 4, 4)
    small = torch.ones(1, 2, 2, 2)
    for one, other in (match_sizes(large, small), match_sizes(small, large)[::-1]):
        assert one.tolist() == [[[[2.5, 4.5], [10.5, 12.5]]]]
        assert other is small
    wide, high = match_sizes(torch.ones(1, 1, 3, 5), torch.ones(1, 1, 5, 4))
    assert wide.shape == high.shape == (1, 1, 3, 4)
    assert match_sizes(large, large) == (large, large)


def test_the_signed_root_has_the_value_of_its_formula_in_both_signs():
    x = torch.tensor([[4.0, -9.0, 0.0, 3.0]])  # mean magnitude 4
    expected = torch.tensor([[4 / 4.4**0.5, -9 / 9.4**0.5, 0.0, 3 / 3.4**0.5]])
    torch.testing.assert_close(signed_sqrt(x, eps=0.1), expected)


def test_the_signed_roots_slope_is_exact_and_bounded():
    eps, x = 1e-2, noise(3, 7, dtype=torch.float64)
    x.requires_grad_(True)
    assert torch.autograd.gradcheck(lambda x: signed_sqrt(x, eps), x)
    values = torch.tensor([[1e-12, -1e-12, 0.0, 4.0]], dtype=torch.float64, requires_grad=True)
    jacobian = torch.autograd.functional.jacobian(lambda x: signed_sqrt(x, eps)[0], values)[:, 0]
    bound = 1 / (eps * 1.0) ** 0.5  # the mean magnitude is 1
    assert jacobian[0, 0].item() == pytest.approx(bound, rel=1e-2)
    assert jacobian[1, 1].item() == pytest.approx(bound, rel=1e-2)
    assert jacobian[2, 2].item() == pytest.approx(bound, rel=1e-9)
    # d/dx of x / sqrt(x + eps m) at 4: its own share and that of m, a fourth of eps.
    expected = (4 + eps) ** -0.5 - 4 * (1 + eps / 4) / (2 * (4 + eps) ** 1.5)
    assert jacobian[3, 3].item() == pytest.approx(expected, rel=1e-9)


def test_the_signed_root_does_not_jump_at_zero():
    x = noise(1, 50)
    noisy = torch.cat([x, torch.tensor([[1e-9, -1e-9]])], dim=1)
    jump = (signed_sqrt(noisy)[0, -2:]).abs().max()
    assert jump < 1e-5 * signed_sqrt(x).abs().mean()


@pytest.mark.parametrize("factor", [1e-8, 1e-3, 1e4])
def test_the_descriptor_does_not_depend_on_the_scale_of_the_activations(factor):
    x = noise(2, 512, 8)
    torch.testing.assert_close(improved(factor * x), improved(x), rtol=1e-4, atol=1e-7)
    torch.testing.assert_close(signed_sqrt(factor * x), factor**0.5 * signed_sqrt(x), rtol=1e-4, atol=0)


def test_eps_is_a_small_share_of_a_long_descriptor_with_tiny_entries():
    # As an absolute 1e-5 it would be 1,000 times the entries: every direction would look the same.
    x = 1e-8 * noise(1, 262_144).abs()
    squares = signed_sqrt(x).square().sum() / x.sum()
    assert squares.item() == pytest.approx(1 - RELATIVE_EPS, rel=1e-5)


def test_the_gradient_through_the_scale_is_not_cut():
    # A function that ignores the scale of x has a gradient at right angles to x, eps included.
    x = noise(2, 9, dtype=torch.float64).requires_grad_(True)
    (improved(x, eps=0.3) * noise(2, 9, seed=1, dtype=torch.float64)).sum().backward()
    assert x.grad.abs().max() > 1e-2
    torch.testing.assert_close((x.grad * x).sum(1), torch.zeros(2, dtype=torch.float64))


def test_a_map_of_zeros_gives_zeros_and_a_finite_gradient():
    x = torch.zeros(2, 3, 2, 2, requires_grad=True)
    found = improved(gram(x))
    (found * noise(2, 9)).sum().backward()
    assert found.tolist() == torch.zeros(2, 9).tolist()
    assert torch.isfinite(x.grad).all()
    row = torch.zeros(1, 4, requires_grad=True)
    l2_normalise(row).sum().backward()
    assert row.grad.tolist() == [[1.0] * 4]


def test_numbers_at_the_end_of_float32_have_a_root():
    found = signed_sqrt(torch.tensor([[1e-41, 0.0], [0.0, -1e38]], requires_grad=True))
    assert found[0].tolist() == pytest.approx([1e-41**0.5, 0.0], rel=1e-3)
    assert found[1].tolist() == pytest.approx([0.0, -1e19], rel=1e-4)


@pytest.mark.parametrize("factor", [1e-30, 1e-20, 1e20, 1e30])
def test_rows_whose_squares_leave_float32_still_come_out_at_length_one(factor):
    x = noise(2, 300)
    for function in (l2_normalise, improved):
        scaled = (factor * x).requires_grad_(True)
        found = function(scaled)
        torch.testing.assert_close(torch.linalg.vector_norm(found, dim=1), torch.ones(2))
        torch.testing.assert_close(found, function(x), rtol=1e-4, atol=1e-6)
        (found * noise(2, 300, seed=1)).sum().backward()
        plain = x.clone().requires_grad_(True)
        (function(plain) * noise(2, 300, seed=1)).sum().backward()
        torch.testing.assert_close(factor * scaled.grad, plain.grad, rtol=1e-3, atol=1e-4)


def test_the_gradient_of_a_length_is_exact_though_its_scale_is_taken_as_constant():
    x = noise(3, 7, dtype=torch.float64).requires_grad_(True)
    assert torch.autograd.gradcheck(l2_normalise, x)


def test_numbers_that_no_option_can_be_are_refused_by_its_name():
    check_positive(eps=1e-5, scale=10)
    for value in (0.0, -1.0, math.inf, math.nan):
        with pytest.raises(UsageError, match=rf"head\.options\.scale must be a number above 0, got {value}"):
            check_positive(eps=1e-5, scale=value)


def test_more_weights_than_can_be_meant_are_refused_with_their_cost():
    check_weights("a head", 200_000_000, "none needed")
    with pytest.raises(UsageError, match=r"a head holds 250 million parameters \(1\.0 GB.*; have fewer"):
        check_weights("a head", 250_000_000, "have fewer")
    check_weights("a head", 250_000_000, "have fewer", 250_000_000)


def test_each_row_is_normalised_by_itself():
    x = noise(3, 5, 5)
    together = improved(x)
    torch.testing.assert_close(torch.linalg.vector_norm(together, dim=1), torch.ones(3))
    for row in range(3):
        torch.testing.assert_close(improved(x[row : row + 1])[0], together[row])


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16])
@pytest.mark.parametrize(("side", "size"), [((14, 14), (7, 7)), ((10, 9), (7, 3)), ((2, 5), (7, 7))])
def test_what_a_gpu_multiplies_is_adaptive_pooling_and_so_is_its_gradient(side, size, dtype):
    x = noise(2, 3, *side, seed=4, dtype=torch.float64).to(dtype).requires_grad_()
    exact = x.detach().double().requires_grad_()  # in half precision pooling itself rounds at every place
    made, pooled = averaged_by_products(x, size), torch.nn.functional.adaptive_avg_pool2d(exact, size)
    rounding = {"rtol": 1e-12, "atol": 1e-12} if dtype == torch.float64 else {"rtol": 2**-8, "atol": 0}
    torch.testing.assert_close(made.double(), pooled, **rounding)
    pull = noise(*pooled.shape, seed=5, dtype=torch.float64).to(dtype)
    gradient, expected = torch.autograd.grad(made, x, pull), torch.autograd.grad(pooled, exact, pull.double())
    assert made.dtype == gradient[0].dtype == dtype
    torch.testing.assert_close(gradient[0].double(), expected[0], **rounding)
    own = torch.nn.functional.adaptive_avg_pool2d(x, size)
    assert torch.equal(averaged(x, size), own), "the processor's own way, bit for bit"


def test_a_gpu_pools_nothing_adaptively():
    with FakeTensorMode(), CalledOperations() as called:
        first, second = torch.empty(2, 3, 14, 14, device="cuda"), torch.empty(2, 4, 9, 9, device="cuda")
        assert [tuple(each.shape) for each in match_sizes(first, second)] == [(2, 3, 9, 9), (2, 4, 9, 9)]
    assert called.named("mm")
    assert not called.named("adaptive")
