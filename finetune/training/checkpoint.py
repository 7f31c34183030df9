"""Training state that a crash cannot cost you, and finished weights that say what they are.

A checkpoint is what `torch.save` writes, followed by 40 bytes: a mark and the SHA-256 of all before it. Other
programs read it as usual; this one refuses it when a single bit has changed. Nothing in a file is ever
run: checkpoints load with `weights_only=True`, finished models are safetensors.
"""

from __future__ import annotations

import hashlib
import os
import pickle
from collections import OrderedDict
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any, BinaryIO, cast

import torch
from torch import Tensor

from finetune.cli.console import say
from finetune.errors import ModelFileError, listing
from finetune.models.bundle import check_class_names, load_bundle, save_bundle, weights_hash
from finetune.models.tensor_files import forbidden_globals
from finetune.runs.files import atomic_file, remove_stale
from finetune.training.epoch_metrics import Totals
from finetune.training.optimization.distributed import World

__all__ = [
    "CheckpointFolder",
    "Progress",
    "check_class_names",
    "load_bundle",
    "load_checkpoint",
    "save_bundle",
    "save_checkpoint",
    "state_bytes",
    "weights_hash",
]

_MARK = b"CRLCKPT1"
_TRAILER_BYTES = len(_MARK) + hashlib.sha256().digest_size
_CHUNK_BYTES = 1 << 20
_STATE_VALUES = (type(None), bool, int, float, str, torch.Size, torch.dtype, torch.device)


def save_checkpoint(file: Path, state: dict[str, Any]) -> None:
    """Write `state` so that a kill or a full disk at any moment leaves the old file or the new one, whole.

    Args:
        file: the target; its folder must exist.
        state: tensors, numbers, text, None, and lists, tuples, sets and dicts of them.

    Raises:
        TypeError: `state` holds something that a safe load would refuse, such as a numpy number; says where.
        ResourceError: the disk is full or the folder cannot be written to; the old file is untouched.
    """
    _save(file, state)


def load_checkpoint(file: Path) -> dict[str, Any]:
    """Return the state in `file`, its tensors on the CPU.

    Raises:
        ModelFileError: there is no such file, a bit of it changed, its end is missing, or it asks for Python
            objects that no checkpoint needs (they are listed; nothing of the file is run).
    """
    try:
        with file.open("rb") as stream:
            state = _load(file, stream)
    except OSError as error:
        raise ModelFileError(f"cannot read the checkpoint {file}: {error.strerror or error}") from error
    if not isinstance(state, dict):
        raise ModelFileError(f"{file} holds a {type(state).__name__}, a checkpoint holds a dict")
    return state


class CheckpointFolder:
    """The checkpoints of one run: `last.ckpt`, the one before it (`previous.ckpt`) and `best.ckpt`.

    One process writes; any may load. At every moment at least one whole checkpoint has its final name, once a
    first one was saved.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.last = folder / "last.ckpt"
        self.previous = folder / "previous.ckpt"
        self.best = folder / "best.ckpt"
        self._last_is_whole = False

    def clean(self) -> list[Path]:
        """Remove and return what killed writes left behind."""
        return remove_stale(self.folder)

    def save(self, state: dict[str, Any], *, epoch: int, step: int) -> Path:
        """Save `state`, its `epoch` and `step` as the last checkpoint; the one before becomes the previous.

        Raises as `save_checkpoint` does, with all earlier checkpoints in their place.
        """
        self.folder.mkdir(parents=True, exist_ok=True)
        _save(self.last, {**state, "epoch": epoch, "step": step}, before_replace=self._rotate)
        self._last_is_whole = True
        return self.last

    def save_best(self, state: dict[str, Any]) -> Path:
        """Save `state` as the best checkpoint so far."""
        self.folder.mkdir(parents=True, exist_ok=True)
        save_checkpoint(self.best, state)
        return self.best

    def load_best(self) -> dict[str, Any]:
        """Return the best checkpoint's state; ModelFileError where there is none or it is damaged."""
        return load_checkpoint(self.best)

    def load_latest(self) -> tuple[dict[str, Any], Path] | None:
        """Return the newest whole checkpoint and its file, or None where nothing was saved yet.

        A last checkpoint that cannot be used is named in a printed notice, and the previous one is taken.

        Raises:
            ModelFileError: there are checkpoints, but none can be used.
        """
        problems: list[str] = []
        for file in filter(Path.exists, (self.last, self.previous)):
            try:
                state = load_checkpoint(file)
            except ModelFileError as error:
                problems.append(str(error))
                continue
            if problems:
                say(f"notice: {problems[0]}\n        continuing from {file} instead")
            self._last_is_whole = file == self.last
            return state, file
        if problems:
            raise ModelFileError(f"no checkpoint in {self.folder} can be used:\n{listing(problems)}")
        return None

    def _rotate(self) -> None:
        """Keep the last checkpoint as the previous one, unless it is damaged: then the previous is better."""
        if self.last.exists() and (self._last_is_whole or _is_whole(self.last)):
            self.last.replace(self.previous)


