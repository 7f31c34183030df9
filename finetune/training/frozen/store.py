"""Where features lie between epochs: a record of bytes per image, on a GPU, in memory, or in files."""

from __future__ import annotations

import math
import os
import tempfile
import weakref
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from finetune.cli.machine import free_gpu_bytes, memory_bytes
from finetune.errors import ResourceError
from finetune.images.cache.records import Records
from finetune.images.loading.copies import to_device
from finetune.models.backbone import Features, Tap
from finetune.runs.files import check_free_space, write_error

ALIGN = 8  # bytes; every part of a record starts at a multiple
MEMORY_SHARE = 4  # all stores together may take one part in this many of the memory
DEVICE_SHARE = 2  # a store may take one part in this many of what a GPU has free
COPIED = 256  # records that are copied to a GPU at once
CPU = torch.device("cpu")
REMEDY = "or give --train.frozen_views 0 to ask the frozen backbone in every epoch"


@dataclass(frozen=True)
class _Part:
    """One tensor of a record: its tap (None for the embedding), format, shape, order in memory and place."""

    tap: Tap | None
    dtype: torch.dtype
    shape: tuple[int, ...]
    channels_last: bool
    start: int
    size: int


@dataclass(frozen=True)
class Layout:
    """How the features of one image become a record of `size` bytes, and back, bit for bit."""

    parts: tuple[_Part, ...]
    size: int

    @classmethod
    def of(cls, features: Features) -> Layout:
        """Return the layout for features like these (a batch of any number)."""
        return cls._joined(
            (tap, values.dtype, tuple(values.shape[1:]), _is_channels_last(values))
            for tap, values in _tensors(features)
        )

    def to_table(self) -> list[list[Any]]:
        """Return the layout as plain values."""
        return [
            [part.tap, str(part.dtype).removeprefix("torch."), list(part.shape), part.channels_last]
            for part in self.parts
        ]

    @classmethod
    def from_table(cls, table: Sequence[Sequence[Any]]) -> Layout:
        """Return the layout that `to_table` described."""
        return cls._joined(
            (tap, getattr(torch, name), tuple(shape), bool(last)) for tap, name, shape, last in table
        )

    @classmethod
    def _joined(cls, described: Iterable[tuple[Tap | None, torch.dtype, tuple[int, ...], bool]]) -> Layout:
        parts, start = [], 0
        for tap, dtype, shape, last in described:
            size = math.prod(shape) * dtype.itemsize
            parts.append(_Part(tap, dtype, shape, last, start, size))
            start += -(-size // ALIGN) * ALIGN
        return cls(tuple(parts), start)

    def none(self) -> Tensor:
        """Return the records of no image at all, uint8 (0, size)."""
        return torch.empty((0, self.size), dtype=torch.uint8)

    def pack(self, features: Features, device: torch.device = CPU) -> Tensor:
        """Return records, uint8 (B, size), on the CPU or another device."""
        tensors = dict(_tensors(features))
        records = torch.zeros((len(features.embedding), self.size), dtype=torch.uint8, device=device)
        for part in self.parts:
            values = tensors[part.tap].detach().to(device)
            ordered = values.permute(0, 2, 3, 1) if part.channels_last else values
            if part.size:
                flat = ordered.reshape(len(values), -1).contiguous().view(torch.uint8)
                records[:, part.start : part.start + part.size] = flat
        return records

    def unpack(self, records: np.ndarray | Tensor) -> Features:
        """Return the features in records, uint8 (B, size), on the records' device."""
        whole = torch.from_numpy(records) if isinstance(records, np.ndarray) else records
        count = len(whole)
        tensors: dict[Tap | None, Tensor] = {}
        for part in self.parts:
            if not (part.size and count):
                tensors[part.tap] = whole.new_empty((count, *part.shape), dtype=part.dtype)
                continue
            values = whole[:, part.start : part.start + part.size].contiguous().view(part.dtype)
            if part.channels_last:
                channels, height, width = part.shape
                tensors[part.tap] = values.view(count, height, width, channels).permute(0, 3, 1, 2)
            else:
                tensors[part.tap] = values.view(count, *part.shape)
        embedding = tensors.pop(None)
        return Features(embedding, {tap: values for tap, values in tensors.items() if tap is not None})


class FeatureStore:
    """`slots` records of one layout, in memory; `in_memory` is how many bytes of it they take.

    `device` is where the records of `write` should lie.
    """

    device = CPU

    def __init__(self, layout: Layout, slots: int) -> None:
        self.layout, self.slots = layout, slots
        self.in_memory = slots * layout.size
        self.where = f"in memory ({told(self.in_memory)})"
        self._records = np.empty((slots, layout.size), np.uint8)

    def write(self, slots: np.ndarray, records: Tensor) -> None:
        """Put records, uint8 (n, size), into these slots."""
        self._records[slots] = records.numpy()

    def read(self, slots: np.ndarray, out: np.ndarray | None = None) -> np.ndarray:
        """Return a copy of the records in these slots, uint8 (n, size), in `out` where that is given."""
        return np.take(self._records, slots, axis=0, out=out, mode="clip")  # "raise" would copy twice

    def features(self, parts: Sequence[np.ndarray], device: torch.device) -> Iterator[Features]:
        """Yield the features in the slots of each part, one part after the other.

        For a GPU they come to it, while a thread reads the next ones; else they stay on the CPU.
        """
        if reads_ahead(device):
            return _read_ahead(self, parts, device)
        return (self.layout.unpack(self.read(slots)) for slots in parts)


class FileStore(FeatureStore):
    """`slots` records of one layout in a file of `folder` that has no name: it goes with its process.

    Raises ResourceError when the disk is too small for all of them.
    """

    def __init__(self, layout: Layout, slots: int, folder: Path) -> None:
        self.layout, self.slots = layout, slots
        size = slots * layout.size
        self.in_memory = 0
        self.where = f"in a file without a name in {folder} ({told(size)}), gone when the stage ends"
        try:
            check_free_space(folder, size)
            stream = tempfile.TemporaryFile(dir=folder, prefix=".crl-features-")  # noqa: SIM115
            weakref.finalize(self, stream.close)
            self._descriptor = stream.fileno()
            if hasattr(os, "posix_fallocate"):
                os.posix_fallocate(self._descriptor, 0, max(1, size))
        except OSError as error:
            raise ResourceError(f"{write_error(error, folder / 'features', size)}, {REMEDY}") from error
        except ResourceError as error:
            raise ResourceError(f"{error}, {REMEDY}") from error

    def write(self, slots: np.ndarray, records: Tensor) -> None:
        """Put records, uint8 (n, size), into these slots."""
        for slot, record in zip(slots.tolist(), records.numpy(), strict=True):
            try:
                os.pwrite(self._descriptor, record.tobytes(), slot * self.layout.size)
            except OSError as error:
                raise ResourceError(f"the cached features cannot be written: {error}, {REMEDY}") from error

    def read(self, slots: np.ndarray, out: np.ndarray | None = None) -> np.ndarray:
        """Return the records in these slots, uint8 (n, size), in `out` where that is given."""
        records = np.empty((len(slots), self.layout.size), np.uint8) if out is None else out
        for place, slot in enumerate(slots.tolist()):
            found = os.pread(self._descriptor, self.layout.size, slot * self.layout.size)
            records[place] = np.frombuffer(found, np.uint8)
        return records


class MappedStore(FeatureStore):
    """The records of files one after the other, mapped into memory; nobody writes into them."""

    def __init__(self, layout: Layout, files: Sequence[Records]) -> None:
        self.layout, self._files = layout, files
        self._ends = np.cumsum([len(file.values) for file in files])
        self.slots, self.in_memory = int(self._ends[-1]), 0
        self.where = "in files"

    def write(self, slots: np.ndarray, records: Tensor) -> None:
        """Raise, for what other runs read is never changed."""
        raise NotImplementedError

    def read(self, slots: np.ndarray, out: np.ndarray | None = None) -> np.ndarray:
        """Return a copy of the records in these slots, uint8 (n, size), in `out` where that is given."""
        if len(self._files) == 1:
            return np.take(self._files[0].values, slots, axis=0, out=out, mode="clip")
        records = np.empty((len(slots), self.layout.size), np.uint8) if out is None else out
        which = np.searchsorted(self._ends, slots, side="right")
        for number in np.unique(which):
            own, values = which == number, self._files[number].values
            records[own] = values[slots[own] - self._ends[number] + len(values)]
        return records


class DeviceStore(FeatureStore):
    """`slots` records of one layout in the memory of a GPU."""

    def __init__(self, layout: Layout, slots: int, device: torch.device) -> None:
        self.layout, self.slots, self.device = layout, slots, device
        self.in_memory = 0
        self.where = f"on the device ({told(slots * layout.size)})"
        self._there = torch.empty((slots, layout.size), dtype=torch.uint8, device=device)

    def write(self, slots: np.ndarray, records: Tensor) -> None:
        """Put records, uint8 (n, size), into these slots."""
        self._there.index_copy_(0, self._places(slots), records.to(self.device))

    def features(self, parts: Sequence[np.ndarray], device: torch.device) -> Iterator[Features]:  # noqa: ARG002
        """Yield the features in the slots of each part, where they lie."""
        return (self.layout.unpack(self._there.index_select(0, self._places(slots))) for slots in parts)

    def _places(self, slots: np.ndarray) -> Tensor:
        return to_device(torch.from_numpy(slots), self.device)


def _read_ahead(store: FeatureStore, parts: Sequence[np.ndarray], device: torch.device) -> Iterator[Features]:
    """Yield features on `device`: of two page-locked buffers one is filled while the other is copied."""
    size = max((len(slots) for slots in parts), default=0), store.layout.size
    pinned = device.type == "cuda"
    buffers = [torch.empty(size, dtype=torch.uint8, pin_memory=pinned) for _ in range(2)]
    copied: list[torch.cuda.Event | None] = [None, None]

    def gather(number: int) -> Tensor:
        slots, place, before = parts[number], buffers[number % 2][: len(parts[number])], copied[number % 2]
        if before is not None:
            before.synchronize()
        store.read(slots, out=place.numpy())
        return place

    with ThreadPoolExecutor(1, "crl-features") as pool:
        coming = pool.submit(gather, 0) if parts else None
        for number in range(len(parts)):
            assert coming is not None
            there = coming.result().to(device, non_blocking=True, copy=True)
            if pinned:
                copied[number % 2] = torch.cuda.current_stream(device).record_event()
            coming = pool.submit(gather, number + 1) if number + 1 < len(parts) else None
            yield store.layout.unpack(there)


def reads_ahead(device: torch.device) -> bool:
    """Return whether a thread reads features while a device computes."""
    return device.type == "cuda"


def device_room(device: torch.device) -> int:
    """Return the bytes that a GPU has free, those that torch holds without use included; else 0."""
    return free_gpu_bytes(device)


def near(store: FeatureStore, device: torch.device) -> FeatureStore:
    """Return a store's records on a GPU where half of what is free there does for them, else the store."""
    if store.slots * store.layout.size * DEVICE_SHARE > device_room(device):
        return store
    there = DeviceStore(store.layout, store.slots, device)
    for start in range(0, store.slots, COPIED):
        slots = np.arange(start, min(start + COPIED, store.slots))
        there.write(slots, torch.from_numpy(store.read(slots)))
    return there


def open_store(
    layout: Layout,
    slots: int,
    folder: Path,
    *,
    processes: int = 1,
    taken: int = 0,
    device: torch.device = CPU,
) -> FeatureStore:
    """Return a store on the GPU where half of what is free there does, or else in memory.

    In memory it may have a quarter for all processes; what needs more lies in a file of `folder`. `taken` is
    what other stores of this process have of that quarter already, in bytes.
    """
    if slots * layout.size * DEVICE_SHARE <= device_room(device):
        return DeviceStore(layout, slots, device)
    if (taken + slots * layout.size) * processes * MEMORY_SHARE <= memory_bytes():
        return FeatureStore(layout, slots)
    return FileStore(layout, slots, folder)


def _is_channels_last(values: Tensor) -> bool:
    last = values.ndim == 4 and values.is_contiguous(memory_format=torch.channels_last)
    return last and not values.is_contiguous()


def _tensors(features: Features) -> list[tuple[Tap | None, Tensor]]:
    return [(None, features.embedding), *features.maps.items()]


def told(size: int) -> str:
    """Return a number of bytes in words.

    >>> told(1_400_000)
    '1.4 MB'
    """
    unit, name = (1e9, "GB") if size >= 1e9 else (1e6, "MB") if size >= 1e6 else (1e3, "kB")
    return f"{size / unit:.1f} {name}"
