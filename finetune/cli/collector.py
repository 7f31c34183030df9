"""Python's garbage collector while a program starts: half a million objects are imported, none is garbage.

The collector looks at new objects after every 700 of them, and at all there are from time to time. While
libraries are imported and tables are read it finds nothing, and takes a fifth of the time. So a program
starts with the collector slowed down, and training begins with it as usual.
"""

from __future__ import annotations

import gc

STARTING = 100_000  # new objects between two looks

_usual: list[tuple[int, int, int]] = []


def collect_rarely() -> None:
    """Let the collector look rarely until `collect_as_usual` is called; for programs, before they import."""
    if not _usual:
        _usual.append(gc.get_threshold())
        gc.set_threshold(STARTING, *_usual[0][1:])


def collect_as_usual() -> None:
    """Let the collector look as often as before `collect_rarely`."""
    if _usual:
        gc.set_threshold(*_usual.pop())
