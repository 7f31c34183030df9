"""The suite's own machinery: workers, turns, order, and skips without leave."""

from __future__ import annotations

import os
import subprocess
import sys
from itertools import pairwise
from pathlib import Path
from types import SimpleNamespace

import pytest

from tests.parallel import shuffled, worker_count
from tests.skips import ALLOWED, Skips, on_ci, read_patterns, reason_of

ROOT = Path(__file__).resolve().parents[1]
INI = (
    "[pytest]\naddopts = -q -p xdist -p no:cacheprovider\nmarkers =\n  alone: no other test runs meanwhile\n"
)
TURNS = """
import os, time
from pathlib import Path
import pytest

@pytest.fixture(autouse=True)
def noted(request):
    kind, begin = request.node.name.split("[")[0], time.monotonic()
    yield
    time.sleep(0.02)
    with Path("log").open("a") as log:
        log.write(f"{kind} {begin} {time.monotonic()}\\n")

@pytest.mark.parametrize("number", range(30))
def test_together(number):
    pass

MARK
@pytest.mark.parametrize("number", range(6))
def test_alone(number):
    pass

@pytest.mark.parametrize("number", range(30))
def test_together_too(number):
    pass
"""
SKIPPING = """
import pytest

def test_fine():
    pass

def test_left_out():
    pytest.skip("needs a unicorn")

@pytest.mark.xfail(reason="not today")
def test_wrong():
    assert False
"""
NOT_THERE = "import pytest\npytest.importorskip('no_such_module')\ndef test_it():\n    pass\n"


def suite(folder: Path, content: str, *words: str, ci: str = "") -> subprocess.CompletedProcess[str]:
    """Run a suite of one file under this one's conftest."""
    (folder / "conftest.py").write_text("from tests.conftest import *\n")
    (folder / "pytest.ini").write_text(INI)
    (folder / "test_some.py").write_text(content)
    command = [sys.executable, "-m", "pytest", f"--basetemp={folder / 'tmp'}", *words]
    environment = {name: value for name, value in os.environ.items() if not name.startswith("PYTEST")}
    environment |= {"CI": ci, "PYTHONPATH": str(ROOT), "PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1"}
    return subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, check=False)


@pytest.mark.parametrize(
    ("cores", "quota", "gigabytes", "expected"),
    [
        (2, None, 24, 2),
        (64, 2.0, 24, 2),
        (64, None, 13, 4),
        (1, None, 24, 0),
        (2, None, 4, 0),
        (8, 1.5, 99, 0),
    ],
)
def test_as_many_workers_as_cores_quota_and_memory_allow(cores, quota, gigabytes, expected):
    assert worker_count(cores, quota, gigabytes * 1e9) == expected


@pytest.mark.parametrize(("mark", "meets"), [("@pytest.mark.alone", False), ("", True)])
def test_nothing_else_runs_while_a_test_alone_does(tmp_path, mark, meets):
    done = suite(tmp_path, TURNS.replace("MARK", mark), "-n", "2")
    assert done.returncode == 0, done.stdout + done.stderr
    spans = [
        (name, float(begin), float(end))
        for name, begin, end in (line.split() for line in (tmp_path / "log").read_text().splitlines())
    ]
    assert len(spans) == 66
    alone = [span for span in spans if span[0] == "test_alone"]
    met = [
        one
        for one in alone
        for other in spans
        if other is not one and one[1] < other[2] and other[1] < one[2]
    ]
    assert bool(met) == meets
    others = sorted(span[1:] for span in spans if span[0] != "test_alone")
    assert any(second[0] < first[1] for first, second in pairwise(others))


def test_a_shuffle_keeps_files_together_and_changes_both_orders():
    items = [SimpleNamespace(path=f"file{number // 10}", number=number) for number in range(100)]
    mixed = shuffled(items, 3)
    assert sorted(item.number for item in mixed) == list(range(100))
    assert [item.path for item in mixed][::10] == [item.path for item in mixed][9::10]
    assert [item.path for item in mixed] != [item.path for item in items]
    assert [item.number for item in mixed[:10]] != sorted(item.number for item in mixed[:10])
    assert shuffled(items, 3) == mixed != shuffled(items, 4)


@pytest.mark.parametrize("workers", ["0", "2"])
def test_on_ci_a_skip_without_leave_fails_the_run(tmp_path, workers):
    (tmp_path / "test_other.py").write_text(NOT_THERE)
    done = suite(tmp_path, SKIPPING, "-n", workers, ci="true")
    assert done.returncode == 1
    assert "1 x needs a unicorn" in done.stdout
    assert "1 x xfail: not today" in done.stdout
    assert "1 x could not import 'no_such_module'" in done.stdout


def test_elsewhere_a_skip_is_no_failure(tmp_path):
    done = suite(tmp_path, SKIPPING)
    assert (done.returncode, "without leave" in done.stdout) == (0, False)


def skipped(reason: str) -> SimpleNamespace:
    return SimpleNamespace(skipped=True, longrepr=("file.py", 3, f"Skipped: {reason}"))


def test_a_listed_reason_is_leave():
    watch = Skips(["needs a *", "exactly this"])
    for reason in ("needs a unicorn", "exactly this"):
        watch.pytest_runtest_logreport(skipped(reason))
    watch.pytest_runtest_logreport(SimpleNamespace(skipped=False))
    assert not watch.unlisted
    watch.pytest_runtest_logreport(skipped("exactly this and more"))
    watch.pytest_collectreport(skipped("needs an elephant"))
    assert set(watch.unlisted) == {"exactly this and more", "needs an elephant"}


def test_a_reason_is_what_was_told():
    assert reason_of(skipped("no  card\nhere")) == "no card here"
    assert reason_of(SimpleNamespace(skipped=True, longrepr="xfail", wasxfail="one day")) == "xfail: one day"
    assert reason_of(SimpleNamespace(skipped=False, wasxfail="it passes")) == "xfail: it passes"


def test_the_list_holds_reasons_and_no_pattern_that_allows_everything():
    patterns = read_patterns()
    assert patterns == sorted(set(patterns), key=patterns.index)
    assert all(len(pattern.replace("*", "").split()) >= 2 for pattern in patterns), ALLOWED


@pytest.mark.parametrize(("value", "asked"), [("true", True), ("1", True), ("", False), ("false", False)])
def test_ci_is_what_the_variable_says(monkeypatch, value, asked):
    monkeypatch.setenv("CI", value)
    assert on_ci() == asked
