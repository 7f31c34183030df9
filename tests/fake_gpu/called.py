"""What torch carries out, operation by operation: on a GPU each is a launch."""

from __future__ import annotations

from typing import Any

from torch.utils._python_dispatch import TorchDispatchMode

# What only looks at memory otherwise, or allocates it.
FREE = ("view", "expand", "permute", "transpose", "t", "squeeze", "unsqueeze", "select", "slice", "split")
FREE += ("detach", "alias", "_unsafe_view", "empty", "empty_like", "empty_strided", "new_empty", "lift_fresh")
FREE += ("scalar_tensor", "profiler")


class CalledOperations(TorchDispatchMode):
    """Notes the name of every operation while it is entered."""

    def __init__(self) -> None:
        super().__init__()
        self.names: list[str] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.names.append(str(func).removeprefix("aten."))
        return func(*args, **(kwargs or {}))

    @property
    def launches(self) -> list[str]:
        """The operations that compute or copy."""
        return [name for name in self.names if name.partition(".")[0] not in FREE]

    def named(self, *parts: str) -> list[str]:
        """Return the operations whose name has one of these parts."""
        return [name for name in self.names if any(part in name for part in parts)]
