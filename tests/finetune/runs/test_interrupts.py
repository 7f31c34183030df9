from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
import weakref
from collections.abc import Iterator
from pathlib import Path

import pytest

from finetune.runs import interrupts
from finetune.runs.interrupts import ENDINGS, StopRequest, ended_as_by_ctrl_c, stop_requested

ROOT = Path(__file__).resolve().parents[3]

pytestmark = pytest.mark.usefixtures("as_in_a_terminal")


@pytest.mark.parametrize("number", [signal.SIGINT, *ENDINGS])
def test_the_first_signal_only_asks(number: signal.Signals) -> None:
    with StopRequest() as stop:
        assert not stop.requested
        os.kill(os.getpid(), number)
        assert stop.requested
        assert stop.signal_name == number.name
        assert stop_requested()
    assert not stop_requested()


def test_what_schedulers_and_terminals_send_is_known() -> None:
    assert {number.name for number in ENDINGS} == {"SIGTERM", "SIGHUP", "SIGUSR1", "SIGUSR2"}
    with StopRequest():
        assert signal.SIG_DFL not in map(signal.getsignal, ENDINGS)
    assert {signal.getsignal(number) for number in ENDINGS} == {signal.SIG_DFL}


def test_under_nohup_the_end_of_the_terminal_stays_ignored() -> None:
    signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        with StopRequest() as stop:
            os.kill(os.getpid(), signal.SIGHUP)
            assert not stop.requested
    finally:
        signal.signal(signal.SIGHUP, signal.SIG_DFL)


def press_control_c_twice() -> None:
    with StopRequest() as stop:
        os.kill(os.getpid(), signal.SIGINT)
        assert stop.requested
        os.kill(os.getpid(), signal.SIGINT)


def test_a_second_interrupt_stops_at_once() -> None:
    with pytest.raises(KeyboardInterrupt):
        press_control_c_twice()


def test_a_second_termination_changes_nothing() -> None:
    with StopRequest() as stop:
        os.kill(os.getpid(), signal.SIGTERM)
        os.kill(os.getpid(), signal.SIGTERM)
        assert stop.requested


def test_the_former_handlers_come_back_also_after_an_error() -> None:
    former = [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)]
    with pytest.raises(ZeroDivisionError), StopRequest() as stop:
        _ = 1 / int(stop.requested)
    assert [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)] == former


def test_requests_nest() -> None:
    with StopRequest() as outer:
        with StopRequest() as inner:
            os.kill(os.getpid(), signal.SIGINT)
        assert (inner.requested, outer.requested) == (True, False)
        os.kill(os.getpid(), signal.SIGINT)
        assert outer.requested


def test_outside_the_main_thread_nothing_is_installed() -> None:
    seen: list[bool] = []

    def work() -> None:
        with StopRequest() as stop:
            seen.append(stop.requested)

    former = signal.getsignal(signal.SIGINT)
    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert seen == [False]
    assert signal.getsignal(signal.SIGINT) is former


def test_a_forked_process_ignores_control_c_and_dies_of_termination() -> None:
    with StopRequest() as stop:
        child = os.fork()
        if child == 0:
            os.kill(os.getpid(), signal.SIGINT)
            os.kill(os.getpid(), signal.SIGINT)
            os.kill(os.getpid(), signal.SIGTERM)
            os._exit(0)
        _, status = os.waitpid(child, 0)
        assert os.WTERMSIG(status) == signal.SIGTERM
        assert not stop.requested


class Finalised:
    """What a signal arrives at the end of."""

    def __init__(self, number: signal.Signals) -> None:
        self.number = number

    def __del__(self) -> None:
        os.kill(os.getpid(), self.number)


def interrupted_by(number: signal.Signals, where: str) -> bool:
    """Return whether a command hears of a signal that came where Python ignores exceptions."""
    left = Finalised(number) if where == "finaliser" else type("Left", (), {})()
    told = weakref.ref(left, lambda _: os.kill(os.getpid(), number)) if where == "weak reference" else None
    try:
        with ended_as_by_ctrl_c():
            del left
            time.sleep(2)
    except KeyboardInterrupt:
        return told is None or told() is None
    return False


