from __future__ import annotations

import errno
import json
import os
import stat
from pathlib import Path

import numpy as np
import pytest

from finetune.errors import ResourceError
from finetune.runs.files import (
    atomic_file,
    check_free_space,
    check_writable,
    free_bytes,
    is_stale,
    json_text,
    remove_stale,
    to_plain,
    write_bytes,
)


def test_the_new_content_appears_only_when_the_block_has_ended(tmp_path: Path) -> None:
    file = tmp_path / "a.txt"
    file.write_bytes(b"old")
    with atomic_file(file) as stream:
        stream.write(b"new")
        stream.flush()
        assert file.read_bytes() == b"old"
        assert [is_stale(entry) for entry in tmp_path.iterdir() if entry != file] == [True]
    assert file.read_bytes() == b"new"
    assert list(tmp_path.iterdir()) == [file]


def write_and_stop(file: Path) -> None:
    with atomic_file(file) as stream:
        stream.write(b"new")
        raise KeyboardInterrupt


def test_an_error_in_the_block_leaves_the_old_file_and_no_other(tmp_path: Path) -> None:
    file = tmp_path / "a.txt"
    file.write_bytes(b"old")
    with pytest.raises(KeyboardInterrupt):
        write_and_stop(file)
    assert file.read_bytes() == b"old"
    assert list(tmp_path.iterdir()) == [file]


def test_a_disk_that_is_full_only_when_forced_to_write_is_told_with_numbers(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = tmp_path / "a.txt"
    file.write_bytes(b"old")

    def full(_handle: int) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(ResourceError, match=r"disk full: need 4 MB, \d+ MB free at ") as caught:
        write_bytes(file, b"x" * 3_500_000)
    assert str(tmp_path) in str(caught.value)
    assert caught.value.exit_code == 5
    assert file.read_bytes() == b"old"
    assert list(tmp_path.iterdir()) == [file]


def refuse_to_sync_folders(number: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Let fsync fail for folders alone."""
    sync = os.fsync

    def fsync(handle: int) -> None:
        if stat.S_ISDIR(os.fstat(handle).st_mode):
            raise OSError(number, os.strerror(number))
        sync(handle)

    monkeypatch.setattr(os, "fsync", fsync)


@pytest.mark.parametrize("name", ["EINVAL", "EBADF", "ENOTSUP", "ENOSYS"])
def test_a_file_system_that_cannot_sync_folders_is_no_failure(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    refuse_to_sync_folders(getattr(errno, name), monkeypatch)
    write_bytes(tmp_path / "a.txt", b"whole")
    assert (tmp_path / "a.txt").read_bytes() == b"whole"
    assert len(list(tmp_path.iterdir())) == 1


def test_a_disk_that_fails_to_sync_a_folder_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    refuse_to_sync_folders(errno.EIO, monkeypatch)
    with pytest.raises(ResourceError, match="Input/output error"):
        write_bytes(tmp_path / "a.txt", b"whole")


def test_a_folder_that_is_not_there_is_told_with_the_reason(tmp_path: Path) -> None:
    with pytest.raises(ResourceError, match="No such file or directory"):
        write_bytes(tmp_path / "none" / "a.txt", b"")


@pytest.mark.parametrize("name", ["a" * 251 + ".txt", "ä" * 125 + ".txt", "mit Leerzeichen und 日本.txt"])
def test_every_name_that_a_file_can_have_works(tmp_path: Path, name: str) -> None:
    write_bytes(tmp_path / name, b"content")
    assert (tmp_path / name).read_bytes() == b"content"
    assert remove_stale(tmp_path) == []


def test_only_unfinished_writes_are_stale(tmp_path: Path) -> None:
    for name in (".crl-1-ab.tmp", "crl-1-ab.tmp", "notes.tmp", "last.ckpt"):
        (tmp_path / name).touch()
    assert [file.name for file in remove_stale(tmp_path)] == [".crl-1-ab.tmp"]
    assert len(list(tmp_path.iterdir())) == 3


def test_free_space_is_measured_where_the_folder_will_be(tmp_path: Path) -> None:
    later = tmp_path / "run" / "checkpoints"
    check_free_space(later, 1)
    with pytest.raises(ResourceError, match=r"disk full: need \d+ MB, \d+ MB free at .*checkpoints"):
        check_free_space(later, free_bytes(tmp_path) + 10**12)
    assert not later.exists()


def test_a_place_that_cannot_be_written_is_known_beforehand(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    check_writable(tmp_path / "new" / "folder")
    (tmp_path / "file").touch()
    with pytest.raises(ResourceError, match="is a file"):
        check_writable(tmp_path / "file" / "folder")
    monkeypatch.setattr(os, "access", lambda place, mode: place != tmp_path)
    with pytest.raises(ResourceError, match="choose a folder that you may write to"):
        check_writable(tmp_path / "new")


def test_numpy_values_paths_and_tuples_become_plain_python() -> None:
    plain = to_plain(
        {"n": np.int64(3), "p": np.ones((2, 1), np.float32), "file": Path("a/b"), 5: (True, None)}
    )
    assert plain == {"n": 3, "p": [[1.0], [1.0]], "file": "a/b", "5": [True, None]}
    assert type(plain["n"]) is int
    assert type(to_plain(np.float64(0.5))) is float  # a subclass of float, but no plain one


def test_values_that_json_does_not_know_become_null() -> None:
    text = json_text({"a": float("nan"), "b": [np.inf, 1.5], "c": {"d": -np.inf}})
    assert json.loads(text) == {"a": None, "b": [None, 1.5], "c": {"d": None}}


def test_a_value_that_cannot_be_read_back_is_refused_with_its_type() -> None:
    with pytest.raises(TypeError, match="got set"):
        to_plain({"names": {"a"}})


def test_text_keeps_its_letters() -> None:
    assert json_text({"größe": "日本"}) == '{"größe": "日本"}'
