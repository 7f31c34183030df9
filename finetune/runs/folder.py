"""What a run leaves behind, and the rules of its folder: one writer, one configuration, whole files."""

from __future__ import annotations

import io
import os
import platform
from collections.abc import Mapping, Sequence
from functools import cache
from importlib import metadata
from pathlib import Path
from types import TracebackType
from typing import Any, Literal

import numpy as np

from finetune.errors import DataError, ResourceError, UsageError
from finetune.runs.config_file import CONFIG_NAME, FREE_KEYS, in_todays_form, settle_config
from finetune.runs.files import is_stale, json_text, remove_stale, to_plain, write_bytes, write_error
from finetune.runs.former_epochs import counted_from_one
from finetune.runs.lock import LOCK_NAME, FolderLock
from finetune.runs.parse import parse_json, parse_yaml, text_of

PACKAGES = {
    "toolkit": "crl-toolkit",
    "torch": "torch",
    "timm": "timm",
    "numpy": "numpy",
    "albumentations": "albumentations",
    "opencv": "opencv-python-headless",
}
PICTURES = "pictures"  # the folder of a report's figures


class RunFolder:
    """An open run folder; make one with `RunFolder.open`, and close it or use it as a context.

    Attributes:
        path: the folder.
        resumed: whether it held a run before.
        changes: the differences from the previous configuration that `allow_change` let pass.

    Where `writer` is false (every process but the first) all writing methods do nothing.
    """

    def __init__(self, path: Path, lock: FolderLock | None, *, resumed: bool, changes: Sequence[str]) -> None:
        self.path = path
        self.resumed = resumed
        self.changes = tuple(changes)
        self._lock = lock

    @classmethod
    def open(
        cls,
        path: Path | str,
        config: Mapping[str, Any],
        *,
        resume: Literal["never", "auto"],
        allow_change: Sequence[str] = (),
        free_keys: Sequence[str] = FREE_KEYS,
        writer: bool = True,
        wait_seconds: float = 2.0,
    ) -> RunFolder:
        """Make the folder `path`, or go on with the run in it; keep other writers out until it is closed.

        Args:
            path: the folder; its parents are made too.
            config: the resolved configuration, written to config.yaml.
            resume: "never" refuses a folder that holds anything; "auto" goes on with the run in it, if any.
            allow_change: dotted keys, sections or patterns whose value may differ from the previous run's.
            free_keys: the same, for keys that can never change a result.
            writer: False for the other processes of a distributed run: no lock is taken, nothing is written.
            wait_seconds: how long to wait for another process to let go of the folder.

        Raises:
            UsageError: the folder holds something and `resume` is "never"; another process writes there; the
                configuration changed.
            ResourceError: the folder cannot be made or written to.
            DataError: the config.yaml of the previous run cannot be read.
        """
        folder = Path(path)
        if resume not in ("never", "auto"):
            raise UsageError(f"resume must be never or auto, got {resume!r}")
        if not writer:
            return cls(folder, None, resumed=resume == "auto", changes=())
        _make_folder(folder)
        if not (folder / LOCK_NAME).exists():
            check_content(folder, resume)  # before a lock file appears in a folder that is not ours
        lock = FolderLock(folder, wait_seconds)
        try:
            check_content(folder, resume)
            remove_leftovers(folder)
            resumed, changes = settle_config(folder, to_plain(config), allow_change, free_keys)
            run = cls(folder, lock, resumed=resumed, changes=changes)
            run._mend_metrics()
        except BaseException:
            lock.release()
            raise
        return run

    @property
    def writer(self) -> bool:
        """Whether this process writes here."""
        return self._lock is not None

    def close(self) -> None:
        """Let other writers in."""
        if self._lock is not None:
            self._lock.release()

    def __enter__(self) -> RunFolder:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if kind is not None and self.writer and not self.resumed:
            self._forget_if_untouched()
        self.close()

    def _forget_if_untouched(self) -> None:
        """Leave no claim on the folder behind when a new run was refused before it did anything."""
        if {entry.name for entry in self.path.iterdir()} <= {CONFIG_NAME, LOCK_NAME}:
            (self.path / CONFIG_NAME).unlink(missing_ok=True)

    def append_metrics(self, row: Mapping[str, Any]) -> None:
        """Add a row to metrics.jsonl, on the disk when this returns; a row that fails leaves no trace."""
        if not self.writer:
            return
        line = (json_text(row) + "\n").encode()
        file = self.path / "metrics.jsonl"
        size = file.stat().st_size if file.exists() else 0
        try:
            with file.open("ab") as stream:
                stream.write(line)
                stream.flush()
                os.fsync(stream.fileno())
        except OSError as error:
            os.truncate(file, size)
            raise write_error(error, file, len(line)) from error

    def read_metrics(self) -> list[dict[str, Any]]:
        """Return the rows of metrics.jsonl; a last line that a kill cut short is left out.

        Raises DataError, naming the line, when another line is damaged.
        """
        file = self.path / "metrics.jsonl"
        if not file.exists():
            return []
        *lines, _cut_short = file.read_bytes().split(b"\n")
        rows = []
        for number, line in enumerate(lines, 1):
            try:
                rows.append(parse_json(line))
            except ValueError as error:
                raise DataError(f"{file}, line {number} is damaged: {error}") from error
        return counted_from_one(rows)

    def truncate_metrics(self, epochs: int) -> None:
        """Keep the rows of the first `epochs` epochs: a resumed run writes the later ones again."""
        self.replace_metrics([row for row in self.read_metrics() if row.get("epoch", 0) <= epochs])

    def replace_metrics(self, rows: Sequence[Mapping[str, Any]]) -> None:
        """Let metrics.jsonl hold these rows and no others, atomically; without rows no file is made."""
        file = self.path / "metrics.jsonl"
        if self.writer and (rows or file.exists()):
            write_bytes(file, "".join(json_text(row) + "\n" for row in rows).encode())

    def write_json(self, name: str, value: Any) -> None:
        """Write `value` as indented JSON (NaN becomes null), atomically."""
        if self.writer:
            write_json(self.path / name, value)

    def read_json(self, name: str) -> Any:
        """Return what `write_json` wrote; DataError where the file is missing or damaged."""
        return read_json(self.path / name)

    def write_table(self, name: str, columns: Mapping[str, np.ndarray]) -> None:
        """Write columns of equal length, each one-dimensional, as a parquet file, atomically."""
        if self.writer:
            write_table(self.path / name, columns)

    def read_table(self, name: str) -> dict[str, np.ndarray]:
        """Return what `write_table` wrote; see `finetune.runs.folder.read_table`."""
        return read_table(self.path / name)

    def _mend_metrics(self) -> None:
        self.replace_metrics(self.read_metrics())


