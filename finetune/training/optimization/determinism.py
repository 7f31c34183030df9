"""What keeps a run on a GPU from being repeated bit for bit: avoided where it can be, else noted."""

from __future__ import annotations

import re
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch

from finetune.cli.console import say

# How torch warns of it, where it is asked for deterministic algorithms.
_WORDS = r"(.+?) (?:does not have a deterministic implementation|defaults to a non-deterministic algorithm)"
NOTE = "not deterministic on this device: "


def set_attention(deterministic: bool) -> None:
    """Let a GPU compute attention by plain products alone where results must repeat, else as torch chooses.

    Torch's three faster ways add gradients up in no fixed order as long as it only warns of that: their
    deterministic versions are taken where any other operation without one would end the program.
    """
    backends: Any = torch.backends.cuda
    for enable in (backends.enable_flash_sdp, backends.enable_mem_efficient_sdp, backends.enable_cudnn_sdp):
        enable(not deterministic)


@contextmanager
def noted_inexactness(notes: list[str]) -> Iterator[None]:
    """Add to `notes` each operation that torch warns of inside as not deterministic, once, and say it.

    Other warnings go their way.
    """
    with warnings.catch_warnings():
        warnings.filterwarnings("always", message=_WORDS)
        show = warnings.showwarning

        def note(message: Warning | str, *where: Any, **more: Any) -> None:
            found = re.match(_WORDS, str(message), re.DOTALL)
            if found is None:
                show(message, *where, **more)
            elif (told := NOTE + found[1]) not in notes:
                notes.append(told)
                say(f"notice: {told}: the run cannot be repeated bit for bit")

        warnings.showwarning = note
        yield


def inexact_operations(notes: Sequence[str]) -> list[str]:
    """Return those of a run's notes that `noted_inexactness` made."""
    return [note for note in notes if note.startswith(NOTE)]
