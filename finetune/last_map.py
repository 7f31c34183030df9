"""The last feature map of any backbone, caught while the network runs, whatever its head reads."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from torch import Tensor, nn

from finetune.errors import UsageError


def last_layer(model: Any, stride: int | None = None) -> str:
    """Return the name of a timm model's module whose output is its deepest map made by weights.

    With `stride` (pixels) it is the deepest map of that stride, pooled or not.
    """
    infos = model.feature_info if isinstance(model.feature_info, list) else model.feature_info.get_dicts()
    names = [str(info["module"]) for info in infos if stride in (None, int(info["reduction"]))]
    pools = nn.MaxPool2d | nn.AvgPool2d
    made = [name for name in names if stride or not isinstance(model.get_submodule(name), pools)]
    return made[-1]


@contextmanager
def caught_output(
    module: nn.Module, change: Callable[[Tensor], Tensor] | None = None
) -> Iterator[list[Tensor]]:
    """Yield a list that takes the module's output, each time it runs inside the `with`.

    `change` makes of it what the network goes on with.
    """
    caught: list[Tensor] = []

    def catch(_module: nn.Module, _arguments: tuple[Any, ...], output: Tensor) -> Tensor | None:
        caught.append(output)
        return None if change is None else change(output)

    handle = module.register_forward_hook(catch)
    try:
        yield caught
    finally:
        handle.remove()


def as_maps(model: Any, values: Tensor) -> Tensor:
    """Return features as (B, C, h, w), whatever the model's layout; class and register tokens are left out.

    Raises UsageError for features without places.
    """
    if values.ndim == 4:
        last = getattr(model, "output_fmt", "NCHW") == "NHWC"
        return values.permute(0, 3, 1, 2) if last else values
    tokens = values[:, int(getattr(model, "num_prefix_tokens", 0)) :]
    side = round(tokens.shape[1] ** 0.5)
    if values.ndim != 3 or side * side != tokens.shape[1]:
        raise UsageError(
            f"Grad-CAM needs features with places, this model's have shape {tuple(values.shape)}"
        )
    return tokens.transpose(1, 2).reshape(len(values), -1, side, side)
