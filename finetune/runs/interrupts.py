"""A polite stop: the first Ctrl-C or SIGTERM asks the loop to save, a second Ctrl-C stops at once."""

from __future__ import annotations

import atexit
import os
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from types import FrameType, TracebackType
from typing import Any

# What asks a program to end: schedulers send SIGTERM, SIGUSR1 or SIGUSR2, a closed terminal SIGHUP.
_NAMES = ("SIGTERM", "SIGHUP", "SIGUSR1", "SIGUSR2")
ENDINGS = tuple(getattr(signal, name) for name in _NAMES if hasattr(signal, name))  # Windows has the first
SIGNALS = (signal.SIGINT, *ENDINGS)

LOOK_SECONDS = 1.0  # between two looks at whether the parent is there
_PARENT = "CRL_PARENT"
AGAIN_SECONDS = 0.05  # until an interrupt that was swallowed is raised again

_open_requests: list[StopRequest] = []

_late: list[float] = []  # when a signal came to a program that was done

_at_stop: list[Callable[[], None]] = []


def at_stop(call: Callable[[], None]) -> None:
    """Have `call` called at every signal that a `StopRequest` receives; it must return at once."""
    _at_stop.append(call)


class StopRequest:
    """While this context is open, `requested` turns true at the first of `SIGNALS`.

    The loop looks at `requested` after each step, saves and leaves. A second SIGINT raises KeyboardInterrupt
    where the program stands; further ones of the others change nothing, because schedulers send several. The
    previous handlers come back when the context closes. Outside the main thread, where Python allows no
    handlers, `requested` stays false. A signal that the program was started to ignore (nohup) stays ignored.

    A process forked inside the context leaves Ctrl-C to its parent and dies of the others as usual.
    """

    def __init__(self) -> None:
        self.requested = False
        self.signal_name = ""
        self._owner = os.getpid()
        self._former: dict[signal.Signals, Any] = {}

    def __enter__(self) -> StopRequest:
        self._owner = os.getpid()
        if threading.current_thread() is threading.main_thread():
            self._former = {
                number: signal.signal(number, self._receive)
                for number in SIGNALS
                if number == signal.SIGINT or signal.getsignal(number) != signal.SIG_IGN
            }
        _open_requests.append(self)
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        _open_requests.remove(self)
        for number, handler in self._former.items():
            signal.signal(number, signal.SIG_DFL if handler is None else handler)
        self._former = {}

    def _receive(self, number: int, _frame: FrameType | None) -> None:
        if os.getpid() != self._owner:
            self._receive_in_child(number)
            return
        for call in _at_stop:
            call()
        if self.requested and number == signal.SIGINT:
            raise KeyboardInterrupt
        self.requested = True
        self.signal_name = signal.Signals(number).name

    def _receive_in_child(self, number: int) -> None:
        if number != signal.SIGINT:
            signal.signal(number, signal.SIG_DFL)
            os.kill(os.getpid(), number)


def stop_requested() -> bool:
    """Return whether any open `StopRequest` was asked: for those who wait deep inside the loop."""
    return any(request.requested for request in _open_requests)


def with_parent(environment: Mapping[str, str]) -> dict[str, str]:
    """Return the environment for a process of ours that `end_with_parent` ends when this one is gone."""
    return {**environment, _PARENT: str(os.getpid())}


def end_with_parent() -> None:
    """Ask this process to stop, as SIGTERM does, once the process that started it `with_parent` is gone."""
    parent = os.environ.pop(_PARENT, "")  # not for the processes that this one starts
    if not parent:
        return

    def watch() -> None:
        while os.getppid() == int(parent):
            time.sleep(LOOK_SECONDS)
        os.kill(os.getpid(), signal.SIGTERM)

    threading.Thread(target=watch, name="crl-parent", daemon=True).start()


@contextmanager
def ended_as_by_ctrl_c(*, for_good: bool = False) -> Iterator[None]:
    """Inside, SIGTERM and its like end the program as Ctrl-C does, temporary files removed.

    Those of them that are ignored (nohup) or handled stay so. A forked child dies of them as usual.

    With `for_good` the program only ends after it: a signal then no longer changes its exit code, unless a
    second one comes while threads are waited for.
    """
    if for_good:
        atexit.register(_ignore_endings)  # the first to be registered is the last to be called
    plain: list[signal.Signals] = []
    if threading.current_thread() is threading.main_thread():
        plain = [number for number in ENDINGS if signal.getsignal(number) is signal.SIG_DFL]
    owner = os.getpid()

    def interrupt(number: int, _frame: FrameType | None) -> None:
        if os.getpid() == owner:
            raise KeyboardInterrupt
        signal.signal(number, signal.SIG_DFL)
        os.kill(os.getpid(), number)

    for number in plain:
        signal.signal(number, interrupt)
    try:
        with _swallowed_interrupts_come_again():
            yield
    finally:
        for number in plain:
            signal.signal(number, signal.SIG_DFL if not for_good else _end_at_the_second)
        if for_good and signal.getsignal(signal.SIGINT) is signal.default_int_handler:
            signal.signal(signal.SIGINT, _end_at_the_second)


def _end_at_the_second(_number: int, _frame: FrameType | None) -> None:
    """Let one signal pass while a program that is done ends; one more ends it at once."""
    if _late:
        os._exit(130)
    _late.append(time.monotonic())


def _ignore_endings() -> None:
    """Ignore, while the interpreter itself ends, what would end the program."""
    if threading.current_thread() is threading.main_thread():
        for number in SIGNALS:
            signal.signal(number, signal.SIG_IGN)


@contextmanager
def _swallowed_interrupts_come_again() -> Iterator[None]:
    """Inside, a KeyboardInterrupt raised where Python ignores exceptions is raised again a moment later.

    A signal may come while a finaliser or the callback of a weak reference runs, and Python goes on after
    these whatever they raise. The system's timer brings it back: a thread could not be started from there.
    """
    usable = threading.current_thread() is threading.main_thread() and hasattr(signal, "setitimer")
    if not usable or signal.getsignal(signal.SIGALRM) is not signal.SIG_DFL:
        yield
        return
    owner, former = os.getpid(), sys.unraisablehook

    def heed(lost: Any) -> None:
        if os.getpid() == owner and issubclass(lost.exc_type, KeyboardInterrupt):
            signal.setitimer(signal.ITIMER_REAL, AGAIN_SECONDS)
        else:
            former(lost)

    signal.signal(signal.SIGALRM, signal.default_int_handler)
    sys.unraisablehook = heed
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        sys.unraisablehook = former
        signal.signal(signal.SIGALRM, signal.SIG_DFL)
