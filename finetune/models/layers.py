"""The last feature map of any backbone, caught while the network runs, whatever its head reads."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from torch import Tensor, nn

from finetune.errors import UsageError


def last_layer(model: Any, stride: int | None = None) -> str:
    """Return the name of a timm model's module whose output is its deepest map made by weights.

    With `stride` (pixels) it is the deepest map of that stride, pooled or not. Of a model without the layers
    behind the maps that a head reads it is the deepest one that is left.

    Raises UsageError for a model whose feature maps no module makes.
    """
    infos = model.feature_info if isinstance(model.feature_info, list) else model.feature_info.get_dicts()
    names = [str(info["module"]) for info in infos if stride in (None, int(info["reduction"]))]
    modules = {name: find_module(model, name) for name in names}
    idle = () if stride else (nn.MaxPool2d, nn.AvgPool2d, nn.Identity)
    made = [name for name, module in modules.items() if module is not None and not isinstance(module, idle)]
    if not made:
        raise UsageError(f"{type(model).__name__} has no module to catch its last feature map from")
    return made[-1]


def find_module(model: nn.Module, name: str) -> nn.Module | None:
    """Return the module of this dotted name, or None where there is none: pruned, or only timm's label."""
    try:
        return model.get_submodule(name)
    except AttributeError:
        return None


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
    shape = tuple(values.shape) if isinstance(values, Tensor) else type(values).__name__
    if isinstance(values, Tensor) and values.ndim == 4:
        last = getattr(model, "output_fmt", "NCHW") == "NHWC"
        return values.permute(0, 3, 1, 2) if last else values
    if isinstance(values, Tensor) and values.ndim == 3:
        for others in (int(getattr(model, "num_prefix_tokens", 0)), 0):  # some add theirs behind the blocks
            tokens = values[:, others:]
            side = round(tokens.shape[1] ** 0.5)
            if side and side * side == tokens.shape[1]:
                return tokens.transpose(1, 2).reshape(len(values), -1, side, side)
    raise UsageError(
        f"where a model looks can be shown for features with places, this one's have shape {shape}"
    )
