"""The GPU and what only its own software can be asked: one object, for which tests put another."""

from __future__ import annotations

import gc
import os
import re
import shutil
import subprocess
import sysconfig
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from apps.runtime.cuda_driver import driver_problem
from finetune.errors import ResourceError, UsageError
from finetune.training.optimization.precision import TENSOR_CORES, unserved_gpu

SHARED_MEMORY = Path("/dev/shm")
DRIVER_FILE = Path("/proc/driver/nvidia/version")
HELD_BACK = 64 << 20  # bytes that stay free when memory is filled: too few for any step


class Card:
    """A device that is checked.

    Args:
        device: cpu, cuda or cuda:1; the CPU is for the tests of the checks.
    """

    def __init__(self, device: torch.device) -> None:
        self.device = device
        self.on_cuda = device.type == "cuda"

    @property
    def name(self) -> str:
        """What the maker calls it."""
        return torch.cuda.get_device_name(self.device)

    @property
    def capability(self) -> tuple[int, int]:
        """Its compute capability, such as (9, 0)."""
        return torch.cuda.get_device_capability(self.device)

    @property
    def has_tf32(self) -> bool:
        """Whether it multiplies TF32 (and bfloat16)."""
        return self.capability >= TENSOR_CORES

    @property
    def halves(self) -> tuple[str, ...]:
        """The half-precision formats that it trains in."""
        return ("bfloat16", "float16") if self.has_tf32 else ("float16",)

    @property
    def count(self) -> int:
        """How many GPUs there are."""
        return torch.cuda.device_count()

    @property
    def has_nccl(self) -> bool:
        """Whether torch can exchange gradients by NCCL."""
        return torch.distributed.is_available() and torch.distributed.is_nccl_available()

    def kernels(self) -> list[str]:
        """Return the capabilities that torch has code for."""
        return torch.cuda.get_arch_list()

    def unserved(self) -> str | None:
        """Return why torch has no kernels for it; None where it has."""
        return unserved_gpu(self.device)

    def driver(self) -> str:
        """Return the driver's version, "unknown" where nobody tells."""
        with suppress(OSError, subprocess.SubprocessError):
            command = ["nvidia-smi", "--query-gpu=driver_version", "--format=csv,noheader"]
            said = subprocess.run(command, capture_output=True, text=True, timeout=10, check=True).stdout
            if lines := said.split():
                return lines[0]
        with suppress(OSError):
            found = re.search(r"\b\d{3}\.\d+(?:\.\d+)?\b", DRIVER_FILE.read_text(encoding="ascii"))
            if found:
                return found[0]
        return "unknown"

    def free_and_total(self) -> tuple[int, int]:
        """Return the bytes of memory that are free, and those there are."""
        return torch.cuda.mem_get_info(self.device)

    def shared_memory(self) -> int | None:
        """Return the bytes free where worker processes leave batches; None where there is no such place."""
        return shutil.disk_usage(SHARED_MEMORY).free if SHARED_MEMORY.is_dir() else None

    def compiler(self) -> str | None:
        """Return the C compiler that torch.compile would call; None without one."""
        return next(filter(None, map(shutil.which, (os.environ.get("CC") or "cc", "gcc", "clang"))), None)

    def has_headers(self) -> bool:
        """Return whether Python's headers are there, which torch.compile needs too."""
        return (Path(sysconfig.get_paths()["include"]) / "Python.h").is_file()

    def computes(self) -> Tensor:
        """Return a product computed on the device, on the CPU: 2 + 2 eight times."""
        ones = torch.ones(8, 2, device=self.device)
        return (ones @ (2 * ones.mT)).cpu()

    def finish(self) -> None:
        """Wait until everything that was asked for is done."""
        if self.on_cuda:
            torch.cuda.synchronize(self.device)

    def compiled(self, function: Callable[..., Any]) -> Callable[..., Any]:
        """Return a function compiled as one graph; it raises at its first call where it breaks."""
        made: Callable[..., Any] = torch.compile(function, fullgraph=True, dynamic=False)
        return made

    @contextmanager
    def waiting_is_an_error(self) -> Iterator[Callable[[], None]]:
        """Inside, what makes the host wait for the device raises, until the given function is called."""
        if not self.on_cuda:
            yield lambda: None
            return
        torch.cuda.set_sync_debug_mode("error")
        try:
            yield lambda: torch.cuda.set_sync_debug_mode("default")
        finally:
            torch.cuda.set_sync_debug_mode("default")

    def peak_of(self, work: Callable[[], object]) -> int:
        """Return the most bytes that tensors took at once while `work` ran, beyond those that were there."""
        gc.collect()  # what lies in cycles would go, and lower the peak, at some moment
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats(self.device)
        before = torch.cuda.memory_allocated(self.device)
        work()
        return torch.cuda.max_memory_allocated(self.device) - before

    @contextmanager
    def without_memory(self) -> Iterator[None]:
        """Inside, all but a little of the device's memory is taken."""
        torch.cuda.empty_cache()
        free, _ = self.free_and_total()
        taken: list[Tensor] = []
        for size in (free - HELD_BACK, *[HELD_BACK] * 64):  # what is free need not lie in one piece
            with suppress(torch.OutOfMemoryError):
                if size > 0 and (not taken or self.free_and_total()[0] > 2 * HELD_BACK):
                    taken.append(torch.empty(size, dtype=torch.uint8, device=self.device))
        try:
            yield
        finally:
            taken.clear()
            torch.cuda.empty_cache()

    def release(self) -> None:
        """Give memory that no tensor uses back to the driver, for other processes."""
        if self.on_cuda:
            torch.cuda.empty_cache()

    def environment(self) -> dict[str, str]:
        """Return the variables by which a process of its own sees this device alone, as its first."""
        index = self.device.index
        if index is None:
            return {}
        seen = os.environ.get("CUDA_VISIBLE_DEVICES", "")
        listed = seen.split(",") if seen else [str(number) for number in range(self.count)]
        return {"CUDA_VISIBLE_DEVICES": listed[index]}

    def facts(self) -> Mapping[str, Any]:
        """Return what the results belong to: name, capability, driver, memory."""
        return {
            "name": self.name,
            "capability": "{}.{}".format(*self.capability),
            "driver": self.driver(),
            "cuda": torch.version.cuda,
            "memory_bytes": self.free_and_total()[1],
            "gpus": self.count,
        }


