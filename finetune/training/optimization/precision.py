"""Where and how finely to compute: the device, the number format and the memory layout, chosen once."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from dataclasses import asdict, dataclass, field, fields, replace
from typing import Any

import torch
from torch import Tensor, nn

from finetune.cli.allocator import memory_is_kept
from finetune.cli.machine import seen_as
from finetune.errors import ResourceError, UsageError

DTYPES = {
    "float32": torch.float32,
    "tf32": torch.float32,
    "bfloat16": torch.bfloat16,
    "float16": torch.float16,
}
TENSOR_CORES = (8, 0)  # the first capability that multiplies bfloat16 and TF32
_CUDNN: Any = torch.backends.cudnn
_PRODUCTS: tuple[Any, ...] = (_CUDNN.conv, _CUDNN.rnn, torch.backends.cuda.matmul)


@dataclass(frozen=True)
class Choice:
    """The number format that auto came to.

    Args:
        name: float32, tf32, bfloat16 or float16.
        reason: in words.
        seconds: of a training step, by format; empty where nothing was measured.
        images: in each of these steps.
        remembered: whether they were measured earlier.
        compiled: whether run.compile auto compiles the steps; None where each run decides for itself.
    """

    name: str
    reason: str
    seconds: Mapping[str, float] = field(default_factory=dict)
    images: int = 0
    remembered: bool = False
    compiled: bool | None = None

    def to_dict(self) -> dict[str, Any]:
        """Return the choice as run.json and a checkpoint keep it."""
        return {**asdict(self), "seconds": dict(self.seconds)}

    @classmethod
    def from_dict(cls, content: Any) -> Choice | None:
        """Return what `to_dict` gave; None for anything else."""
        if not isinstance(content, Mapping) or content.get("name") not in DTYPES:
            return None
        known = {item.name for item in fields(cls)}
        return cls(**{"reason": "", **{key: value for key, value in content.items() if key in known}})


@dataclass(frozen=True)
class Precision:
    """What a run computes with, and why.

    Args:
        device: where.
        dtype: number format of matrix products and convolutions; weights stay float32.
        tf32: whether an NVIDIA GPU may round the factors of float32 products and convolutions to 10 bits.
        channels_last: whether images and weights lie in memory pixel by pixel.
        use_scaler: whether gradients must be scaled (float16 only).
        asked: the device that was asked for.
        reason: why this format, in words.
        choice: what auto chose it by; None for a format by name.
    """

    device: torch.device
    dtype: torch.dtype
    channels_last: bool
    use_scaler: bool
    asked: str
    reason: str
    tf32: bool = False
    choice: Choice | None = None

    def autocast(self) -> AbstractContextManager[Any]:
        """Return the context for forward passes; on a CPU it does nothing for float32."""
        if self.dtype == torch.float32:
            return self.products()
        return torch.autocast(self.device.type, dtype=self.dtype)

    @contextmanager
    def products(self) -> Iterator[None]:
        """Inside, float32 on a GPU is float32 (or TF32 where that is the format), whatever was set before.

        Unless told otherwise torch rounds the factors of float32 convolutions to 10 bits, from compute
        capability 8 on.
        """
        if self.device.type != "cuda":
            yield
            return
        before = [place.fp32_precision for place in _PRODUCTS]
        self.set_products()
        try:
            yield
        finally:
            for place, value in zip(_PRODUCTS, before, strict=True):
                place.fp32_precision = value

    def set_products(self) -> None:
        """Set how a GPU computes float32 products and convolutions from now on."""
        for place in _PRODUCTS:
            place.fp32_precision = "tf32" if self.tf32 else "ieee"

    def in_float32(self) -> Precision:
        """Return the same place and layout computing in float32: what test scores and exports are made in."""
        return replace(
            self,
            dtype=torch.float32,
            tf32=False,
            use_scaler=False,
            reason="scores are made in float32",
            choice=None,
        )

    def build_scaler(self) -> torch.amp.GradScaler | None:
        """Return the gradient scaler where the format needs one."""
        return torch.amp.GradScaler(self.device.type) if self.use_scaler else None

    def arrange(self, images: Tensor) -> Tensor:
        """Return images (B, 3, S, S) in this memory layout."""
        return images.contiguous(memory_format=self.memory_format)

    def place(self, model: nn.Module) -> nn.Module:
        """Move a model to the device and the memory layout, in place, and return it."""
        return model.to(device=self.device, memory_format=self.memory_format)  # type: ignore[call-overload, no-any-return]

    @property
    def memory_format(self) -> torch.memory_format:
        """Torch's name of the layout."""
        return torch.channels_last if self.channels_last else torch.contiguous_format

    @property
    def dtype_name(self) -> str:
        """float32, tf32, bfloat16 or float16."""
        return "tf32" if self.tf32 else str(self.dtype).removeprefix("torch.")

    @property
    def device_name(self) -> str:
        """The hardware's own name."""
        if self.device.type == "cuda":
            return torch.cuda.get_device_name(self.device)
        capabilities = torch.cpu.get_capabilities() if self.device.type == "cpu" else {}
        return str(capabilities.get("cpu_name") or self.device.type)

    def describe(self) -> str:
        """Return the line that tells the user what was asked for and what really runs."""
        layout = "channels last" if self.channels_last else "channels first"
        where = f"{self.device} ({self.device_name})"
        kept = "; freed memory is kept" if memory_is_kept() else ""
        return f"device: asked {self.asked}, using {where}; {self.dtype_name}, {layout}: {self.reason}{kept}"


