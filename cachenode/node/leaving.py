"""Leaving the cluster on purpose: once, in a fixed order, and watched by whoever asked for it.

The steps are the same whether an operator asks for them (the drain call) or a signal stops the process. The first one
who asks begins them, everybody else waits for the same steps: a signal that comes while a drain is at it does not begin
them anew (``test_stop_during_a_drain_waits_for_it``), and one that comes after it finds nothing left to do
(``test_stop_after_a_drain_is_quick``). They go on when nobody waits any more.

There is no way back. A node that has resigned has told its peers that it will not act for its keys any more, and they
act for them: only another incarnation can join again, so a drained node comes back by a restart.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from typing import NamedTuple

import structlog

from cachenode.ports import Clock

__all__ = ["DONE", "Leaving", "Step", "within"]

_log = structlog.get_logger(__name__)

DONE = "done"
_LOOK_S = 0.1


class Step(NamedTuple):
    """A part of leaving.

    Attributes:
        stage: What it is called for those who watch; several steps may be one stage.
        limit_s: It may not take longer.
        run: Does it.
    """

    stage: str
    limit_s: float
    run: Callable[[], Awaitable[None]]


class Leaving:
    """Takes the steps.

    Args:
        steps: In their order.
        unwritten: Returns how many queued writes of this node's share wait for their origin.
        clock: For the wait for these.
    """

    def __init__(self, steps: Sequence[Step], unwritten: Callable[[], int], clock: Clock) -> None:
        self.stage = ""
        """Empty before it has begun, "done" after it."""
        self.unfinished: list[str] = []
        """Stages that were cut short, or failed."""
        self._steps = steps
        self.unwritten = unwritten
        self._clock = clock
        self._begun_at = 0.0
        self._ended_at = 0.0
        self._task: asyncio.Task[None] | None = None

    @property
    def begun(self) -> bool:
        """True if this node leaves, or has left."""
        return self._task is not None

    @property
    def seconds(self) -> float:
        """How long it has taken until now, or took."""
        return (self._ended_at or self._clock.now()) - self._begun_at if self.begun else 0.0

    def begin(self, flush_s: float = 0.0) -> asyncio.Task[None]:
        """Begin, if nobody has before. Return what ends when this node has left.

        Args:
            flush_s: How long to wait first until no queued write waits for its origin. The node serves meanwhile. What
                waits after that stays in the queue, for the nodes that are left or come later.
        """
        if self._task is None:
            self._begun_at = self._clock.now()
            self._task = asyncio.create_task(self._leave(flush_s))
        return self._task

    async def _leave(self, flush_s: float) -> None:
        if flush_s > 0 and self.unwritten():
            await self._take(Step("flushing", flush_s, self._flush))
        for step in self._steps:
            await self._take(step)
        self.stage, self._ended_at = DONE, self._clock.now()
        _log.info("left", seconds=round(self.seconds, 3), unfinished=self.unfinished)

    async def _take(self, step: Step) -> None:
        if step.stage != self.stage:
            self.stage = step.stage
            _log.info("leaving", stage=step.stage)
        try:
            done = await within(step.limit_s, step.run())
        except Exception as error:  # noqa: BLE001 - the steps after it are to be taken all the same
            _log.error("stop_step_failed", stage=step.stage, error_type=type(error).__name__, exc_info=error)
            done = False
        if not done and step.stage not in self.unfinished:
            self.unfinished.append(step.stage)

    async def _flush(self) -> None:
        while self.unwritten():  # noqa: ASYNC110 - an origin far away is asked by somebody else
            await asyncio.sleep(_LOOK_S)


async def within(seconds: float, step: Awaitable[None]) -> bool:
    """Take a step of the stop, but no longer than this: a node that is told to stop must stop.

    Returns:
        Whether it ended in time.
    """
    try:
        await asyncio.wait_for(step, seconds)
    except TimeoutError:
        _log.warning("stop_step_late", seconds=seconds)
        return False
    return True