def state_bytes(state: Any) -> int:
    """Return the bytes of all tensor storages in `state`, shared ones once: a checkpoint's size on disk."""
    storages = [tensor.untyped_storage() for tensor in _tensors(state)]
    return sum({(str(each.device), each.data_ptr()): each.nbytes() for each in storages}.values())


class _DigestStream:
    """Pass bytes on, digest them, and keep the first failure: torch's writer would disguise it."""

    def __init__(self, stream: BinaryIO) -> None:
        self._stream = stream
        self.digest = hashlib.sha256()
        self.failure: OSError | None = None

    def write(self, data: memoryview) -> int:
        if self.failure is None:
            try:
                self._stream.write(data)
            except OSError as error:
                self.failure = error
        self.digest.update(data)
        return len(data)

    def flush(self) -> None:
        """Leave flushing to the file's owner."""


def _save(file: Path, state: dict[str, Any], before_replace: Callable[[], None] | None = None) -> None:
    _check_loadable(state, "state")
    with atomic_file(file, state_bytes(state), before_replace) as stream:
        digesting = _DigestStream(stream)
        torch.save(state, cast(IO[bytes], digesting))
        if digesting.failure is not None:
            raise digesting.failure
        stream.write(_MARK + digesting.digest.digest())


def _check_loadable(value: Any, where: str) -> None:
    """Raise TypeError, naming the place, for a value that `torch.load(weights_only=True)` would refuse."""
    if isinstance(value, Tensor) or type(value) in _STATE_VALUES:
        return
    if type(value) in (dict, OrderedDict):
        for key, item in value.items():
            _check_loadable(key, f"a key of {where}")
            _check_loadable(item, f"{where}[{key!r}]")
    elif type(value) in (list, tuple, set):
        for index, item in enumerate(value):
            _check_loadable(item, f"{where}[{index}]")
    else:
        raise TypeError(
            f"{where} is a {type(value).__module__}.{type(value).__qualname__}; a checkpoint holds tensors,"
            " numbers, text, None, lists, tuples, sets and dicts"
        )


def _tensors(value: Any) -> Iterator[Tensor]:
    if isinstance(value, Tensor):
        yield value
    elif isinstance(value, dict):
        for item in value.values():
            yield from _tensors(item)
    elif isinstance(value, list | tuple):
        for item in value:
            yield from _tensors(item)


def _load(file: Path, stream: BinaryIO) -> Any:
    if not _ends_with_mark(stream):
        raise ModelFileError(_foreign(file, stream))
    if not _digest_agrees(stream):
        raise ModelFileError(f"{file} is damaged: its content does not match its SHA-256")
    stream.seek(0)
    try:
        return torch.load(stream, map_location="cpu", weights_only=True)
    except (pickle.UnpicklingError, RuntimeError, ValueError, EOFError) as error:
        raise ModelFileError(_refusal(file, stream) or f"{file} cannot be read: {error}") from error


