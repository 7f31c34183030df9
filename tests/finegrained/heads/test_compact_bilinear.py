import pytest
import torch
from torch import Tensor, nn

from finegrained.heads.compact_bilinear import CompactBilinearHead
from finegrained.heads.pooling import gram, improved
from finetune.errors import UsageError
from finetune.models.backbone import Features, build_backbone
from finetune.models.classifier import Classifier
from finetune.models.heads.base import Hooks


def of(x: Tensor) -> Features:
    return Features(x.new_zeros(len(x), 0), {"last": x})


def picture(batch: int = 2, channels: int = 6, side: int = 3, seed: int = 0) -> Tensor:
    return torch.randn(batch, channels, side, side, generator=torch.Generator().manual_seed(seed))


def test_the_descriptor_is_the_scattered_gram_matrix_rooted_and_of_length_one():
    head = CompactBilinearHead("last", 6, 3, dim=32, eps=1e-9)
    x = picture()
    second = torch.zeros(2, 32)
    h, s = head.sketch.buckets, head.sketch.signs
    for i in range(6):
        for j in range(6):
            second[:, (h[0, i] + h[1, j]) % 32] += s[0, i] * s[1, j] * gram(x)[:, i, j]
    rooted = second.sign() * second.abs().sqrt()
    wanted = rooted / rooted.norm(dim=1, keepdim=True)
    torch.testing.assert_close(head.descriptor(of(x)), wanted, rtol=1e-4, atol=1e-4)
    head.eps = 0.5
    torch.testing.assert_close(head.descriptor(of(x)), improved(second, 0.5))
    assert CompactBilinearHead("last", 6, 3, eps=0.5).eps == 0.5


def test_the_logits_are_a_linear_layer_on_the_scaled_descriptor():
    head = CompactBilinearHead("last", 6, 3, dim=32, scale=10.0)
    x = of(picture())
    nn.init.constant_(head.classifier.bias, 0.5)
    wanted = 10 * head.descriptor(x) @ head.classifier.weight.T + 0.5
    output = head(x)
    torch.testing.assert_close(output.logits, wanted)
    assert torch.equal(head.infer(x), output.logits)
    assert (output.branches, output.terms, output.maps) == ({}, {}, {})
    assert head.hooks() == Hooks()


def test_inner_products_of_the_sketch_stand_for_those_of_the_gram_matrices():
    x = picture(2, 8, 4).abs()
    first, second = gram(x)
    inner = [
        torch.mul(*CompactBilinearHead("last", 8, 2, dim=256, seed=seed).sketch(x)[0]) for seed in range(200)
    ]
    found = torch.stack(inner).sum(1)
    error = found.std() / len(found) ** 0.5
    assert (found.mean() - (first * second).sum()).abs() < 4 * error
    assert error < 0.02 * found.mean()


def test_the_head_of_vgg_is_thirty_times_smaller_than_the_bilinear_one():
    head = CompactBilinearHead("last", 512, 200)
    assert sum(p.numel() for p in head.parameters()) == 8192 * 200 + 200
    assert head.descriptor(of(picture(1, 512, 2))).shape == (1, 8192)


def test_every_picture_counts_alone_at_any_size_and_scale_of_activations():
    head = CompactBilinearHead("last", 6, 3, dim=32)
    large = of(picture(3, 6, 5))
    torch.testing.assert_close(head.infer(of(large.maps["last"][1:2])), head.infer(large)[1:2])
    tiny = head.infer(of(1e-6 * large.maps["last"]))
    torch.testing.assert_close(tiny, head.infer(large), rtol=1e-4, atol=1e-5)
    assert head.infer(of(picture(2, 6, 1))).isfinite().all()
    assert head.infer(of(torch.zeros(2, 6, 3, 3))).tolist() == [[0.0] * 3] * 2


def test_a_stored_head_answers_the_same_in_a_model_built_with_another_seed():
    x = of(picture())
    trained, loaded = (CompactBilinearHead("last", 6, 3, dim=32, seed=seed) for seed in (0, 1))
    loaded.load_state_dict(trained.state_dict())
    assert torch.equal(trained.infer(x), loaded.infer(x))


def test_a_step_in_bfloat16_stays_finite_and_reaches_every_weight():
    torch.manual_seed(0)
    body = build_backbone("test_resnet", "none", taps=CompactBilinearHead.default_taps, embed=False)
    model = Classifier(body, CompactBilinearHead.build(body, 3, dim=64)).train()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    for _ in range(2):
        with torch.autocast("cpu", dtype=torch.bfloat16):
            logits = model(torch.randn(4, 3, 64, 64)).logits
        loss = nn.functional.cross_entropy(logits.float(), torch.tensor([0, 1, 2, 0]))
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    assert loss.isfinite()
    for name, parameter in model.named_parameters():
        assert parameter.grad is not None, name
        assert parameter.grad.isfinite().all(), name
        assert parameter.grad.abs().sum() > 0, name


def test_it_reads_the_last_map_and_no_embedding():
    assert CompactBilinearHead.default_taps == ("last",)
    assert CompactBilinearHead.uses_embedding is False


def test_the_largest_seed_is_a_seed():
    assert CompactBilinearHead("last", 6, 3, dim=16, seed=2**63 - 1).sketch.buckets.shape == (2, 6)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"dim": 1}, "dim >= 2"),
        ({"eps": 0.0}, r"eps must be .* above 0"),
        ({"scale": -1.0}, "scale must be"),
        ({"seed": -1}, r"seed must lie in \[0, 2\^63\), got -1"),
        ({"seed": 2**63}, "seed must lie in"),
        (
            {"dim": 10**8},
            r"dim 100000000 with 3 classes holds 300 million parameters \(1\.2 GB.*options\.dim",
        ),
    ],
)
def test_options_out_of_range_are_refused(options, message):
    with pytest.raises(UsageError, match=message):
        CompactBilinearHead("last", 6, 3, **options)
