"""When the filter of a namespace is put together anew, and how: from what the nodes know, or from the origin's list."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Literal

from cachenode.core.schedule import Schedule

__all__ = ["Due", "Rebuilds"]

Due = Literal["", "merge", "list"]
"""What is due: nothing, a merge of what the nodes know and have saved, or a list of the origin's keys."""


@dataclass(slots=True)
class Rebuilds:
    """When the node that has a namespace's seat puts its filter together anew.

    At once if there is none, and after a change of view, since no filter says anything about keys that moved: first by
    a merge, which costs the origin nothing, and if that cannot be believed by a list. By a list when the schedule says
    so: one that was missed while no node ran is made up for. After a failure with a pause that grows. A list that
    nobody has scheduled comes no sooner after the last one than `_REST` times as long as that took: listing a large
    origin must not become all that it does.

    Args:
        schedule: For lists at fixed times.
    """

    schedule: Schedule
    _began_at: float = field(default=-math.inf, init=False)
    _free_at: float = field(default=-math.inf, init=False)
    _failed: int = field(default=0, init=False)
    _due_at: float | None = field(default=None, init=False)
    _view: int = field(default=0, init=False)
    _view_since: float = field(default=-math.inf, init=False)
    _refused: int = field(default=0, init=False)

    _REST = 10.0
    _CALM_S = 2.0
    _FIRST_PAUSE_S = 5.0
    _LONGEST_PAUSE_S = 300.0

    def due(self, now: float, wall: float, *, epoch: int, built: int, merges: bool = False) -> Due:
        """Return what should begin now.

        Args:
            now: The time on the node's clock.
            wall: The time of day, in seconds since 1970.
            epoch: Of the view in force.
            built: That under which the filter in use was begun, 0 without one.
            merges: Whether there is a store for what nodes save.
        """
        if epoch != self._view:
            self._view, self._view_since = epoch, now
        if self._due_at is None:
            self._due_at = self.schedule.after(wall)
        free = now >= self._free_at
        if wall >= self._due_at and free:
            return "list"
        if built == epoch or now < self._view_since + self._CALM_S:
            return ""
        if merges and self._refused != epoch:
            return "merge"
        return "list" if free else ""

    def begin(self, now: float, wall: float) -> None:
        """A list begins."""
        self._began_at, self._due_at = now, self.schedule.after(wall)

    def end(self, now: float, *, succeeded: bool) -> None:
        """It has ended."""
        took = now - self._began_at
        if succeeded:
            self._failed, self._free_at = 0, now + took * self._REST
        else:
            pause = min(self._LONGEST_PAUSE_S, self._FIRST_PAUSE_S * 2.0**self._failed)
            self._failed, self._free_at = self._failed + 1, now + max(pause, took)

    def merged(self, listed_at: float) -> None:
        """A merge was put in use, whose keys were listed at a time of day."""
        self._due_at = self.schedule.after(listed_at)

    def refused(self, epoch: int) -> None:
        """A merge for a view could not be believed."""
        self._refused = epoch
