"""Brings what is in the outbox to one other region, for as long as this node has the lease of that link.

One node of a cluster sends to a region. It holds a lease in the store of the outbox, and prolongs it each time it looks
there; when it dies another takes over at the lease's end. Where to go on is what the *other* region says: it keeps the
cursor, so that neither a sender's death nor a lost answer leaves anything out, and what comes twice is recognised.

Interleavings, each forced by a test in ``tests/node/test_region_sender.py``:

1. An answer is lost: the sender asks where the region is, and goes on from there (``test_lost_answer``).
2. A sender is frozen, another takes over, the first wakes up and sends once more: what it sends is known already, or is
   acted on once more, which costs a few misses (``test_frozen_sender_brings_nothing_new``).
3. The region is out of reach: its backlog grows, is bounded by the outbox, and its end is told as a gap
   (``test_trimmed_backlog_is_a_gap``).
4. The region loses its cursor while nothing happens here: it is asked again and again, and told a gap
   (``test_region_that_lost_its_cursor_is_told_a_gap``).
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Literal

import structlog

from cachenode.core.regions import Cursor, Outgoing, next_shipment
from cachenode.core.stats import RegionCounters
from cachenode.errors import L2Unavailable, RegionUnavailable

if TYPE_CHECKING:
    from cachenode.ports import Clock, RegionLink, RegionStore

__all__ = ["RegionSender", "SenderState"]

SenderState = Literal["starting", "waiting", "connected", "cut", "refused", "paused", "no_store"]
"""`waiting` is a node that does not send, because another one does."""

_log = structlog.get_logger(__name__)

POLL_S = 0.1
"""How often a sender looks for what other nodes have appended; what its own node appends wakes it."""
ASK_S = 1.0
"""How often a region that has everything is asked where it is."""
_LONGEST_PAUSE_S = 1.0
_MOST = 1_000


class RegionSender:
    """The sending end of the link to one region.

    Args:
        remote: Name of the region.
        store: Has the outbox, and the lease.
        link: Leads to the region.
        sender: This life of this node.
        clock: Of the node.
        lease_s: How long the lease lasts.
    """

    def __init__(
        self, remote: str, store: RegionStore, link: RegionLink, *, sender: str, clock: Clock, lease_s: float
    ) -> None:
        self.remote = remote
        self.state: SenderState = "starting"
        self.cursor: Cursor | None = None
        """Where the region is, as far as it has said."""
        self.found: Outgoing | None = None
        """What the outbox had for the region when it was last looked at; None if another node sends."""
        self.why = ""
        """Why the region cannot be told anything."""
        self.sent = self.gaps = self.failures = 0
        self._store = store
        self._link = link
        self._sender = sender
        self._clock = clock
        self._lease_s = lease_s
        self._asked_at = float("-inf")
        self._pause_s = POLL_S
        self._woken = asyncio.Event()
        self._task: asyncio.Task[None] | None = None

    def start(self) -> None:
        """Begin."""
        self._task = asyncio.get_running_loop().create_task(self._run())

    def wake(self) -> None:
        """Look at the outbox now."""
        self._woken.set()

    async def stop(self) -> None:
        """End, and let another node send."""
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)
            self._task = None
            if self.found is not None:
                try:
                    await self._store.release(self.remote, self._sender)
                except L2Unavailable:
                    _log.info("region_lease_not_released", region=self.remote)
        await self._link.close()

    async def _run(self) -> None:
        while True:
            try:
                pause_s = await self.step()
            except Exception as error:  # noqa: BLE001 - whatever it is, the link must not end with it
                _log.error("region_sender_failed", region=self.remote, error_type=type(error).__name__, exc_info=error)
                pause_s = _LONGEST_PAUSE_S
            if pause_s:
                self._woken.clear()
                try:
                    async with asyncio.timeout(pause_s):
                        await self._woken.wait()
                except TimeoutError:
                    pass

    async def step(self) -> float:
        """Look at the outbox and send what there is, once. Return how long to wait before the next time."""
        try:
            found = await self._store.fetch(
                self.remote, self._sender, lease_s=self._lease_s, after=self.cursor, most=_MOST
            )
        except L2Unavailable as error:
            self.state, self.why = "no_store", str(error)
            return _LONGEST_PAUSE_S
        self.found = found
        if found is None:
            self.state, self.why, self.cursor, self._asked_at = "waiting", "", None, float("-inf")
            return min(self._lease_s / 4, _LONGEST_PAUSE_S)
        if found.paused:
            self.state, self.why = "paused", ""
            return _LONGEST_PAUSE_S
        try:
            more = await self._send(found)
        except RegionUnavailable as error:
            self._failed(error)
            return self._pause_s
        if self.state != "connected":
            _log.info("region_connected", region=self.remote, waiting=found.waiting)
        self.state, self.why, self._pause_s = "connected", "", POLL_S
        return 0.0 if more else POLL_S

    def _failed(self, error: RegionUnavailable) -> None:
        self.failures += 1
        self._asked_at = float("-inf")  # what it has done is not known
        state: SenderState = "refused" if error.refused else "cut"
        if self.state != state:
            _log.warning("region_not_told", region=self.remote, state=state, why=str(error))
        self.state, self.why = state, str(error)
        self._pause_s = min(2 * self._pause_s, _LONGEST_PAUSE_S)

    async def _send(self, found: Outgoing) -> bool:
        """Send what there is, or ask where the region is. Return True if there may be more to send."""
        now = self._clock.now()
        if now - self._asked_at >= ASK_S:
            self.cursor = await self._link.position()
            self._asked_at = now
            if self.cursor is None or self.cursor != Cursor(found.outbox, found.after):
                found = self.found = await self._anew(found)
        shipment = next_shipment(self.cursor, found)
        if shipment is None:
            return False
        before = self.cursor
        self.cursor = await self._link.relay(shipment)
        self._asked_at = self._clock.now()
        if self.cursor == before:
            return False
        if shipment.gap:
            self.gaps += 1
            _log.warning("region_gap", region=self.remote, head=shipment.head)
        else:
            self.sent += len(shipment.entries)
        return True

    async def _anew(self, found: Outgoing) -> Outgoing:
        """Return what the outbox has after the cursor that is known now."""
        try:
            again = await self._store.fetch(
                self.remote, self._sender, lease_s=self._lease_s, after=self.cursor, most=_MOST
            )
        except L2Unavailable:
            return found
        return again if again is not None else found

    def counters(self) -> RegionCounters:
        """Return how far behind the region is, as this node knows it, and what it has sent."""
        found, sending = self.found, self.found is not None
        return RegionCounters(
            name=self.remote,
            state=self.state,
            why=self.why,
            sending=sending,
            lag_entries=found.waiting if found is not None else 0,
            lag_s=found.oldest_s if found is not None else 0.0,
            sent=self.sent,
            gaps=self.gaps,
            failures=self.failures,
            outbox=found.outbox if found is not None else "",
            head=found.head if found is not None else 0,
            acted=found.after if found is not None else 0,
        )