def choose_precision(
    device: str = "auto",
    requested: str = "auto",
    *,
    channels_last: bool | None = None,
    reason: str = "as asked",
) -> Precision:
    """Return the device and number format for a wish.

    `device` is auto (the first of cuda, mps, cpu that works), cpu, cuda, cuda:N or mps; `requested` is auto,
    float32, tf32, bfloat16 or float16. Auto means bfloat16 where the hardware multiplies it natively, float16
    with a scaler on older GPUs, and float32 elsewhere; a training measures instead (see `measuring`).
    `channels_last` defaults to True except on mps. `reason` is why a format is asked for by name.

    A GPU that this build of torch has no kernels for is passed over by auto, and the reason says so.

    Raises ResourceError for a device that is not usable, saying what is missing and what to do, and
    UsageError for a wish that is none of these or a format that the device does not have.
    """
    where, passed_over = _choose_device(device)
    if requested not in ("auto", *DTYPES):
        raise UsageError(f"precision must be one of auto, {', '.join(DTYPES)}; got {requested!r}")
    if requested == "auto":
        name, reason = _best_dtype(where)
    else:
        name = requested
        _check_dtype(where, name)
    layout = where.type != "mps" if channels_last is None else channels_last
    told = f"{reason}; {passed_over}" if passed_over and passed_over not in reason else reason
    return Precision(where, DTYPES[name], layout, name == "float16", device, told, name == "tf32")


def chosen_before(state: Mapping[str, Any]) -> Choice | None:
    """Return the format that a checkpoint's training began with, as auto's choice; None where it is unknown.

    Earlier versions wrote no more than its name, behind the device's.
    """
    name = str(state.get("device", "")).rpartition(", ")[2]
    kept = Choice.from_dict(state.get("precision"))
    return kept or Choice.from_dict({"name": name, "reason": "as this training began"})


def candidates(device: torch.device) -> tuple[str, ...]:
    """Return the formats that may train fastest on a device, the most exact one first."""
    if device.type == "cuda":
        modern = torch.cuda.get_device_capability(device) >= TENSOR_CORES
        return ("float32", "tf32", "bfloat16") if modern else ("float32", "float16")
    if device.type == "cpu" and cpu_multiplies_bfloat16():
        return ("float32", "bfloat16")
    return ("float32",)


def cpu_multiplies_bfloat16() -> bool:
    """Return whether this CPU has bfloat16 instructions (AVX-512 BF16 or AMX)."""
    found = torch.cpu.get_capabilities()
    return bool(found.get("avx512_bf16") or found.get("amx_bf16"))


