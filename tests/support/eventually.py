"""Waiting for something that others do, in their own time, without a guess at how long that takes."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable

__all__ = ["eventually"]

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
        assert time.monotonic() < limit, "it did not happen in time"
        await asyncio.sleep(_PAUSE_S)
