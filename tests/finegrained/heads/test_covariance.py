from dataclasses import dataclass, field

import numpy as np
import pytest
import torch

from finegrained.heads.covariance import CovarianceHead, covariance, matrix_sqrt
from finetune.errors import UsageError
from finetune.models.backbone import Features


@dataclass
class Dims:
    name: str = "tiny"
    embedding_dim: int = 0
    taps: tuple = ("last",)
    map_dims: dict = field(default_factory=lambda: {"last": 6})


@pytest.fixture(autouse=True)
def _seed():
    torch.set_num_threads(1)
    torch.manual_seed(0)


def some_covariance(channels=5, locations=40, batch=3):
    return covariance(torch.randn(batch, channels, 1, locations, dtype=torch.float64))


def root_by_eigenvalues(sigma):
    values, vectors = torch.linalg.eigh(sigma)
    return vectors @ torch.diag_embed(values.clamp(min=0).sqrt()) @ vectors.transpose(1, 2)


def features(size=(3, 4)):
    return Features(torch.zeros(2, 0), {"last": torch.randn(2, 6, *size, requires_grad=True)})


def test_the_covariance_is_numpys_biased_one():
    x = torch.randn(2, 4, 3, 5) + 7
    expected = np.stack([np.cov(picture.reshape(4, 15), bias=True) for picture in x.double().numpy()])
    torch.testing.assert_close(covariance(x).numpy(), expected.astype(np.float32), rtol=1e-4, atol=1e-5)


def test_many_iterations_give_the_root_by_eigenvalues():
    sigma = some_covariance()
    root = matrix_sqrt(sigma, 20)
    torch.testing.assert_close(root, root_by_eigenvalues(sigma))
    torch.testing.assert_close(root @ root, sigma)


@pytest.mark.parametrize("iterations", [1, 3, 5])
def test_k_iterations_do_to_each_eigenvalue_what_the_recursion_says(iterations):
    sigma = some_covariance()
    values, vectors = torch.linalg.eigh(sigma)
    trace = values.sum(1, keepdim=True)
    y, z = values / trace, torch.ones_like(values)
    for _ in range(iterations):
        y, z = y * (3 - z * y) / 2, z * (3 - z * y) / 2
    expected = vectors @ torch.diag_embed(trace.sqrt() * y) @ vectors.transpose(1, 2)
    torch.testing.assert_close(matrix_sqrt(sigma, iterations), expected)


