"""The calls that a page begins with: who is asked, what the caller may do, and the ring."""

from __future__ import annotations

from typing import Any

from cachenode import __version__
from cachenode.console.fleet import Fleet
from cachenode.console.guard import Caller, Guard
from cachenode.console.picture import ring_document
from cachenode.console.requests import Body

__all__ = ["OverviewCalls"]


class OverviewCalls:
    """Answers them.

    Args:
        fleet: The members.
        guard: Knows what callers may do.
        cluster: Name of the cluster.
    """

    def __init__(self, fleet: Fleet, guard: Guard, cluster: str) -> None:
        self._fleet = fleet
        self._guard = guard
        self._cluster = cluster

    async def session(self, caller: Caller, body: Body) -> dict[str, Any]:
        """Return who answers, and what the caller may do."""
        why_not = self._guard.why_not_change(caller)
        return {
            "node": self._fleet.me,
            "version": __version__,
            "cluster": self._cluster,
            "asks_for_token": self._guard.asks,
            "name": caller.name,
            "role": caller.role.name.lower() if caller.role is not None else "",
            "may_change": not why_not,
            "why_not": why_not,
        }

    async def ring(self, caller: Caller, body: Body) -> dict[str, Any]:
        """Return who owns which part of the ring."""
        return ring_document(self._fleet.view)
