"""Where, how finely and how many at once a general study computes."""

from __future__ import annotations

from dataclasses import replace

import torch

from finetune.errors import UsageError
from finetune.training.optimization.precision import Precision, choose_precision
from generalcls.config import GeneralConfig
from generalcls.networks.registry import Network


def study_device(wish: str) -> str:
    """Return the device to ask for: the wish, but the CPU where auto would choose an Apple GPU.

    Those have no float64, which a study adds up in; UsageError for one that is asked for.
    """
    if choose_precision(wish, "float32").device.type != "mps":
        return wish
    if wish != "auto":
        raise UsageError("a general study adds up in float64, which mps does not have: give --device cpu")
    return "cpu"


def choose_numbers(config: GeneralConfig) -> tuple[Precision, torch.dtype]:
    """Return where and how finely to compute, and the weights' number format (float64 only when asked for).

    "auto" is float32 on a CPU: these networks are small, and rounding is no part of the question.
    """
    asked, device = config.run.precision, study_device(config.device)
    plain = choose_precision(device, "float32")
    if asked == "float64":
        found, dtype = replace(plain, reason="weights as asked"), torch.float64
    elif asked == "auto" and plain.device.type != "cuda":
        found, dtype = replace(plain, reason="a study's default on this device"), torch.float32
    else:
        found, dtype = choose_precision(device, asked), torch.float32
    if found.use_scaler:
        raise UsageError("this GPU does not multiply bfloat16: give --run.precision float32")
    if device != config.device:
        reason = f"{found.reason}; mps has no float64, which a study adds up in"
        found = replace(found, asked=config.device, reason=reason)
    return found, dtype


def computes_side_by_side(network: Network, device: torch.device, count: int) -> bool:
    """Return whether `count` such networks are faster as one batched model than one by one.

    On a GPU they are: its kernels are too large for one small network. On a CPU only several of plain
    matrices are; grouped convolutions took 1.3 to 3 times as long there as the same ones apart.
    """
    if device.type == "cuda":
        return True
    if device.type != "cpu" or count == 1:
        return False
    return not any(isinstance(part, torch.nn.Conv2d) for part in network.modules())
