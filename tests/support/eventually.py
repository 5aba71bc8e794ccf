"""Waiting for something that others do, in their own time, without a guess at how long that takes."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable

__all__ = ["assert_within", "eventually"]

_PAUSE_S = 0.005


async def eventually(check: Callable[[], object], *, within_s: float = 10.0) -> None:
    """Return as soon as the check, or what it waits for, is true; fail when it has not been so within the time."""
    limit = time.monotonic() + within_s
    while True:
        found = check()
        if isinstance(found, Awaitable):
            found = await found
        if found:
            return
        assert time.monotonic() < limit, f"it did not happen: not within {within_s:g} s"
        await asyncio.sleep(_PAUSE_S)


def assert_within(took_s: float, most_s: float, what: str) -> None:
    """Fail if something took too long, in the words by which the runner knows what may be for want of processors."""
    assert took_s <= most_s, f"{what}: {took_s:.3f} s, not within {most_s:g} s"
