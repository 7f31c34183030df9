import math
from dataclasses import dataclass, field
from itertools import pairwise

import pytest
import torch
from torch import Tensor, nn

from finegrained.heads.pooling import gram
from finegrained.heads.tensor_sketch import Spectrum, TensorSketch, fourier, inverse_fourier, single_map
from finetune.errors import UsageError


@dataclass
class Dims:
    name: str = "tiny"
    embedding_dim: int = 0
    taps: tuple[int | str, ...] = ("last",)
    map_dims: dict[int | str, int] = field(default_factory=lambda: {"last": 6})


def picture(batch: int = 2, channels: int = 6, side: int = 3, seed: int = 0) -> Tensor:
    source = torch.Generator().manual_seed(seed)
    return torch.randn(batch, channels, side, side, generator=source, dtype=torch.float64)


def slow_sketches(sketch: TensorSketch, x: Tensor) -> list[Tensor]:
    """The definition: at every location, circular convolutions by their sum, one number at a time."""
    dim = sketch.dim
    means = [x.new_zeros(len(x), dim) for _ in range(sketch.order - 1)]
    points = x.flatten(2)
    for row in range(points.shape[0]):
        for place in range(points.shape[2]):
            sketches = x.new_zeros(sketch.order, dim)
            for t in range(sketch.order):
                for channel in range(points.shape[1]):
                    value = sketch.signs[t, channel] * points[row, channel, place]
                    sketches[t, sketch.buckets[t, channel]] += value
            product = sketches[0]
            for t in range(1, sketch.order):
                turned = torch.stack([sketches[t].roll(k) for k in range(dim)])
                product = product @ turned
                means[t - 1][row] += product / points.shape[2]
    return means


def relative(found: Tensor, wanted: Tensor) -> float:
    return float(((found - wanted).norm() / wanted.norm()).detach())


def test_the_constants_are_stored_drawn_by_their_own_seed_and_cost_nobody_a_random_number():
    torch.manual_seed(5)
    wanted = torch.rand(3)
    torch.manual_seed(5)
    sketch = TensorSketch(1000, 7, 3, seed=1)
    assert torch.equal(torch.rand(3), wanted)
    assert set(sketch.state_dict()) == {"buckets", "signs"}
    assert sketch.buckets.shape == sketch.signs.shape == (3, 1000)
    assert sketch.buckets.unique().tolist() == list(range(7))
    assert sketch.signs.unique().tolist() == [-1.0, 1.0]
    assert torch.equal(sketch.buckets, TensorSketch(1000, 7, 3, seed=1).buckets)
    assert not torch.equal(sketch.buckets, TensorSketch(1000, 7, 3, seed=2).buckets)
    assert not any(torch.equal(a, b) for a, b in pairwise(sketch.buckets)), "the sketches must differ"


def test_a_stored_sketch_does_not_depend_on_the_seed_of_the_module_it_is_loaded_into():
    x = picture()
    trained, loaded = TensorSketch(6, 16, seed=1), TensorSketch(6, 16, seed=2)
    assert not torch.equal(trained(x)[0], loaded(x)[0])
    loaded.load_state_dict(trained.state_dict())
    assert torch.equal(trained(x)[0], loaded(x)[0])


def test_a_count_sketch_worked_by_hand():
    sketch = TensorSketch(4, 3)
    sketch.buckets[0] = torch.tensor([2, 0, 2, 1])
    sketch.signs[0] = torch.tensor([1.0, -1.0, -1.0, 1.0])
    found = sketch.count_sketch(torch.tensor([[[1.0], [10.0], [100.0], [1000.0]]]), 0)
    assert found.flatten().tolist() == [-10.0, 1000.0, -99.0]


