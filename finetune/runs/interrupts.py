"""A polite stop: the first Ctrl-C or SIGTERM asks the loop to save, a second Ctrl-C stops at once."""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Callable
from types import FrameType, TracebackType
from typing import Any

SIGNALS = (signal.SIGINT, signal.SIGTERM)
HANGUP = tuple(getattr(signal, name) for name in ("SIGHUP",) if hasattr(signal, name))  # Windows has none

_at_stop: list[Callable[[], None]] = []


def at_stop(call: Callable[[], None]) -> None:
    """Have `call` called at every signal that a `StopRequest` receives; it must return at once."""
    _at_stop.append(call)


class StopRequest:
    """While this context is open, `requested` turns true at the first SIGINT or SIGTERM.

    The loop looks at `requested` after each step, saves and leaves. A second SIGINT raises KeyboardInterrupt
    where the program stands; further SIGTERMs change nothing, because schedulers send several. The previous
    handlers come back when the context closes. Outside the main thread, where Python allows no handlers,
    `requested` stays false.

    A process forked inside the context leaves Ctrl-C to its parent and dies of SIGTERM as usual.

    Args:
        also: further signals to treat like SIGTERM, such as `HANGUP`, the end of the terminal; one that the
            program was started to ignore (nohup) stays ignored.
    """

    def __init__(self, also: tuple[signal.Signals, ...] = ()) -> None:
        self._numbers = (*SIGNALS, *also)
        self.requested = False
        self.signal_name = ""
        self._owner = os.getpid()
        self._former: dict[signal.Signals, Any] = {}

    def __enter__(self) -> StopRequest:
        self._owner = os.getpid()
        if threading.current_thread() is threading.main_thread():
            self._former = {
                number: signal.signal(number, self._receive)
                for number in self._numbers
                if number in SIGNALS or signal.getsignal(number) != signal.SIG_IGN
            }
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
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
