"""Runs of a network that a signal ends: between two of its operators, not after the last one."""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from queue import SimpleQueue
from typing import Any

from finetune.errors import InterruptedRunError
from finetune.runs.interrupts import at_stop

GRACE_SECONDS = 0.5  # most batches are done in this time, and their answers are kept
LAST_SECONDS = 1.0  # that an operator may take to end

_lock = threading.Lock()
_at_work: list[Any] = []
_watched: list[SimpleQueue[list[Any]]] = []  # one, once anything ran; its `put` may interrupt itself


def run_endable(session: Any, options: Any, names: Sequence[str], feed: Mapping[str, Any]) -> Any:
    """Return what a session of ONNX Runtime answers; a signal ends it early.

    Args:
        session: the session.
        options: new run options, of this run alone.
        names: the outputs asked for.
        feed: the inputs by name.

    Raises InterruptedRunError where a `StopRequest` or Ctrl-C ended it, and what the runtime raises.
    """
    with _noted(options):
        try:
            if threading.current_thread() is threading.main_thread():
                return _run_beside(session, options, names, feed)
            return session.run(names, feed, options)
        except Exception as error:
            if options.terminate:
                raise InterruptedRunError("stopped by a signal while a network was at work") from error
            raise


@contextmanager
def _noted(options: Any) -> Iterator[None]:
    with _lock:
        if not _watched:
            asked: SimpleQueue[list[Any]] = SimpleQueue()
            _watched.append(asked)
            threading.Thread(target=_end_what_is_asked, args=(asked,), name="crl-end", daemon=True).start()
            os.register_at_fork(after_in_child=_watched.clear)  # the thread stays with the parent
            at_stop(_end_soon)
        _at_work.append(options)
    try:
        yield
    finally:
        with _lock:
            _at_work.remove(options)


def _end_soon() -> None:
    """Have ended what is at work now and still is after the time of grace.

    Without a lock and without a new thread: whoever holds one may be the one that the signal interrupted.
    """
    for asked in _watched:
        asked.put(list(_at_work))


def _end_what_is_asked(asked: SimpleQueue[list[Any]]) -> None:
    while True:
        found = asked.get()
        time.sleep(GRACE_SECONDS)
        for options in found:
            options.terminate = True


def _run_beside(session: Any, options: Any, names: Sequence[str], feed: Mapping[str, Any]) -> Any:
    """Run in a thread of its own: signals reach the main thread only while it waits in Python."""
    found: list[Any] = []
    failed: list[BaseException] = []

    def work() -> None:
        try:
            found.append(session.run(names, feed, options))
        except BaseException as error:  # raised again by the one who waits
            failed.append(error)

    thread = threading.Thread(target=work, name="crl-run", daemon=True)
    thread.start()
    try:
        thread.join()
    except BaseException:
        options.terminate = True
        thread.join(LAST_SECONDS)
        raise
    if failed:
        raise failed[0]
    return found[0]