def remove_leftovers(folder: Path) -> None:
    """Remove what killed writes left in a run's folder and its pictures; only for the one writer."""
    for place in (folder, folder / PICTURES):
        remove_stale(place)


def read_json(file: Path) -> Any:
    """Return the value of a JSON file; DataError, naming it, where it is missing or damaged."""
    try:
        return parse_json(file.read_text(encoding="utf-8"))
    except OSError as error:
        raise DataError(f"cannot read {file}: {error.strerror}") from error
    except ValueError as error:
        raise DataError(f"{file} is no valid JSON: {error}") from error


def write_json(file: Path, content: Any) -> Path:
    """Write `content` as JSON, whole or not at all, NaN as null; returns `file`."""
    write_bytes(file, (json_text(content, indent=2) + "\n").encode())
    return file


def read_config(file: Path) -> dict[str, Any]:
    """Return a config.yaml in today's form, {} where there is none; DataError where it cannot be read."""
    if not file.is_file():
        return {}
    try:
        content = parse_yaml(text_of(file.read_bytes()))
    except ValueError as error:
        raise DataError(f"{file} is not valid YAML: {error}") from None
    if not isinstance(content, dict):
        raise DataError(f"{file} must hold keys and values, got {type(content).__name__}")
    return in_todays_form(content)


