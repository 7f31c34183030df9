"""Which Python objects a pickled file would import, found by taking it apart without loading it."""

from __future__ import annotations

import pickle
import pickletools
from typing import BinaryIO

import torch

_ZIP_START = b"PK\x03\x04"


def forbidden_globals(stream: BinaryIO) -> list[str]:
    """Return the dotted names that a file of `torch.save` or `pickle.dump` would import, sorted.

    Those that torch holds safe in its own (zip) format are left out. A file that is neither gives an empty
    list. This explains a refusal; it is no proof of safety, because names can be hidden from it.

    >>> import io
    >>> forbidden_globals(io.BytesIO(pickle.dumps(print)))
    ['builtins.print']
    """
    stream.seek(0)
    is_zip = stream.read(len(_ZIP_START)) == _ZIP_START
    stream.seek(0)
    if not is_zip:
        return sorted(_imports(stream))
    try:
        return sorted(torch.serialization.get_unsafe_globals_in_checkpoint(stream))
    except (pickle.UnpicklingError, RuntimeError, ValueError, LookupError, EOFError, OSError):  # a broken zip
        return []


def _imports(stream: BinaryIO) -> set[str]:
    found: set[str] = set()
    texts: list[str] = []  # in the order in which they reach the stack
    memo: list[str] = []
    try:
        for opcode, argument, _ in pickletools.genops(stream):
            if opcode.name in ("GLOBAL", "INST"):
                found.add(str(argument).replace(" ", "."))
            elif opcode.name == "STACK_GLOBAL":
                found.add(".".join(texts[-2:]))
            elif "UNICODE" in opcode.name:
                texts.append(str(argument))
            elif opcode.name == "MEMOIZE":
                memo.append(texts[-1] if texts else "")
            elif opcode.name in ("BINGET", "LONG_BINGET") and int(str(argument)) < len(memo):
                texts.append(memo[int(str(argument))])
    except ValueError:  # no pickle from here on; what came before still counts
        pass
    return found
