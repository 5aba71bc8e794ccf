"""Which keys are this node's, under the view in force, and whether it may act for them.

A view is applied whole and only if its epoch is higher. The ring is built anew for each view. Keys that moved away
are dropped from memory in slices afterwards (`Mover`); until that is done, hits are checked against every ring that
was in force meanwhile.

Some things besides the ring decide about a key:

- The *ownership lease*: without it this node may be out of the others' view without knowing, so it does nothing as an
  owner (`fenced`). It is compared with the clock at each use: a process that was frozen has had no timer.
- *Settling*: keys that this node has gained wait until no other acts for them (`unsettled`, `gained`, `settle`). The
  deadlines are looked at by `tick` alone.
- *Succession*: a node that has resigned learns from its peers the view that leaves it out, for what it has in memory
  is of use to those who own its keys then.
- *Releasing*: the others wait for this node in the same way. After a view change its `releasing` hooks end whatever
  it or its clients might serve from before, and then the peers are told (`settled_epoch`). If a newer view comes
  meanwhile, the hooks are cancelled and called again for that one.
"""

from __future__ import annotations

import asyncio
import contextlib
import math
from collections import deque
from collections.abc import Awaitable, Callable

import structlog

from cachenode.core.settling import Settling, identity
from cachenode_api.ring import Ring
from cachenode_api.view import Member, View

__all__ = ["Placement"]

_log = structlog.get_logger(__name__)

_REMEMBERED = 4
"""Views that a write may live to see: who waits through more of them is refused."""


