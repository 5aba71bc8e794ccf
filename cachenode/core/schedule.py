"""When something is due again: after an interval, or as a cron expression says, in UTC.

Cron expressions are read by `cronsim`, with the rules of Debian's cron.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from datetime import UTC, datetime

from cronsim import CronSim, CronSimError

__all__ = ["Schedule", "parse_schedule"]

_INTERVAL = re.compile(r"\s*(\d+)\s*([smhd])\s*\Z")
_SECONDS = {"s": 1, "m": 60, "h": 3_600, "d": 86_400}
_RULE = 'must be an interval such as 30m, 6h or 1d, or a cron expression of five fields such as "0 3 * * *" (UTC)'


@dataclass(frozen=True, slots=True)
class Schedule:
    """A rule for when something is due. `parse_schedule` makes it.

    Attributes:
        every_s: The interval; 0 if there is a cron expression.
        cron: The expression, empty if there is an interval.
    """

    every_s: float = 0.0
    cron: str = ""

    def after(self, wall: float) -> float:
        """Return when it is due next after a time, both in seconds since 1970."""
        if not self.cron:
            return wall + self.every_s
        due: datetime = next(CronSim(self.cron, datetime.fromtimestamp(wall, tz=UTC)))
        return due.timestamp()


def parse_schedule(text: str) -> Schedule:
    """Return what a text stands for.

    Raises:
        ValueError: It is neither an interval nor a cron expression that is ever due.
    """
    match = _INTERVAL.match(text)
    if match is not None:
        seconds = int(match[1]) * _SECONDS[match[2]]
        if not 1 <= seconds <= 366 * 86_400:
            raise ValueError("must be an interval of 1s to 366d")
        return Schedule(every_s=float(seconds))
    if len(text.split()) != 5:
        raise ValueError(_RULE)
    try:
        next(CronSim(text, datetime(2024, 1, 1, tzinfo=UTC)))
    except (CronSimError, StopIteration):
        raise ValueError(_RULE) from None
    return Schedule(cron=" ".join(text.split()))
