"""The background duties of a node, each in slices short enough for nobody to notice.

One task does all of them in turn: expired entries, moved entries and their hand-over, silent sessions, the return of
L2. A duty that fails is logged and tried again at the next tick; none can stop the others.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Awaitable, Callable

import structlog

from cachenode.core.clock_steps import ClockSteps
from cachenode.node.service import Node
from cachenode.node.warm_duties import WarmDuties

__all__ = ["Loops"]

_log = structlog.get_logger(__name__)

TICK_S = 0.05
SWEEP_ROUND_S = 60.0
"""An expired entry that nobody reads is dropped within about this time."""
_SWEEP_AT_LEAST = 200
_SWEEP_AT_MOST = 4_000
_MOVE_SLICE = 1_000
_RECOVER_S = 0.25


class Loops:
    """Runs the duties until stopped.

    Args:
        node: The node.
        reap: Ends silent sessions; called with the time.
        warm: Begins warming jobs.
    """

    def __init__(self, node: Node, reap: Callable[[float], int], warm: WarmDuties | None = None) -> None:
        self._node = node
        self._warm = warm
        self._reap = reap
        self._tasks: list[asyncio.Task[None]] = []
        self._recover_at = 0.0
        self.ticked_at = node.clock.now()
        """When the loop last came round: a liveness probe fails when this is long ago."""
        self.clock_steps = ClockSteps()

    def start(self) -> None:
        """Begin."""
        self._tasks = [
            asyncio.create_task(self._repeat(TICK_S, self._tick)),
            asyncio.create_task(self._repeat(TICK_S, self._recover_l2)),
        ]
        if self._node.shedding.limited:
            self._tasks.append(asyncio.create_task(self._repeat(0.0, self._watch_load)))

    async def stop(self) -> None:
        """Stop."""
        for task in self._tasks:
            task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await asyncio.gather(*self._tasks, return_exceptions=True)

    async def _repeat(self, every_s: float, duty: Callable[[], Awaitable[None]]) -> None:
        while True:
            try:
                await duty()
            except Exception as error:  # noqa: BLE001 - a duty must not end the others
                _log.error("duty_failed", duty=duty.__name__, error_type=type(error).__name__, exc_info=error)
            await asyncio.sleep(every_s)

    async def _tick(self) -> None:
        node = self._node
        now = node.clock.now()
        self.ticked_at = now
        step_s = self.clock_steps.look(node.wall(), node.clock.now())
        if step_s:
            _log.warning("clock_stepped", seconds=round(step_s, 3))
        node.placement.tick(now)
        for namespace in node.namespaces:
            slots = 2 * len(namespace.store) * TICK_S / SWEEP_ROUND_S
            namespace.store.sweep(now, int(min(_SWEEP_AT_MOST, max(_SWEEP_AT_LEAST, slots))))
            await asyncio.sleep(0)
        for namespace in node.namespaces:
            if namespace.observed.window.due(now):
                namespace.observed.window.note(now, namespace.counted())
            if namespace.sweep.active:
                namespace.sweep.step(_MOVE_SLICE, now)
                await asyncio.sleep(0)
        while node.mover.moving:
            node.mover.step(_MOVE_SLICE)
            await asyncio.sleep(0)
        node.handover.tick(now)
        node.blooms.tick(now)
        if self._warm is not None:
            self._warm.tick(now)
        node.loads.expire(now)
        node.invalidations.expire(now)
        node.linking.expire(now)
        node.cascades.expire(now)
        self._reap(now)

    async def _watch_load(self) -> None:
        """Tell how late the loop is, and how many loads there are."""
        node = self._node
        due = node.clock.now() + TICK_S
        await asyncio.sleep(TICK_S)
        now = node.clock.now()
        node.shedding.observe(max(0.0, now - due), sum(len(namespace.flights) for namespace in node.namespaces), now)

    async def _recover_l2(self) -> None:
        """Bring L2 up to date; at once for a node that has just found its place, for it does not read L2 before."""
        tier, now = self._node.tier, self._node.clock.now()
        if tier is None or not tier.behind or (now < self._recover_at and not tier.must_adopt):
            return
        away, self._recover_at = not tier.available, now + _RECOVER_S
        if await tier.recover() and away:
            _log.info("l2_back")