@pytest.fixture
def _free_alarm() -> Iterator[None]:
    """Let the test have the system's timer, which the time limit of tests uses."""
    handler, timer = signal.signal(signal.SIGALRM, signal.SIG_DFL), signal.setitimer(signal.ITIMER_REAL, 0)
    yield
    signal.signal(signal.SIGALRM, handler)
    signal.setitimer(signal.ITIMER_REAL, *timer)


@pytest.mark.usefixtures("_free_alarm")
@pytest.mark.parametrize("where", ["finaliser", "weak reference"])
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_an_interrupt_that_a_finaliser_swallows_comes_again(
    number: signal.Signals, where: str, capsys: pytest.CaptureFixture[str]
) -> None:
    before = sys.unraisablehook, signal.getsignal(signal.SIGALRM)
    assert interrupted_by(number, where)
    assert (sys.unraisablehook, signal.getsignal(signal.SIGALRM)) == before
    assert signal.getitimer(signal.ITIMER_REAL) == (0, 0)
    assert capsys.readouterr().err == ""


def test_other_exceptions_of_finalisers_are_told_as_ever(monkeypatch: pytest.MonkeyPatch) -> None:
    class Failing:
        def __del__(self) -> None:
            raise ZeroDivisionError

    told: list[type[BaseException]] = []
    monkeypatch.setattr(sys, "unraisablehook", lambda lost: told.append(lost.exc_type))
    with ended_as_by_ctrl_c():
        Failing()
    assert told == [ZeroDivisionError]


ORPHAN = """
import os, subprocess, sys, time
from finetune.runs import interrupts
interrupts.LOOK_SECONDS = 0.05
if len(sys.argv) == 1:
    own = interrupts.with_parent(os.environ)
    subprocess.Popen([sys.executable, "-c", sys.orig_argv[2], "child"], env=own)
    time.sleep(60)
with interrupts.StopRequest() as stop:
    interrupts.end_with_parent()
    print("ready", flush=True)
    while not stop.requested:
        time.sleep(0.02)
print("asked by", stop.signal_name, interrupts._PARENT in os.environ, flush=True)
"""


def test_a_process_whose_parent_was_killed_is_asked_to_stop() -> None:
    parent = subprocess.Popen([sys.executable, "-c", ORPHAN], cwd=ROOT, stdout=subprocess.PIPE, text=True)
    assert parent.stdout is not None
    assert parent.stdout.readline() == "ready\n"
    parent.kill()
    assert parent.stdout.readline() == "asked by SIGTERM False\n"
    parent.communicate()


def test_a_process_that_nobody_started_so_follows_nobody(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(interrupts._PARENT, raising=False)
    before = threading.active_count()
    interrupts.end_with_parent()
    assert threading.active_count() == before


LATE = """
import os, signal, sys
from finetune.runs.interrupts import SIGNALS, ended_as_by_ctrl_c

class Last:
    def __del__(self, kill=os.kill, here=os.getpid(), all=SIGNALS):
        for number in all:
            kill(here, number)

with ended_as_by_ctrl_c(for_good=True):
    last = sys.last = Last()
for number in sys.argv[1:]:
    os.kill(os.getpid(), int(number))
del last
"""


@pytest.mark.parametrize(
    ("signals", "code"), [([], 0), (["SIGHUP"], 0), (["SIGINT"], 0), (["SIGTERM", "SIGINT"], 130)]
)
def test_a_signal_at_the_very_end_changes_no_exit_code(signals: list[str], code: int):
    numbers = [str(int(getattr(signal, name))) for name in signals]
    ended = subprocess.run(
        [sys.executable, "-c", LATE, *numbers], capture_output=True, text=True, check=False
    )
    assert (ended.returncode, ended.stdout, ended.stderr) == (code, "", "")