def _ends_with_mark(stream: BinaryIO) -> bool:
    size = stream.seek(0, os.SEEK_END)
    if size < _TRAILER_BYTES:
        return False
    stream.seek(size - _TRAILER_BYTES)
    return stream.read(len(_MARK)) == _MARK


def _digest_agrees(stream: BinaryIO) -> bool:
    left = stream.seek(0, os.SEEK_END) - _TRAILER_BYTES
    stream.seek(0)
    digest = hashlib.sha256()
    while left > 0:
        chunk = stream.read(min(left, _CHUNK_BYTES))
        if not chunk:
            return False
        digest.update(chunk)
        left -= len(chunk)
    return stream.read()[len(_MARK) :] == digest.digest()


def _is_whole(file: Path) -> bool:
    try:
        with file.open("rb") as stream:
            return _ends_with_mark(stream) and _digest_agrees(stream)
    except OSError:  # a disk that cannot give the file back any more
        return False


def _foreign(file: Path, stream: BinaryIO) -> str:
    return _refusal(file, stream) or (
        f"{file} is damaged (its end is missing) or no checkpoint of this toolkit; plain weights belong in"
        " safetensors"
    )


def _refusal(file: Path, stream: BinaryIO) -> str | None:
    """Return why `file` is unsafe, or None where nothing forbidden is found in it."""
    forbidden = forbidden_globals(stream)
    if not forbidden:
        return None
    return (
        f"{file} is refused: it asks for Python objects that no checkpoint needs:\n{listing(forbidden)}\n"
        "Nothing of it was run; load only files from people you trust, as safetensors"
    )


@dataclass
class Progress:
    """How far a run has come: what a checkpoint holds beside the learner's own state.

    `best` is the best validation metric of the run; `stage_best` that of its last stage, which early stopping
    looks at; `row` what metrics.jsonl holds of the last finished epoch, for a kill may come before it is
    written there.
    """

    epoch: int = 0
    step: int = 0
    totals: Totals | None = None
    best: float | None = None
    best_epoch: int = -1
    stage_best: float | None = None
    stage_best_epoch: int = -1
    seconds: float = 0.0
    row: dict[str, Any] | None = None

    def take_score(self, metric: float, epoch: int, last_start: int) -> bool:
        """Note an epoch's validation metric; return whether it is the run's best so far.

        `last_start` is the epoch that begins the last stage.
        """
        if epoch >= last_start and (self.stage_best is None or metric > self.stage_best):
            self.stage_best, self.stage_best_epoch = metric, epoch
        if self.best is not None and metric <= self.best:
            return False
        self.best, self.best_epoch = metric, epoch
        return True

    def in_vain(self, last_start: int) -> int:
        """Return how many epochs of the last stage came after its best one; below 1 before there is any."""
        return self.epoch - 1 - max(self.stage_best_epoch, last_start - 1)

    def state(self, world: World) -> dict[str, Any]:
        """Return it as plain values and tensors, with a row of totals per process; all must call this."""
        totals = self.totals
        return {**self.__dict__, "totals": None if totals is None else totals.gathered(world)}

    @classmethod
    def restored(cls, state: dict[str, Any], device: torch.device, world: World) -> Progress:
        """Return what `state` held, with this process's totals on the device.

        Among another number of processes the first one takes the totals of all.
        """
        rows = state["totals"]
        former = {"stage_best": state["best"], "stage_best_epoch": state["best_epoch"]}
        state = {**former, **state}  # a checkpoint of an older version knows the run's best only
        if rows is None:
            return cls(**state)
        rows = rows if isinstance(rows, dict) else {"sums": rows}  # an older version's: three sums alone
        real = torch.float32 if device.type == "mps" else torch.float64  # changed here: mps has no float64
        own = {name: _own_row(values, world).to(real).to(device) for name, values in rows.items()}
        return cls(**{**state, "totals": Totals(own.pop("sums"), own)})


def _own_row(rows: torch.Tensor, world: World) -> torch.Tensor:
    return rows[world.rank] if len(rows) == world.size else rows.sum(0) * world.is_main
