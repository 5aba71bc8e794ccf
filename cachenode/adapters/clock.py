"""The clock of a running node."""

from __future__ import annotations

import time

__all__ = ["BootClock"]

_BOOTTIME: int | None = getattr(time, "CLOCK_BOOTTIME", None)


class BootClock:
    """Seconds since boot, counting the time the machine was suspended.

    A monotonic clock that stands still during a suspend would let a node that wakes up believe in leases that others
    have long given away. Where there is no such clock (macOS) it is the monotonic one.
    """

    __slots__ = ()

    def now(self) -> float:
        """Return seconds since an arbitrary point."""
        if _BOOTTIME is None:
            return time.monotonic()
        return time.clock_gettime(_BOOTTIME)