def read_json_lines(file: Path) -> list[dict[str, Any]]:
    """Return the rows of a finished run's metrics.jsonl; DataError where a line is damaged."""
    lines = file.read_text(encoding="utf-8").splitlines()
    try:
        return counted_from_one(parse_json(line) for line in lines if line.strip())
    except ValueError as error:
        raise DataError(f"{file} is not valid JSON lines: {error}") from None


def write_table(file: Path, columns: Mapping[str, np.ndarray]) -> None:
    """Write columns of equal length, each one-dimensional, to a parquet file, atomically.

    Raises ValueError for a column that is not one-dimensional or differs in length.
    """
    import pyarrow as pa
    import pyarrow.parquet as pq

    shapes = {name: np.shape(values) for name, values in columns.items()}
    if len(set(shapes.values())) != 1 or any(len(shape) != 1 for shape in shapes.values()):
        raise ValueError(f"a table needs one-dimensional columns of one length, got {shapes}")
    table = pa.table({name: pa.array(np.asarray(values)) for name, values in columns.items()})
    content = io.BytesIO()
    pq.write_table(table, content, write_page_checksum=True)
    write_bytes(file, content.getvalue())


def read_table(file: Path) -> dict[str, np.ndarray]:
    """Return the columns of a parquet file: numbers in their own type, text as numpy text.

    Raises DataError, naming the file, where it is missing, damaged or has empty cells.
    """
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        table = pq.read_table(file, page_checksum_verification=True)
    except (OSError, pa.ArrowException) as error:
        raise DataError(f"cannot read the table {file}: {error}") from error
    empty = [name for name in table.column_names if table[name].null_count]
    if empty:
        raise DataError(f"{file} has empty cells in {', '.join(empty)}")
    arrays = {name: table[name].to_numpy() for name in table.column_names}
    return {name: values.astype(str) if values.dtype == object else values for name, values in arrays.items()}


def versions() -> dict[str, str]:
    """Return the versions that decide a result: Python, this toolkit and the packages it trains with."""
    return dict(_versions())


@cache  # a process keeps what it has imported, and a run asks after every epoch
def _versions() -> dict[str, str]:
    found = {"python": platform.python_version()}
    for name, package in PACKAGES.items():
        try:
            found[name] = metadata.version(package)
        except metadata.PackageNotFoundError:
            found[name] = "not installed"
    return found


def _make_folder(folder: Path) -> None:
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise _no_folder(folder, error.strerror or str(error)) from error


def _no_folder(folder: Path, reason: str) -> ResourceError:
    return ResourceError(f"cannot make the run folder {folder}: {reason}; choose another one with --run.dir")


def check_content(folder: Path, resume: str) -> None:
    """Raise UsageError where a run folder holds something that `resume` does not go on with.

    `RunFolder.open` asks this too; whoever works long before opening asks first. Raises ResourceError where a
    file stands in the way of a folder that is not there yet, or nothing may be written.
    """
    if not folder.is_dir():
        above = next((place for place in (folder, *folder.parents) if place.exists()), Path())
        if not above.is_dir():
            raise _no_folder(folder, f"{above} is a file")
        if not os.access(above, os.W_OK | os.X_OK):
            raise _no_folder(folder, f"{above} may not be written to")
        return
    content = [entry for entry in folder.iterdir() if entry.name != LOCK_NAME and not is_stale(entry)]
    if not content:
        return
    if resume == "never":
        raise UsageError(
            f"{folder} is not empty: go on with the run in it by --run.resume auto, or choose another folder"
        )
    if not (folder / CONFIG_NAME).exists():
        raise UsageError(f"{folder} is not empty and holds no run (no {CONFIG_NAME}): choose another folder")
