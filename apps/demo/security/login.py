"""Whoever guesses passwords has to wait: failed logins are counted per address of the sender."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable

from apps.demo.security.rules import Refusal

LOGIN_TRIES = 10
LOGIN_SECONDS = 60.0


class LoginLimit:
    """Lets an address fail ten times a minute, and answers it with 429 from then on.

    Args:
        clock: tells seconds that never run backwards; for tests.

    A login counts from its beginning, so that many at the same time count too, until `succeeded` takes it
    back: somebody who knows one password does not get more guesses at another.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._tries: dict[str, deque[float]] = {}

    def begin(self, address: str) -> float:
        """Count a login from `address` and return its mark; refuse one too many."""
        now = self._clock()
        self._forget(now - LOGIN_SECONDS)
        tries = self._tries.setdefault(address, deque())
        if len(tries) >= LOGIN_TRIES:
            wait = int(tries[0] + LOGIN_SECONDS - now) + 1
            raise Refusal(429, f"Too many wrong passwords from this address; try again in {wait} s.")
        tries.append(now)
        return now

    def succeeded(self, address: str, mark: float) -> None:
        """Take a login back that was no failure."""
        tries = self._tries.get(address, deque())
        if mark in tries:
            tries.remove(mark)

    def _forget(self, before: float) -> None:
        for address, tries in list(self._tries.items()):
            while tries and tries[0] <= before:
                tries.popleft()
            if not tries:
                del self._tries[address]
