"""Named tensors from a file that anyone may have made: nothing in it is ever run."""

from __future__ import annotations

import argparse
import pickle
import pickletools
import re
from pathlib import Path
from typing import Any, BinaryIO

import torch

from finetune.errors import ModelFileError

# A zip archive, and the second pickle protocol of torch's older format.
_TORCH_STARTS = (b"PK", b"\x80\x02")

_ZIP_START = b"PK\x03\x04"


def read_tensors(file: Path) -> dict[str, torch.Tensor]:
    """Return the state dict in a .safetensors or torch file, on the CPU, running no code from it.

    A training checkpoint is opened to its weights (the averaged ones where it has both), and the prefixes of
    DistributedDataParallel and torch.compile are taken off the names.

    Raises ModelFileError for a damaged file, and for one that asks to run anything (naming what it asks for).
    """
    if file.suffix == ".safetensors":
        import safetensors
        from safetensors.torch import load_file

        try:
            return _any_tensors(dict(load_file(file)), file)
        except (safetensors.SafetensorError, OSError, ValueError, KeyError, RuntimeError) as error:
            raise ModelFileError(f"{file} is damaged or no safetensors file: {error}") from None
    content = _read_torch_file(file)
    for key in ("state_dict_ema", "model_ema", "state_dict", "state_dict_backbone", "model"):
        if isinstance(content, dict) and isinstance(content.get(key), dict):
            content = content[key]
            break
    if not isinstance(content, dict) or not any(
        isinstance(value, torch.Tensor) for value in content.values()
    ):
        raise ModelFileError(f"{file} holds no state dict (names and tensors), but {type(content).__name__}")
    prefixes = re.compile(r"^(module\.|_orig_mod\.)+")
    return _any_tensors({prefixes.sub("", str(name)): value for name, value in content.items()}, file)


def _any_tensors(found: dict[str, torch.Tensor], file: Path) -> dict[str, torch.Tensor]:
    """Return what was found; ModelFileError where that is nothing: timm would ask the network then."""
    if not found:
        raise ModelFileError(f"{file} holds no tensors: it is empty")
    return found


def _read_torch_file(file: Path) -> Any:
    with file.open("rb") as stream:
        first = stream.read(2)
        wishes = forbidden_globals(stream)
    if first not in _TORCH_STARTS:
        if wishes:
            raise ModelFileError(_refusal(file, wishes))
        raise ModelFileError(f"{file} is no torch weights file: it is cut short, or something else")
    try:
        with torch.serialization.safe_globals([argparse.Namespace]):
            return torch.load(file, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        named = sorted(set(re.findall(r"GLOBAL ([\w.]+)", str(error))))
        raise ModelFileError(_refusal(file, named or wishes)) from None
    except MemoryError:
        raise
    except Exception as error:  # a damaged pickle raises whatever it leads to
        told = str(error).splitlines() or [type(error).__name__]
        raise ModelFileError(f"{file} is damaged: {told[0]}") from None


def _refusal(file: Path, wishes: list[str]) -> str:
    return (
        f"{file} was refused, and nothing in it was run: it asks for {', '.join(wishes) or 'unsafe code'}. "
        "A weights file may hold tensors only: save them as .safetensors"
    )


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