class Placement:
    """The view in force, seen by one member.

    Args:
        me: This node.
        lease_s: Length of an ownership lease.
    """

    def __init__(self, me: Member, *, lease_s: float = 4.0) -> None:
        self.me = me
        self.view: View | None = None
        self.ring: Ring | None = None
        self.former_ring: Ring | None = None
        """The ring before this one; None if another may have been in force in between, or none was."""
        self.successors: tuple[View, Ring] | None = None
        """The next view and its ring, if this node has resigned and is not in it."""
        self.follows = True
        """True if no other view was in force between the former and this one."""
        self.departure: View | None = None
        """The view without this node, if it has left and that is known."""
        self.alone = False
        """True if this node is the only member, so that it owns every key."""
        self.ready = False
        """True if there is a view and this incarnation of the node is in it, and it has not resigned."""
        self.lease_until = math.inf
        """End of the ownership lease on this node's clock; infinite if there is nobody to be fenced against."""
        self.unsettled = False
        """True while some keys of this node are `gained`."""
        self.released_epoch = 0
        """The newest view for which all hooks of `releasing` have ended."""
        self.settled_epoch = 0
        """What the peers are told: the same, but not beyond what this node itself still waits for."""
        self.listeners: list[Callable[[View | None, View], None]] = []
        """Called with the former and the new view, after it is in force."""
        self.releasing: list[Callable[[View], Awaitable[None] | None]] = []
        """Called after the listeners; each ends what could be served from before, and may take its time."""
        self.release_listeners: list[Callable[[int], None]] = []
        """Called with `settled_epoch` whenever it rises."""
        self._rings: deque[tuple[int, Ring]] = deque(maxlen=_REMEMBERED)
        """Epochs and rings of the last views, none missed and this node in all of them."""
        self._settling = Settling(lease_s)
        self._settled: set[asyncio.Future[None]] = set()
        self._outlived: set[asyncio.Future[None]] = set()
        self._release: asyncio.Future[list[None]] | None = None
        self._resigned = False
        self._right_until = math.inf
        self._succession = asyncio.Event()

    @property
    def epoch(self) -> int:
        """Epoch of the view in force, 0 before the first."""
        return self.view.epoch if self.view else 0

    def apply(self, view: View, *, follows: bool | None = None, replaced: bool = False) -> bool:
        """Put a view in force if it is newer. Return True if it is.

        Args:
            view: The view.
            follows: Whether no other view was in force in between, so that what did not move is still this node's. By
                default that is so if the epoch is the next one.
            replaced: Whether a former incarnation of this node may still act as what it was.
        """
        if view.epoch <= self.epoch:
            return False
        self.follows = view.epoch == self.epoch + 1 if follows is None else follows
        former, ring = self.view, self.ring
        self.former_ring = ring if self.follows else None
        self.view, self.ring = view, Ring(view)
        if not (self.follows and former is not None and former.by_id.get(self.me.id) == self.me):
            self._rings.clear()
        self._rings.append((view.epoch, self.ring))
        self.alone = [member.id for member in view.members] == [self.me.id]
        seen = view.by_id.get(self.me.id)
        self.ready = seen is not None and seen.incarnation == self.me.incarnation and not self._resigned
        self._settling.change(self.me, former, view, ring=ring, follows=self.follows, replaced=replaced)
        self._look()
        for listener in self.listeners:
            listener(former, view)
        self._begin_release(view)
        return True

    def owner(self, key: bytes) -> str | None:
        """Return the id of the key's owner, None before the first view."""
        if self.alone:
            return self.me.id
        return self.ring.owner(key) if self.ring else None

    def owns(self, key: bytes) -> bool:
        """Return True if this node owns the key."""
        return self.owner(key) == self.me.id

    def acquired(self, key: bytes) -> bool:
        """Return True if this node owns the key, and did not under the view before."""
        former = self.former_ring
        return self.owns(key) and (former is None or former.owner(key) != self.me.id)

    def followed(self, since: int) -> bool:
        """Return True if this node has been in every view since an epoch, and has missed none."""
        return bool(self._rings) and self._rings[0][0] <= since

    def kept(self, key: bytes, since: int) -> bool:
        """Return True if the key has been this node's under every view since an epoch, and none was missed."""
        if since == self.epoch:
            return self.alone or self.owns(key)
        return self.followed(since) and all(ring.owner(key) == self.me.id for at, ring in self._rings if at >= since)

    # The ownership lease.

    def fenced(self, now: float) -> bool:
        """Return True if the ownership lease is over. To be asked at each use."""
        return now >= self.lease_until

    def set_lease(self, until: float) -> None:
        """Set the end of the ownership lease, unless this node has resigned."""
        if not self._resigned:
            self.lease_until = until

    def resign(self) -> None:
        """End this node's service of keys for good, before the others hear that it leaves.

        Clients must have let go of their copies: what is being released is not waited for any more.
        """
        if not self._resigned:
            self._right_until = self.lease_until
        self._resigned = True
        self.ready = False
        self.lease_until = -math.inf
        if self._release is not None:
            self._release.cancel()

    def outlived(self, now: float) -> bool:
        """Return True if another may have written what this node has owned: its lease is over, or would be.

        A node that has resigned is fenced; what it has is good for as long as its lease would have gone on.
        """
        return now >= (self._right_until if self._resigned else self.lease_until)

    # Succession: who has the keys of a node that has resigned.

    def peer_view(self, view: View) -> None:
        """Take note of the view of a peer. Only the next one tells who has this node's keys from it and nobody else."""
        if not self._resigned or view.epoch <= self.epoch or self.me.id in view.by_id:
            return
        if view.epoch == self.epoch + 1:
            self.successors = (view, Ring(view))
        self._succession.set()

    async def succession(self, seconds: float) -> None:
        """Return when `successors` is known, or never will be, or it takes longer than this."""
        if self.view is None or self._settling.all_left(self.me, self.view):
            return
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                await self._succession.wait()

    # Settling: what this node waits for.

    def gained(self, key: bytes) -> bool:
        """Return True if this node owns the key, but others may still act for it. Only asked while `unsettled`."""
        return self.owns(key) and self._settling.blocks(self.me.id, key)

    async def settle(self) -> None:
        """Return when nobody else acts for keys of this node."""
        while self.unsettled:
            settled = asyncio.get_running_loop().create_future()
            self._settled.add(settled)
            try:
                await settled
            finally:
                self._settled.discard(settled)

    async def outlive(self) -> None:
        """Return when no former incarnation of this node, nor a client of it, serves anything any more."""
        while self._settling.former_life:
            outlived = asyncio.get_running_loop().create_future()
            self._outlived.add(outlived)
            try:
                await outlived
            finally:
                self._outlived.discard(outlived)

    async def settled_within(self, seconds: float) -> bool:
        """Wait so long for `settle`. Return True if nothing is waited for."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                await self.settle()
        return not self.unsettled

    def tick(self, now: float) -> None:
        """End the waits whose time is over. To be called several times a second."""
        if self._settling.waits_since is not None:
            self._settling.tick(now)
            self._look()

    def peer_settled(self, peer_id: str, incarnation: str, epoch: int) -> None:
        """Take a peer's word that nothing is left from before an epoch."""
        self._settling.told((peer_id, incarnation), epoch)
        self._look()

    def peer_linked(self, peer: Member) -> None:
        """Take note of a link."""
        self._settling.linked(identity(peer))

    def peer_unlinked(self, peer: Member) -> None:
        """Take note that a link is down."""
        self._settling.unlinked(identity(peer))

    def peer_left(self, peer: Member) -> None:
        """Take note that a peer leaves on purpose."""
        self._settling.left(identity(peer))
        if self.view is not None and self._settling.all_left(self.me, self.view):
            self._succession.set()
        self._look()

    def _look(self) -> None:
        before, self.unsettled = self.unsettled, self._settling.unsettled
        if before and not self.unsettled:
            _log.info("settled", epoch=self.epoch)
            _resolve(self._settled)
        if self._outlived and not self._settling.former_life:
            _resolve(self._outlived)
        self._tell()

    # Releasing: what the others wait for.

    def _begin_release(self, view: View) -> None:
        if self._release is not None:
            self._release.cancel()
            self._release = None
        left = [rest for hook in self.releasing if (rest := hook(view)) is not None]
        if not left:
            self._released(view.epoch)
            return
        self._release = release = asyncio.gather(*left)
        release.add_done_callback(lambda ended: self._end_release(view.epoch, ended))

    def _end_release(self, epoch: int, ended: asyncio.Future[list[None]]) -> None:
        """Give the word, unless a hook has failed: then the others wait for the end of the lease."""
        if ended.cancelled():
            return
        error = ended.exception()
        if isinstance(error, asyncio.CancelledError):  # what a gather that was cancelled says
            return
        if error is not None:
            _log.error("release_failed", epoch=epoch, error_type=type(error).__name__, exc_info=error)
        elif epoch == self.epoch:
            self._released(epoch)

    def _released(self, epoch: int) -> None:
        self.released_epoch = epoch
        self._tell()

    def _tell(self) -> None:
        since = self._settling.waits_since
        epoch = self.released_epoch if since is None else min(since, self.released_epoch)
        if epoch > self.settled_epoch:
            self.settled_epoch = epoch
            for listener in self.release_listeners:
                listener(epoch)


def _resolve(waiting: set[asyncio.Future[None]]) -> None:
    for future in waiting:
        if not future.done():
            future.set_result(None)
