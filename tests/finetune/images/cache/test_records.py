"""Records in a file that processes share: written whole by one, waited for by others, checked when opened."""

from __future__ import annotations

import os
import threading
from pathlib import Path

import numpy as np
import pytest

import finetune.images.cache.records
from finetune.errors import InterruptedRunError
from finetune.images.cache.limit import LIMIT_VARIABLE, list_caches, remove_unused
from finetune.images.cache.records import Records, fits, open_records, records_file, writing

VALUES = np.arange(60, dtype=np.uint8).reshape(5, 12)


@pytest.fixture
def file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Return the name of a file of records; nothing of this process was compared yet."""
    monkeypatch.setattr(finetune.images.cache.records, "_checked", set())
    return records_file(tmp_path / "cache", "0" * 32)


def forbidden() -> None:
    raise AssertionError("nobody else is at work")


def write(file: Path) -> Records:
    """Write the values in two parts, and return what can be read."""
    with writing(file, waiting=forbidden, ask=forbidden) as writer:
        writer.begin(*VALUES.shape)
        writer.write(VALUES[:3])
        writer.write(VALUES[3:])
        assert open_records(file) is None, "nobody sees it before it is whole"
        writer.finish({"images": 5})
    found = open_records(file)
    assert found is not None
    return found


def names(folder: Path) -> list[str]:
    return sorted(entry.name for entry in folder.iterdir() if entry.name != "pictures.lock")


def test_records_come_back_with_their_table(file: Path):
    found = write(file)
    assert np.array_equal(found.values, VALUES)
    assert isinstance(found.values, np.memmap)
    assert found.table == {"images": 5}
    assert names(file.parent) == [file.name]


def test_what_is_not_finished_leaves_nothing(file: Path):
    with writing(file, waiting=forbidden, ask=forbidden) as writer:
        writer.begin(*VALUES.shape)
        writer.write(VALUES[:3])
    assert names(file.parent) == []
    assert open_records(file) is None


@pytest.mark.parametrize("place", [20, 80, -10])  # in a record, in the digests, in the footer
def test_a_damaged_file_is_told_and_removed(file: Path, place: int, capsys: pytest.CaptureFixture[str]):
    write(file)
    finetune.images.cache.records._checked.clear()  # as in another process
    content = bytearray(file.read_bytes())
    content[place] ^= 1
    file.write_bytes(content)
    assert open_records(file) is None
    assert "is damaged: what it held is computed again" in capsys.readouterr().out
    assert not file.exists()
    assert np.array_equal(write(file).values, VALUES)


def test_a_file_cut_short_is_removed(file: Path):
    write(file)
    os.truncate(file, file.stat().st_size - 30)
    assert open_records(file) is None
    assert not file.exists()


def test_what_killed_writers_left_is_begun_again_or_removed(file: Path):
    file.parent.mkdir()
    own, other = file.with_name(file.name + ".tmp"), records_file(file.parent, "1" * 32)
    for left in (own, other.with_name(other.name + ".tmp")):
        left.write_bytes(b"half of it")
    busy = records_file(file.parent, "2" * 32)
    with writing(busy, waiting=forbidden, ask=forbidden):
        assert np.array_equal(write(file).values, VALUES)
        assert names(file.parent) == [file.name, busy.name + ".tmp"], "one at work keeps its file"


def test_a_second_process_waits_and_finds_what_the_first_one_wrote(file: Path):
    waits, told = threading.Event(), []
    found: list[bool] = []

    def second() -> None:
        with writing(file, waiting=lambda: told.append(1), ask=waits.set):
            found.append(open_records(file) is not None)

    with writing(file, waiting=forbidden, ask=forbidden) as writer:
        thread = threading.Thread(target=second)
        thread.start()
        assert waits.wait(20)
        writer.begin(*VALUES.shape)
        writer.write(VALUES)
        writer.finish({})
    thread.join(20)
    assert (told, found) == ([1], [True])
    assert names(file.parent) == [file.name]


def test_whoever_waits_can_be_stopped(file: Path):
    def stop() -> None:
        raise InterruptedRunError("stopped")

    with writing(file, waiting=forbidden, ask=forbidden) as writer:
        with pytest.raises(InterruptedRunError), writing(file, waiting=lambda: None, ask=stop):
            pytest.fail("two at work on one file")
        writer.begin(*VALUES.shape)
        writer.write(VALUES)
        writer.finish({})
    assert open_records(file) is not None


def test_records_count_with_the_caches_and_stay_while_they_are_read(file: Path):
    found = write(file)
    assert [(cache.path, cache.held) for cache in list_caches(file.parent)] == [(file, True)]
    assert not remove_unused(file)
    del found
    assert remove_unused(file)


def test_records_give_way_to_what_is_written_now(file: Path, monkeypatch: pytest.MonkeyPatch):
    write(file)
    monkeypatch.setenv(LIMIT_VARIABLE, str(1.5 * file.stat().st_size / 1e9))
    other = records_file(file.parent, "1" * 32)
    write(other)
    assert names(file.parent) == [other.name]


def test_records_may_take_a_quarter_of_the_limit(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv(LIMIT_VARIABLE, "1")
    assert fits(250_000_000)
    assert not fits(250_000_001)
