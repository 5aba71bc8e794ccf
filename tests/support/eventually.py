"""Waiting for something that others do, in their own time, without a guess at how long that takes."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable

__all__ = ["eventually"]

_PAUSE_S = 0.005


async def eventually(check: Callable[[], object], *, within_s: float = 10.0) -> None:
    """Return as soon as the check is true; fail when it has not been so within the time."""
    limit = time.monotonic() + within_s
    while not check():
        assert time.monotonic() < limit, "it did not happen in time"
        await asyncio.sleep(_PAUSE_S)
