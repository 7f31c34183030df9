"""How a test asks a rule of the guard."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from apps.demo.security.rules import Refusal


def refused(check: Callable[..., object], *arguments: Any) -> int | None:
    """Return the status with which a rule refuses, None where it lets pass."""
    try:
        check(*arguments)
    except Refusal as refusal:
        return refusal.status
    return None
