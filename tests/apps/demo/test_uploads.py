import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from apps.demo.uploads import PREFIX, Janitor, UploadFolder, remove_stale

DEMO = """
import sys, time
from pathlib import Path
from apps.demo.uploads import UploadFolder
folder = UploadFolder(Path(sys.argv[1]))
(folder.path / "picture.png").write_bytes(b"x")
print(folder.path, flush=True)
{}
"""


@pytest.fixture
def folder(tmp_path):
    with UploadFolder(tmp_path) as folder:
        yield folder


def start(parent: Path, rest: str) -> tuple[subprocess.Popen, Path]:
    """Start a program that makes a folder in `parent`, puts an image there, and goes on with `rest`."""
    program = subprocess.Popen(
        [sys.executable, "-c", DEMO.format(rest), str(parent)], stdout=subprocess.PIPE, text=True
    )
    return program, Path(program.stdout.readline().strip())


def test_the_folder_is_private_and_goes_with_its_context(tmp_path):
    with UploadFolder(tmp_path) as folder:
        assert folder.path.name.startswith(f"{PREFIX}{os.getpid()}-")
        assert folder.path.stat().st_mode & 0o777 == 0o700
        file = folder.new_file("table.csv")
        file.write_text("a")
        assert file.name == "table.csv"
        assert folder.size() == 1
    assert list(tmp_path.iterdir()) == []


def test_the_folder_goes_with_its_context_when_an_error_leaves_it(tmp_path):
    with pytest.raises(FileExistsError), UploadFolder(tmp_path) as folder:
        folder.path.mkdir()
    assert list(tmp_path.iterdir()) == []


def test_the_end_of_the_program_removes_the_folder(tmp_path):
    program, path = start(tmp_path, "sys.exit(3)")
    assert program.wait(10) == 3
    assert not path.exists()
    program.stdout.close()


@pytest.mark.alone
def test_sigterm_turned_into_a_clean_end_removes_the_folder(tmp_path):
    wait = "from finetune.runs.interrupts import StopRequest\nwith StopRequest() as stop:\n"
    wait += "    print('ready', flush=True)\n    while not stop.requested: time.sleep(0.01)"
    program, path = start(tmp_path, wait)
    assert program.stdout.readline() == "ready\n"
    assert (path / "picture.png").exists()
    program.send_signal(signal.SIGTERM)
    assert program.wait(10) == 0
    assert list(tmp_path.iterdir()) == []
    program.stdout.close()


@pytest.mark.alone
def test_a_killed_demos_folder_goes_at_the_next_start_and_a_living_ones_stays(tmp_path):
    killed, left = start(tmp_path, "time.sleep(60)")
    living, kept = start(tmp_path, "time.sleep(60)")
    killed.kill()
    killed.wait(10)
    assert (left / "picture.png").exists()
    with UploadFolder(tmp_path):
        assert not left.exists()
        assert (kept / "picture.png").exists()
    living.kill()
    living.wait(10)
    killed.stdout.close()
    living.stdout.close()


def test_stale_means_a_folder_of_that_name_and_no_link(tmp_path):
    precious = tmp_path / "precious"
    precious.mkdir()
    (precious / "thesis.tex").write_text("x")
    home = tmp_path / "tmp"
    home.mkdir()
    dead = 2**22 + 1  # above the largest process number
    (home / f"{PREFIX}{dead}-abc").mkdir()
    (home / f"{PREFIX}{dead}-abc" / "inside").symlink_to(precious)
    (home / f"{PREFIX}{dead}-link").symlink_to(precious)
    (home / f"{PREFIX}{dead}-file").write_text("x")
    (home / f"{PREFIX}own-notes").mkdir()
    assert [path.name for path in remove_stale(home)] == [f"{PREFIX}{dead}-abc"]
    assert (precious / "thesis.tex").exists()
    assert len(list(home.iterdir())) == 3


def test_a_folder_of_a_living_process_without_its_lock_is_stale_only_when_old(tmp_path):
    folder = tmp_path / f"{PREFIX}{os.getpid()}-abc"
    folder.mkdir()
    assert remove_stale(tmp_path) == []
    os.utime(folder, (time.time() - 3600, time.time() - 3600))
    assert remove_stale(tmp_path) == [folder]


