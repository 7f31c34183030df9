from __future__ import annotations

import os
import signal
import threading

import pytest

from finetune.runs.interrupts import ENDINGS, StopRequest, stop_requested

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