@pytest.mark.parametrize("dim", [8, 9])
def test_every_order_is_the_circular_convolution_of_the_first_sketches(dim):
    sketch = TensorSketch(6, dim, 4, seed=3)
    x = picture()
    found = sketch(x)
    assert [item.shape for item in found] == [(2, dim)] * 3
    for item, wanted in zip(found, slow_sketches(sketch, x), strict=True):
        torch.testing.assert_close(item, wanted, rtol=1e-10, atol=1e-10)


def test_lower_orders_do_not_change_when_higher_ones_are_asked_for():
    x = picture()
    both = TensorSketch(6, 16, 3, seed=4)
    lower = TensorSketch(6, 16, 2)
    lower.buckets, lower.signs = both.buckets[:2], both.signs[:2]
    torch.testing.assert_close(lower(x)[0], both(x)[0])


@pytest.mark.parametrize(("channels", "dim"), [(32, 64), (48, 100), (48, 101)])
def test_the_gram_matrix_gives_the_second_order_exactly(channels, dim):
    x = picture(3, channels, 7)
    sketch = TensorSketch(channels, dim, seed=5)
    by_gram, by_fft = sketch.of_gram(gram(x)), sketch._by_fft(x.flatten(2))[0]
    assert relative(by_gram, by_fft) < 1e-12
    narrow = x.float()
    by_gram, by_fft = sketch.of_gram(gram(narrow)), sketch._by_fft(narrow.flatten(2))[0]
    assert by_gram.dtype == torch.float32
    assert relative(by_gram, by_fft) < 1e-6


def test_the_cheaper_way_is_taken_and_both_agree(monkeypatch):
    calls = []
    monkeypatch.setattr(TensorSketch, "_by_fft", lambda self, points: calls.append("fft") or [points])
    monkeypatch.setattr(TensorSketch, "of_gram", lambda self, second: calls.append("gram") or second)
    TensorSketch(16, 64)(picture(1, 16, 2))  # 256 entries against 4 x 64
    TensorSketch(17, 64)(picture(1, 17, 2))
    TensorSketch(16, 64, 3)(picture(1, 16, 2))
    assert calls == ["gram", "fft", "fft"]


def test_the_sum_over_locations_is_made_before_the_one_inverse_transform_of_an_order(monkeypatch):
    shapes = []
    inverse = torch.fft.irfft

    def counted(x: Tensor, **options: int) -> Tensor:
        shapes.append(tuple(x.shape))
        return inverse(x, **options)

    monkeypatch.setattr(torch.fft, "irfft", counted)
    TensorSketch(6, 16, 4)(picture())
    assert shapes == [(2, 9)] * 3


def test_inner_products_of_sketches_are_unbiased_powers_of_the_inner_product():
    x = torch.tensor([[0.9, -0.3, 0.5, 0.2, 0.7], [0.6, 0.4, 0.8, -0.5, 0.3]], dtype=torch.float64)
    draws = 3000
    found = torch.empty(draws, 3, dtype=torch.float64)
    for seed in range(draws):
        sketches = TensorSketch(5, 32, 4, seed=seed)._by_fft(x[:, :, None])
        found[seed] = torch.stack([first @ second for first, second in sketches])
    wanted = torch.stack([(x[0] @ x[1]) ** p for p in (2, 3, 4)])
    error = found.std(0) / math.sqrt(draws)
    assert ((found.mean(0) - wanted).abs() < 4 * error).all()
    assert (error < 0.1 * wanted).all(), "the test could not tell a bias"


def test_a_longer_sketch_is_nearer():
    x = picture(2, 24, 1)
    wanted = (x[0].flatten() @ x[1].flatten()) ** 2

    def error(dim: int) -> float:
        inner = [torch.mul(*TensorSketch(24, dim, seed=seed)(x)[0]).sum() for seed in range(100)]
        return float((torch.stack(inner) - wanted).square().mean())

    assert 8 < error(64) / error(1024) < 32  # the variance falls as 1 / D


