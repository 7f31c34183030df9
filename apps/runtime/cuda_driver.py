"""Whether NVIDIA's driver and CUDA's libraries can be used on this machine, by trying to load them.

Trying them first keeps the runtime quiet: it reports a missing library on the standard error and goes on
with the CPU.
"""

from __future__ import annotations

import ctypes
import sys
import weakref
from dataclasses import dataclass

import numpy as np

DRIVER = "nvcuda.dll" if sys.platform == "win32" else "libcuda.so.1"
CUDNN = "libcudnn.so.9"


@dataclass(frozen=True)
class Problem:
    """What stands in the way, and what fixes it."""

    what: str
    remedy: str

    def __str__(self) -> str:
        return f"{self.what}: {self.remedy}"


def driver_problem(index: int = 0) -> Problem | None:
    """Return why GPU number `index` cannot be used, with the remedy; None where it can.

    Only the driver is asked: that it loads, starts, and counts more than `index` cards.
    """
    try:
        driver = ctypes.CDLL(DRIVER)
    except OSError:
        return Problem(
            f"{DRIVER}, the NVIDIA driver's library, cannot be loaded",
            "install the driver, or start the container with its GPU (docker run --gpus all)",
        )
    count = ctypes.c_int(0)
    status = driver.cuInit(0) or driver.cuDeviceGetCount(ctypes.byref(count))
    if status or not count.value:
        return Problem(
            f"{DRIVER}, the NVIDIA driver's library, finds no GPU (status {status})",
            "nvidia-smi should list one, and CUDA_VISIBLE_DEVICES must not hide it",
        )
    if index >= count.value:
        return Problem(f"there is no GPU {index}", f"the driver counts {count.value}, from cuda:0 on")
    return None


def library_problem(cuda_version: str) -> Problem | None:
    """Return which of CUDA's libraries cannot be loaded, with the remedy; None where all can.

    `cuda_version` is what the runtime was built for, such as "13.0". On Windows nothing is asked: there the
    runtime finds its libraries unaided.
    """
    major = cuda_version.partition(".")[0]
    if sys.platform == "win32" or not major.isdigit():
        return None
    names = [f"{name}.so.{major}" for name in ("libcudart", "libcublasLt", "libcublas")]
    missing = [name for name in (*names, "libcurand.so.10", CUDNN) if not _loads(name)]
    if not missing:
        return None
    return Problem(
        f"{', '.join(missing)} (of CUDA {major} and cuDNN 9) cannot be loaded",
        'pip install "onnxruntime-gpu[cuda,cudnn]", or install CUDA and cuDNN with the system',
    )


def lock_pages(array: np.ndarray, cuda_version: str) -> bool:
    """Lock an array's memory for copies from and to a GPU, as long as it lives; return whether that worked.

    Copies from other memory pass through a buffer of the driver's, and the processor waits for them.
    """
    major = cuda_version.partition(".")[0]
    try:
        cuda = ctypes.CDLL(f"cudart64_{major}.dll" if sys.platform == "win32" else f"libcudart.so.{major}")
    except OSError:
        return False
    address = ctypes.c_void_p(array.ctypes.data)
    if not array.nbytes or cuda.cudaHostRegister(address, ctypes.c_size_t(array.nbytes), ctypes.c_uint(0)):
        return False
    weakref.finalize(array, cuda.cudaHostUnregister, address).atexit = False
    return True


def _loads(name: str) -> bool:
    try:
        ctypes.CDLL(name)
    except OSError:
        return False
    return True
