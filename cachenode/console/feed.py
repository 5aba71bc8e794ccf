"""The live part: looks at the cluster every two seconds while somebody watches, once for all who show the same token.

Theory of operation: a `Feed` belongs to one token, since what nodes tell depends on it. Its task looks, keeps the last
ten minutes for the curves, and wakes whoever waits. It begins with its first watcher and goes on for a minute after the
last one has left, so that a page that is loaded again has its curves. A watcher that is slow misses pictures in
between; it never holds the others up (``test_a_slow_watcher_holds_nobody_up``).
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections import deque
from collections.abc import AsyncGenerator, Callable
from typing import Any

import structlog

from cachenode.console.fleet import Fleet
from cachenode.console.picture import past, picture
from cachenode.console.refusals import Refused
from cachenode.findings import Moment, examine

__all__ = ["EVERY_S", "MOST_WATCHERS", "Feeds"]

_log = structlog.get_logger(__name__)

EVERY_S = 2.0
MOST_WATCHERS = 32
_KEPT = 300
_LINGER_S = 60.0
_JUDGED_S = 10.0
"""Findings are about the rates of so long: two seconds are too few reads to judge by."""


class Feeds:
    """All feeds of a node.

    Args:
        fleet: Is asked.
        every_s: Time between two looks.
    """

    def __init__(self, fleet: Fleet, every_s: float = EVERY_S) -> None:
        self._fleet = fleet
        self._every_s = every_s
        self._feeds: dict[str, _Feed] = {}
        self.watchers = 0

    async def watch(self, token: str) -> AsyncGenerator[tuple[str, Any], None]:
        """Yield the last minutes as "history", and then each "picture" as it comes, or "trouble" instead of one.

        Raises:
            Refused: Too many watch already, or the token does not allow it.
        """
        if self.watchers >= MOST_WATCHERS:
            raise Refused(429, f"{MOST_WATCHERS} pages watch already", "Close some, or look at another node's console.")
        feed = self._feeds.get(token)
        if feed is None:
            feed = self._feeds[token] = _Feed(self._fleet, token, self._every_s, lambda: self._feeds.pop(token, None))
        self.watchers += 1
        try:
            async for each in feed.watch():
                yield each
        finally:
            self.watchers -= 1

    async def close(self) -> None:
        """End all feeds, and whoever watches."""
        await asyncio.gather(*(feed.close() for feed in list(self._feeds.values())))


class _Feed:
    """What is seen with one token."""

    def __init__(self, fleet: Fleet, token: str, every_s: float, on_end: Callable[[], object]) -> None:
        self._fleet = fleet
        self._token = token
        self._every_s = every_s
        self._on_end = on_end
        self._moments: deque[Moment] = deque(maxlen=max(2, round(_JUDGED_S / every_s) + 1))
        self._past: deque[dict[str, Any]] = deque(maxlen=_KEPT)
        self._last: tuple[str, Any] | None = None
        self._watchers = 0
        self._left_at = time.monotonic()
        self._woken: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._task = asyncio.create_task(self._run())

    async def watch(self) -> AsyncGenerator[tuple[str, Any], None]:
        self._watchers += 1
        try:
            yield "history", {"every_s": self._every_s, "pictures": list(self._past)}
            seen: tuple[str, Any] | None = None
            while True:
                woken, last = self._woken, self._last
                if last is not None and last is not seen:
                    seen = last
                    yield last
                if self._task.done():
                    return
                await asyncio.wait([woken, self._task], return_when=asyncio.FIRST_COMPLETED)
        finally:
            self._watchers -= 1
            self._left_at = time.monotonic()

    async def close(self) -> None:
        self._task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await self._task

    async def _run(self) -> None:
        try:
            while self._watchers or time.monotonic() - self._left_at < _LINGER_S:
                began = time.monotonic()
                self._last = await self._look()
                woken, self._woken = self._woken, asyncio.get_running_loop().create_future()
                woken.set_result(None)
                if self._last[0] == "refused":
                    return
                await asyncio.sleep(max(0.0, self._every_s - (time.monotonic() - began)))
        finally:
            self._on_end()

    async def _look(self) -> tuple[str, Any]:
        try:
            view, moment = await self._fleet.moment(self._token)
        except Refused as refused:
            kind = "refused" if refused.status in {401, 403} else "trouble"
            return kind, {"text": refused.text, "hint": refused.hint, "status": refused.status}
        except Exception as error:  # noqa: BLE001 - the feed outlives a defect, and the log has it
            _log.error("console_look_failed", error_type=type(error).__name__, exc_info=error)
            return "trouble", {"text": "a defect in the node; its log has more", "hint": "", "status": 500}
        before = self._moments[-1] if self._moments else None
        self._moments.append(moment)
        found = examine(self._moments[0], moment) if before is not None else []
        document = picture(view, self._fleet.me, before, moment, found)
        if before is not None:
            self._past.append(past(document))
        return "picture", document