def unserved_gpu(device: torch.device | str) -> str | None:
    """Return why this build of torch has no kernels for a GPU; None where it has them."""
    capability = torch.cuda.get_device_capability(device)
    kernels = torch.cuda.get_arch_list()
    if not kernels or any(_serves(kernel, capability) for kernel in kernels):
        return None
    name, number = torch.cuda.get_device_name(device), "{}.{}".format(*capability)
    return (
        f"torch {torch.__version__} (CUDA {torch.version.cuda}) has no kernels for {name} (compute "
        f"capability {number}): it needs a build for an earlier CUDA version, such as 12.6"
    )


def _serves(kernel: str, capability: tuple[int, int]) -> bool:
    """Return whether compiled code, sm_86 or compute_90 say, runs on a GPU of this capability.

    Code for a GPU runs on those of its generation that are not older; intermediate code on all later ones.
    """
    kind, _, digits = kernel.partition("_")
    found = "".join(filter(str.isdigit, digits))
    if kind not in ("sm", "compute") or len(found) < 2:  # AMD's names: nothing is known of them here
        return True
    own = (int(found[:-1]), int(found[-1]))
    return own <= capability and (kind == "compute" or own[0] == capability[0])


def _choose_device(wish: str) -> tuple[torch.device, str]:
    """Return the device, and why a GPU that is there was passed over."""
    if wish == "auto":
        if torch.cuda.is_available():
            unserved = unserved_gpu("cuda")
            return torch.device("cpu" if unserved else "cuda"), unserved or ""
        return torch.device("mps" if _has_mps() else "cpu"), ""
    kind, _, index = wish.partition(":")
    if kind not in ("cpu", "cuda", "mps") or (index and (kind != "cuda" or not index.isdecimal())):
        raise UsageError(f"device must be auto, cpu, cuda, cuda:N or mps; got {wish!r}")
    if kind == "cuda":
        _check_cuda(wish, seen_as(wish))
    if kind == "mps" and not _has_mps():
        raise ResourceError(
            "device mps was asked for, but this machine or this build of torch has no Metal; give cpu"
        )
    return torch.device(seen_as(wish)), ""


def _check_cuda(wish: str, seen: str) -> None:
    remedy = "--device auto uses what there is, --device cpu the CPU"
    if torch.version.cuda is None and torch.version.hip is None:
        raise ResourceError(
            f"device {wish} was asked for, but the installed torch {torch.__version__} has no CUDA: "
            f"install a CUDA build of torch (pytorch.org/get-started); {remedy}"
        )
    if not torch.cuda.is_available():
        raise ResourceError(
            f"device {wish} was asked for, but no GPU answers: torch {torch.__version__} needs the NVIDIA "
            f"driver (libcuda) of a version that knows CUDA {torch.version.cuda}. Does nvidia-smi list one? "
            f"{remedy}"
        )
    if int(seen.partition(":")[2] or 0) >= torch.cuda.device_count():
        have = ", ".join(f"cuda:{number}" for number in range(torch.cuda.device_count()))
        raise ResourceError(f"device {wish} was asked for, but there is only {have}; {remedy}")
    if unserved := unserved_gpu(seen):
        raise ResourceError(f"device {wish} was asked for, but {unserved}; {remedy}")


def _best_dtype(device: torch.device) -> tuple[str, str]:
    if device.type == "cuda":
        if torch.cuda.get_device_capability(device) >= TENSOR_CORES:
            return "bfloat16", "the GPU multiplies bfloat16"
        return "float16", "the GPU does not multiply bfloat16; gradients are scaled"
    if device.type == "cpu" and cpu_multiplies_bfloat16():
        return "bfloat16", "the CPU multiplies bfloat16"
    return "float32", f"no fast half precision on this {device.type}"


def _check_dtype(device: torch.device, name: str) -> None:
    if name == "tf32" and (device.type != "cuda" or torch.cuda.get_device_capability(device) < TENSOR_CORES):
        raise UsageError("tf32 needs an NVIDIA GPU of compute capability 8.0 or more; give float32")
    if name == "float16" and device.type == "cpu":
        raise UsageError("float16 needs a GPU; on a CPU give --run.precision bfloat16 or float32")


def _has_mps() -> bool:
    return torch.backends.mps.is_available()