def test_the_gradient_is_that_of_the_steps_and_of_the_exact_root_once_converged():
    x = torch.randn(2, 3, 2, 4, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(lambda x: matrix_sqrt(covariance(x), 3), x)
    weight = torch.randn(2, 3, 3, dtype=torch.float64)
    by_steps, by_eigenvalues = (
        torch.autograd.grad((root(covariance(x)) * weight).sum(), x)[0]
        for root in (lambda sigma: matrix_sqrt(sigma, 25), root_by_eigenvalues)
    )
    torch.testing.assert_close(by_steps, by_eigenvalues, rtol=1e-6, atol=1e-8)


@pytest.mark.parametrize("factor", [1e-8, 1e6])
def test_the_root_follows_the_scale_of_the_activations(factor):
    sigma = some_covariance().float()
    torch.testing.assert_close(matrix_sqrt(factor * sigma), factor**0.5 * matrix_sqrt(sigma))


def test_a_singular_covariance_has_a_finite_root_and_gradient():
    # Three locations and eight channels: five eigenvalues are zero.
    x = torch.randn(2, 8, 1, 3, requires_grad=True)
    root = matrix_sqrt(covariance(x), 15)
    torch.testing.assert_close(root @ root, covariance(x), rtol=1e-3, atol=1e-4)
    root.sum().backward()
    assert torch.isfinite(x.grad).all()


@pytest.mark.parametrize("factor", [1e-20, 1e-15, 1e15])
def test_the_gradient_of_tiny_and_huge_activations_is_that_of_ordinary_ones(factor):
    x, weight = torch.randn(2, 4, 3, 3), torch.randn(2, 4, 4)

    def gradient(factor):
        # sqrt(cov(s x)) = s sqrt(cov(x)): the gradient does not depend on s
        scaled = (factor * x).requires_grad_(True)
        (matrix_sqrt(covariance(scaled)) * weight).sum().backward()
        return scaled.grad

    assert torch.isfinite(gradient(factor)).all()
    torch.testing.assert_close(gradient(factor), gradient(1.0), rtol=1e-3, atol=1e-3)


def test_a_constant_map_gives_zeros_and_a_finite_gradient():
    x = torch.ones(2, 3, 2, 2, requires_grad=True)
    root = matrix_sqrt(covariance(x))
    root.sum().backward()
    assert root.abs().sum() == 0
    assert x.grad.abs().sum() == 0


def test_autocast_changes_no_bit_of_covariance_and_root():
    x = torch.randn(2, 8, 4, 4)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        under = matrix_sqrt(covariance(x))
        assert matrix_sqrt(covariance(x.bfloat16())).dtype == torch.float32
    assert torch.equal(under, matrix_sqrt(covariance(x)))


@pytest.mark.parametrize("size", [(3, 4), (1, 7)])
def test_the_logits_read_the_upper_triangle_of_the_root_row_by_row(size):
    head = CovarianceHead.build(Dims(), 3, dim=4, iterations=2).eval()
    read = features(size)
    root = matrix_sqrt(covariance(head.reduce(read.maps["last"])), 2)
    triangle = torch.stack([root[:, i, j] for i in range(4) for j in range(i, 4)], dim=1)
    torch.testing.assert_close(head.descriptor(read), triangle)
    logits = triangle @ head.classifier.weight.T + head.classifier.bias
    torch.testing.assert_close(head.infer(read), logits)


def test_the_descriptor_is_a_few_units_long_as_it_is():
    """As long as ordinary learning rates want it; ten times that is a hundred times the learning rate."""
    head = CovarianceHead.build(Dims(), 3, dim=64).train()
    with torch.no_grad():
        length = (head.scale * head.descriptor(features((7, 7)))).norm(dim=1)
    assert 1 < float(length.min()) <= float(length.max()) < 15


def test_scale_multiplies_the_triangle_and_old_weights_have_one():
    head = CovarianceHead.build(Dims(), 3, dim=4, scale=1).eval()
    read = features()
    state = head.state_dict()
    assert float(state.pop("scale")) == 1
    tall = CovarianceHead.build(Dims(), 3, dim=4, scale=10).eval()
    tall.load_state_dict(head.state_dict() | {"scale": torch.tensor(10.0)})
    bias = head.classifier.bias
    torch.testing.assert_close(tall.infer(read) - bias, 10 * (head.infer(read) - bias))
    tall.load_state_dict(state)
    torch.testing.assert_close(tall.infer(read), head.infer(read))


def test_at_256_channels_the_descriptor_has_32_896_entries():
    assert CovarianceHead.build(Dims(), 2).classifier.weight.shape == (2, 32_896)


def test_the_gradient_reaches_every_weight_and_the_map_also_under_autocast():
    head = CovarianceHead.build(Dims(), 3, dim=4)
    read = features()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert head.descriptor(read).dtype == torch.float32
        logits = head(read).logits
    torch.nn.functional.cross_entropy(logits.float(), torch.tensor([0, 2])).backward()
    for tensor in (*head.parameters(), read.maps["last"]):
        assert torch.isfinite(tensor.grad).all()
        assert tensor.grad.abs().sum() > 0


def test_the_triangles_places_are_no_part_of_a_checkpoint():
    names = set(CovarianceHead.build(Dims(), 3, dim=4).state_dict())
    assert {name.split(".")[0] for name in names} == {"reduce", "classifier", "scale"}


def test_a_map_of_one_location_is_refused_with_the_cure():
    head = CovarianceHead.build(Dims(), 3, dim=4).eval()
    with pytest.raises(UsageError, match=r"map of 1 x 1 .* covariance is zero; use larger images"):
        head(features((1, 1)))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"dim": 1}, "dim must be at least 2 channels, got 1"),
        ({"iterations": 0}, "at least 1, got 0"),
        ({"scale": 0}, "scale must be a number above 0, got 0"),
        ({"dim": 20_000}, r"dim 20000 on 6 channels with 3 classes holds 600 million .*options\.dim"),
    ],
)
def test_options_out_of_range_are_refused(options, message):
    with pytest.raises(UsageError, match=message):
        CovarianceHead.build(Dims(), 3, **options)
