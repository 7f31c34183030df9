from __future__ import annotations

import pytest

from apps.demo.security.login import LOGIN_TRIES, LoginLimit
from apps.demo.security.rules import Refusal


def fail(limit, address, times):
    for _ in range(times):
        limit.begin(address)


def test_ten_failures_a_minute_and_not_one_more():
    now = [100.0]
    limit = LoginLimit(lambda: now[0])
    fail(limit, "10.0.0.5", LOGIN_TRIES)
    with pytest.raises(Refusal, match=r"try again in 61 s") as caught:
        limit.begin("10.0.0.5")
    assert caught.value.status == 429
    limit.begin("10.0.0.6")  # somebody else
    now[0] += 61
    limit.begin("10.0.0.5")


def test_what_succeeds_is_no_failure_and_forgives_none():
    limit = LoginLimit(lambda: 1.0)
    fail(limit, "a", LOGIN_TRIES - 1)
    for _ in range(50):
        limit.succeeded("a", limit.begin("a"))
    limit.begin("a")
    with pytest.raises(Refusal):
        limit.begin("a")


def test_old_addresses_are_forgotten():
    now = [0.0]
    limit = LoginLimit(lambda: now[0])
    for number in range(1000):
        limit.begin(str(number))
    now[0] += 100
    limit.begin("new")
    assert list(limit._tries) == ["new"]