def test_a_map_repeated_over_more_locations_has_the_same_sketch():
    sketch = TensorSketch(6, 16, 3)
    x = picture()
    for small, large in zip(sketch(x), sketch(x.repeat(1, 1, 2, 3)), strict=True):
        torch.testing.assert_close(small, large)


@pytest.mark.parametrize("dim", [1, 2, 12, 16, 17, 4096])
def test_the_transform_by_matrices_is_the_fourier_transform(dim):
    x = torch.randn(3, dim, generator=torch.Generator().manual_seed(0))
    wanted = torch.fft.fft(x.double())
    found = fourier(x)
    assert relative(torch.complex(*found), wanted.to(torch.complex64)) < 1e-6
    assert relative(inverse_fourier(found), x) < 1e-6
    turned = torch.polar(x.double().abs(), x.double())
    inverse = inverse_fourier(Spectrum(turned.real, turned.imag))
    torch.testing.assert_close(inverse, torch.fft.ifft(turned).real)


@pytest.mark.parametrize("order", [2, 3, 4])
def test_the_exported_way_says_the_same(order, monkeypatch):
    sketch = TensorSketch(20, 18, order)
    x = picture(3, 20, 2).float()
    wanted = sketch(x)
    monkeypatch.setattr(torch.onnx, "is_in_onnx_export", lambda: True)
    for found, item in zip(sketch(x), wanted, strict=True):
        assert relative(found, item) < 2e-6


@pytest.mark.parametrize("order", [2, 3])
def test_the_exported_graph_has_no_fourier_operator_and_takes_any_batch(order, monkeypatch):
    class Orders(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.sketch = TensorSketch(6, 16, order)

        def forward(self, x: Tensor) -> Tensor:
            return torch.cat(self.sketch(x), dim=1)

    monkeypatch.setattr(torch.onnx, "is_in_onnx_export", lambda: True)
    module = Orders()
    batch = {"x": {0: torch.export.Dim("batch")}}
    program = torch.export.export(module, (picture().float(),), dynamic_shapes=batch, strict=False)
    names = {str(node.target) for node in program.graph.nodes}
    assert not [name for name in names if "fft" in name]
    x = picture(5).float()
    torch.testing.assert_close(program.module()(x), module(x))


@pytest.mark.parametrize("exporting", [False, True])
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("order", [2, 4])
def test_half_precision_neither_rounds_nor_overflows_it(dtype, order, exporting, monkeypatch):
    sketch = TensorSketch(6, 16, order)
    x = (1000 * picture()).to(dtype)
    wanted = sketch(x.double())
    monkeypatch.setattr(torch.onnx, "is_in_onnx_export", lambda: exporting)
    with torch.autocast("cpu", dtype=dtype):
        found = sketch(x)
    for item, exact in zip(found, wanted, strict=True):
        assert item.dtype == torch.float32
        assert relative(item, exact.float()) < 1e-5


@pytest.mark.parametrize("way", ["of_gram", "_by_fft", "_by_products_of_matrices"])
def test_the_gradient_is_that_of_the_value(way):
    sketch = TensorSketch(4, 6, 2 if way == "of_gram" else 3)
    x = picture(2, 4, 2).requires_grad_()
    run = getattr(sketch, way)
    assert torch.autograd.gradcheck(lambda x: run(gram(x) if way == "of_gram" else x.flatten(2)), x)


@pytest.mark.parametrize(("dim", "order"), [(1, 2), (16, 1), (16, 17)])
def test_a_sketch_that_is_none_is_refused(dim, order):
    with pytest.raises(UsageError, match=rf"dim >= 2 and an order in \[2, 16\], got {dim} and {order}"):
        TensorSketch(6, dim, order)


def test_one_map_is_read_and_a_second_network_refused():
    assert single_map(Dims(), "some") == ("last", 6)
    with pytest.raises(
        UsageError, match=r"some head reads one feature map, got last, second; drop model\.second"
    ):
        single_map(Dims(map_dims={"last": 6, "second": 4}), "some")
