import re

import pytest
import torch

from finetune.errors import ResourceError, UsageError
from finetune.training.optimization import precision as module
from finetune.training.optimization.precision import choose_precision


def pretend_cuda(monkeypatch, *, bfloat16: bool, count: int = 1) -> None:
    monkeypatch.setattr(torch.version, "cuda", "13.0")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: count)
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: (9, 0) if bfloat16 else (7, 5))
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda device: "A Fast One")
    monkeypatch.setattr(torch.cuda, "get_arch_list", lambda: ["sm_75", "sm_80", "sm_90"])


def pretend_no_gpu(monkeypatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(module, "_has_mps", lambda: False)


@pytest.mark.parametrize(
    ("capability", "expected"),
    [
        ({"avx512_bf16": True}, torch.bfloat16),
        ({"amx_bf16": True}, torch.bfloat16),
        ({"avx2": True}, torch.float32),
    ],
)
def test_a_processor_computes_in_bfloat16_where_it_has_the_instructions(monkeypatch, capability, expected):
    pretend_no_gpu(monkeypatch)
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: capability)
    precision = choose_precision()
    assert (precision.device.type, precision.dtype, precision.channels_last) == ("cpu", expected, True)
    assert precision.build_scaler() is None


@pytest.mark.parametrize(("bfloat16", "expected"), [(True, torch.bfloat16), (False, torch.float16)])
def test_a_gpu_computes_in_bfloat16_or_else_in_float16_with_a_scaler(monkeypatch, bfloat16, expected):
    pretend_cuda(monkeypatch, bfloat16=bfloat16)
    precision = choose_precision("auto")
    assert precision.device == torch.device("cuda")
    assert precision.dtype == expected
    assert precision.use_scaler == (expected == torch.float16)


def test_a_wish_is_followed(monkeypatch):
    pretend_cuda(monkeypatch, bfloat16=True, count=2)
    assert choose_precision("cuda:1", "float32").device == torch.device("cuda:1")
    assert choose_precision("cpu", "float32").dtype == torch.float32
    assert choose_precision("cuda", "float16").use_scaler


def test_cuda_without_a_driver_is_an_error_that_says_what_is_missing(monkeypatch):
    pretend_no_gpu(monkeypatch)
    monkeypatch.setattr(torch.version, "cuda", "13.0")
    with pytest.raises(ResourceError, match=r"needs the NVIDIA driver.*CUDA 13\.0.*--device auto") as refusal:
        choose_precision("cuda")
    assert refusal.value.exit_code == 5


def test_cuda_with_a_build_without_it_is_an_error_that_says_so(monkeypatch):
    pretend_no_gpu(monkeypatch)
    monkeypatch.setattr(torch.version, "cuda", None)
    monkeypatch.setattr(torch.version, "hip", None)
    with pytest.raises(ResourceError, match=r"has no CUDA: install a CUDA build of torch"):
        choose_precision("cuda:0")


def test_a_gpu_that_is_not_there_is_refused_with_those_that_are(monkeypatch):
    pretend_cuda(monkeypatch, bfloat16=True, count=2)
    with pytest.raises(ResourceError, match="cuda:2 was asked for, but there is only cuda:0, cuda:1"):
        choose_precision("cuda:2")


def test_metal_that_is_not_there_is_refused(monkeypatch):
    pretend_no_gpu(monkeypatch)
    with pytest.raises(ResourceError, match="no Metal"):
        choose_precision("mps")


@pytest.mark.parametrize("wish", ["gpu", "cuda:x", "cpu:1", "cuda:-1", ""])
def test_a_misspelt_device_is_refused(wish):
    with pytest.raises(UsageError, match="device must be auto, cpu, cuda, cuda:N or mps"):
        choose_precision(wish)


def test_formats_that_cannot_be_are_refused():
    with pytest.raises(UsageError, match="one of auto, float32, tf32, bfloat16, float16; got 'half'"):
        choose_precision("cpu", "half")
    with pytest.raises(UsageError, match="float16 needs a GPU"):
        choose_precision("cpu", "float16")


def test_forward_passes_run_in_the_chosen_format_and_layout():
    layer = torch.nn.Conv2d(3, 4, 3)
    images = torch.randn(2, 3, 8, 8)
    half = choose_precision("cpu", "bfloat16")
    with half.autocast():
        result = half.place(layer)(half.arrange(images))
    assert result.dtype == torch.bfloat16
    assert layer.weight.dtype == torch.float32
    assert half.arrange(images).is_contiguous(memory_format=torch.channels_last)
    plain = choose_precision("cpu", "float32", channels_last=False)
    with plain.autocast():
        assert plain.place(layer)(plain.arrange(images)).dtype == torch.float32
    assert plain.arrange(images).is_contiguous()