def find_card(wish: str) -> Card:
    """Return the GPU that `cuda` or `cuda:1` names.

    Raises UsageError for another word, and ResourceError, saying what is missing and what to do, where it
    cannot be used: no driver, a torch without CUDA, no such GPU, or one that torch has no kernels for.
    """
    match = re.fullmatch(r"cuda(?::(\d{1,3}))?", wish)
    if match is None:
        raise UsageError(f"--gpu takes cuda or cuda:N, such as cuda:1; got {wish!r}")
    index = int(match[1] or 0)
    told = f"{wish} cannot be used: "
    if torch.version.cuda is None:
        raise ResourceError(
            f"{told}the installed torch {torch.__version__} is built without CUDA. Install a CUDA build of "
            "torch (pytorch.org/get-started), then run crl doctor --gpu again"
        )
    problem = driver_problem(index)
    if problem is not None:
        raise ResourceError(f"{told}{problem.what}. What to do: {problem.remedy}")
    if not torch.cuda.is_available():
        raise ResourceError(
            f"{told}torch {torch.__version__} does not take the driver. What to do: update the NVIDIA driver "
            f"to one that knows CUDA {torch.version.cuda}, or install a torch for an earlier CUDA"
        )
    card = Card(torch.device(wish))
    if unserved := card.unserved():
        raise ResourceError(f"{told}{unserved}. Train on the CPU until then: --device cpu")
    return card
