from __future__ import annotations

import time

import pytest

from cachenode.adapters import clock as module
from cachenode.adapters.clock import BootClock


def test_counts_suspended_time() -> None:
    """Where the system has a boot-time clock it is the one that is read. Scenario 65."""
    clock = BootClock()
    before = time.clock_gettime(time.CLOCK_BOOTTIME)
    now = clock.now()
    assert before <= now <= time.clock_gettime(time.CLOCK_BOOTTIME)


def test_falls_back_to_the_monotonic_clock(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where there is none it is the monotonic one."""
    monkeypatch.setattr(module, "_BOOTTIME", None)
    before = time.monotonic()
    assert before <= BootClock().now() <= time.monotonic()