def test_the_line_for_a_person_names_the_wish_and_what_runs(monkeypatch):
    pretend_no_gpu(monkeypatch)
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: {"cpu_name": "Slow One"})
    monkeypatch.setattr(module, "memory_is_kept", lambda: False)
    assert choose_precision().describe() == (
        "device: asked auto, using cpu (Slow One); float32, channels last: no fast half precision on this cpu"
    )
    monkeypatch.setattr(module, "memory_is_kept", lambda: True)
    assert (
        choose_precision().describe().endswith(": no fast half precision on this cpu; freed memory is kept")
    )


@pytest.mark.parametrize(
    ("kernels", "capability", "served"),
    [
        (["sm_75", "sm_80", "sm_90"], (8, 6), True),  # code for 8.0 runs on 8.6
        (["sm_75", "sm_80", "sm_90"], (7, 0), False),
        (["sm_75", "sm_80", "sm_90"], (6, 1), False),
        (["sm_86"], (8, 0), False),  # not on an older one of its generation
        (["sm_90"], (10, 0), False),  # not on the next generation
        (["sm_90", "compute_90"], (12, 0), True),  # intermediate code is compiled for any later GPU
        (["sm_90a"], (9, 0), True),
        (["sm_120"], (12, 0), True),
        (["gfx90a"], (9, 0), True),  # another maker's names: it is tried
    ],
)
def test_a_gpu_without_kernels_is_passed_over_by_auto_and_refused_by_name(
    monkeypatch, kernels, capability, served
):
    pretend_cuda(monkeypatch, bfloat16=True)
    monkeypatch.setattr(torch.cuda, "get_arch_list", lambda: kernels)
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: capability)
    chosen = choose_precision("auto", "float32")
    assert chosen.device.type == ("cuda" if served else "cpu")
    if served:
        assert choose_precision("cuda", "float32").device.type == "cuda"
        return
    told = (
        "no kernels for A Fast One .compute capability {}[.]{}.: it needs a build for an earlier CUDA".format(
            *capability
        )
    )
    assert re.search(told, chosen.reason)
    assert choose_precision("auto", "float32", reason=chosen.reason).reason == chosen.reason, "said once"
    with pytest.raises(ResourceError, match=f"{told}.*--device cpu the CPU"):
        choose_precision("cuda", "float32")


def test_the_chosen_gpu_decides_the_format_not_the_first(monkeypatch):
    pretend_cuda(monkeypatch, bfloat16=True, count=2)
    own = {"cuda:0": (9, 0), "cuda:1": (7, 5)}
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: own[str(device)])
    assert choose_precision("cuda:0").dtype_name == "bfloat16"
    assert choose_precision("cuda:1").dtype_name == "float16"


def test_a_fold_computes_on_the_one_gpu_it_sees_and_calls_it_as_its_run_does(monkeypatch):
    pretend_cuda(monkeypatch, bfloat16=True, count=1)
    with pytest.raises(ResourceError, match="device cuda:1 was asked for, but there is only cuda:0"):
        choose_precision("cuda:1")
    monkeypatch.setenv("CRL_OWN_GPU", "cuda:1")
    chosen = choose_precision("cuda:1")
    assert (chosen.device, chosen.asked) == (torch.device("cuda"), "cuda:1")
    assert "asked cuda:1, using cuda (" in chosen.describe()


def products() -> list[str]:
    return [place.fp32_precision for place in (torch.backends.cudnn.conv, torch.backends.cuda.matmul)]


@pytest.fixture
def products_put_back():
    before = products()
    yield before
    torch.backends.cudnn.conv.fp32_precision, torch.backends.cuda.matmul.fp32_precision = before


@pytest.mark.parametrize(("asked", "inside"), [("float32", "ieee"), ("tf32", "tf32")])
def test_float32_on_a_gpu_is_float32_unless_tf32_is_asked_for(monkeypatch, products_put_back, asked, inside):
    pretend_cuda(monkeypatch, bfloat16=True)
    precision = choose_precision("cuda", asked)
    assert precision.dtype_name == asked
    with precision.autocast():
        assert products() == [inside, inside]
    assert products() == products_put_back


def test_scores_are_float32_whatever_trained(monkeypatch, products_put_back):
    pretend_cuda(monkeypatch, bfloat16=True)
    for asked in ("tf32", "bfloat16", "float16"):
        with choose_precision("cuda", asked).in_float32().autocast():
            assert products() == ["ieee", "ieee"]
        assert products() == products_put_back


def test_tf32_is_refused_where_it_is_not(monkeypatch):
    with pytest.raises(UsageError, match=r"tf32 needs an NVIDIA GPU of compute capability 8\.0"):
        choose_precision("cpu", "tf32")
    pretend_cuda(monkeypatch, bfloat16=False)
    with pytest.raises(UsageError, match="tf32 needs an NVIDIA GPU"):
        choose_precision("cuda", "tf32")


def test_a_processor_is_left_as_it_is(products_put_back):
    with choose_precision("cpu", "float32").autocast():
        assert products() == products_put_back
