from __future__ import annotations

import errno
import os
import resource
import sys

import pytest

from finetune.cli import environment
from finetune.cli.environment import refusal, refused


@pytest.mark.parametrize(
    ("error", "code", "remedy"),
    [
        (
            OSError(errno.EMFILE, os.strerror(errno.EMFILE), "a.jpg"),
            5,
            "a.jpg: Too many open files.*ulimit -n",
        ),
        (OSError(errno.ENFILE, os.strerror(errno.ENFILE)), 5, "end other programs"),
        (OSError(errno.EAGAIN, os.strerror(errno.EAGAIN)), 5, "ulimit -u"),
        (MemoryError("Unable to allocate 3 GiB"), 5, "Unable to allocate 3 GiB.*ulimit -v"),
        (RuntimeError("can't start new thread"), 5, "ulimit -u"),
        (RuntimeError("received 0 items of ancdata"), 5, "ulimit -n"),
        (RuntimeError("DataLoader worker (pid 7) is killed by signal: Killed. "), 5, "--run.workers 0"),
        (RuntimeError("unable to allocate shared memory(shm) for file </torch_1>"), 5, "--shm-size"),
        (ImportError("libtorch.so: failed to map segment from shared object"), 5, "ulimit -v"),
        (UnicodeEncodeError("utf-8", "b\udce4r.jpg", 1, 2, "surrogates not allowed"), 3, "PYTHONUTF8=1"),
        (UnicodeEncodeError("ascii", "bär.jpg", 1, 2, "ordinal not in range"), 3, "LC_ALL=C.UTF-8"),
    ],
)
def test_what_a_machine_refuses_is_a_sentence_with_a_code(error: Exception, code: int, remedy: str):
    found = refusal(error)
    assert found is not None
    assert found.exit_code == code
    with pytest.raises(type(found), match=remedy):
        raise found


@pytest.mark.parametrize(("room", "named"), [(2**20, "ulimit -v"), (2**40, "ulimit -u"), (None, "ulimit -u")])
def test_a_thread_that_cannot_start_names_the_limit_that_it_met(monkeypatch, room: int | None, named: str):
    limit = resource.RLIM_INFINITY if room is None else environment.address_space() + room
    monkeypatch.setattr(
        resource, "getrlimit", lambda kind: (limit, limit) if kind == resource.RLIMIT_AS else ()
    )
    for error in (RuntimeError("can't start new thread"), OSError(errno.EAGAIN, "again")):
        assert named in str(refusal(error))


def test_a_system_without_such_limits_names_the_usual_one(monkeypatch):
    monkeypatch.setitem(sys.modules, "resource", None)  # as on Windows
    assert "ulimit -u" in str(refusal(RuntimeError("can't start new thread")))


@pytest.mark.parametrize(
    "error",
    [RuntimeError("shapes differ"), ValueError("no"), ImportError("No module named x"), KeyError("a")],
)
def test_a_mistake_of_ours_stays_one(error: Exception):
    assert refusal(error) is None


def test_a_place_that_cannot_be_written_gets_the_old_remedy():
    assert refused(PermissionError(13, "Permission denied", "/far")).startswith(
        "/far: Permission denied. Choose a place with room"
    )