def test_owns_only_plain_files_strictly_inside(folder, tmp_path):
    secret = tmp_path / "secret.png"
    secret.write_text("x")
    own = folder.path / "abc" / "picture.png"
    own.parent.mkdir()
    own.write_text("x")
    assert folder.owns(own)
    assert folder.owns(str(own))
    link, hard, way = folder.path / "link.png", folder.path / "hard.png", folder.path / "way"
    link.symlink_to(secret)
    os.link(secret, hard)
    way.symlink_to(tmp_path)
    inner = folder.path / "inner.png"
    inner.symlink_to(own)
    refused = [link, hard, way / "secret.png", inner, secret, own.parent, folder.path, own.with_name("none")]
    refused += [f"{folder.path}/../secret.png", f"{own.parent}/../abc/picture.png", f"{folder.path}-2/x.png"]
    refused += ["", "picture.png", "\0", f"{own}\0", f"{own}/", f"/{own}", "/" + "x" * 5000, "/etc/passwd"]
    assert [path for path in refused if folder.owns(path)] == []


def test_the_janitor_removes_what_is_old_and_keeps_what_is_new(folder):
    now = [time.time()]
    janitor = Janitor(folder.path, keep_minutes=10, clock=lambda: now[0])
    old = folder.path / "abc" / "old.png"
    old.parent.mkdir()
    old.write_text("x")
    assert janitor.sweep() == 0
    now[0] += 569
    assert janitor.sweep() == 0
    now[0] += 2  # the next sweep, in half a minute, would be too late
    assert janitor.sweep() == 1
    assert not old.exists()


def test_the_janitor_removes_folders_once_they_are_empty_and_old(folder):
    now = [time.time()]
    janitor = Janitor(folder.path, keep_minutes=10, clock=lambda: now[0])
    (folder.path / "a" / "b").mkdir(parents=True)
    janitor.sweep()
    assert (folder.path / "a" / "b").exists()
    now[0] += 601
    janitor.sweep()  # the inner one; that changes the outer one's date to the real present
    assert list(folder.path.iterdir()) == []


def test_a_file_with_an_old_date_counts_from_its_arrival(folder):
    copied = folder.path / "example.png"
    copied.write_text("x")
    os.utime(copied, (0, 0))
    assert Janitor(folder.path, keep_minutes=1).sweep() == 0


def test_a_result_goes_with_the_upload_that_it_was_made_of(folder):
    now = time.time()
    results = [folder.new_file(name) for name in ("old.csv", "new.csv")]
    for result, age in zip(results, (595, 5), strict=True):
        result.write_text("x")
        os.utime(result, (now - age, now - age))
    assert Janitor(folder.path, keep_minutes=10).sweep() == 1
    assert [result.exists() for result in results] == [False, True]


def test_a_clock_set_back_does_not_keep_files_for_ever(folder):
    (folder.path / "a.png").write_text("x")
    assert Janitor(folder.path, keep_minutes=10, clock=lambda: time.time() - 3600).sweep() == 1


def test_the_janitor_outlives_what_it_cannot_remove_and_says_it_once(folder, monkeypatch, capsys):
    (folder.path / "a.png").write_text("x")
    janitor = Janitor(folder.path, keep_minutes=10, clock=lambda: time.time() + 3600)

    def refuse(self):
        raise PermissionError(13, "Permission denied", "a.png")

    monkeypatch.setattr(Path, "unlink", refuse)
    assert janitor.sweep() == 0
    assert janitor.sweep() == 0
    assert capsys.readouterr().out.count("could not be removed yet") == 1
    monkeypatch.undo()
    assert janitor.sweep() == 1


@pytest.mark.alone
def test_the_thread_sweeps_by_itself_and_stops(folder):
    file = folder.path / "a.png"
    file.write_text("x")
    with Janitor(folder.path, keep_minutes=10, clock=lambda: time.time() + 3600, pause=0.01) as janitor:
        deadline = time.monotonic() + 5
        while file.exists() and time.monotonic() < deadline:
            time.sleep(0.01)
    assert not file.exists()
    assert not janitor.is_alive()


def test_the_janitor_does_not_mind_a_folder_that_is_gone(tmp_path):
    assert Janitor(tmp_path / "none", keep_minutes=1).sweep() == 0
