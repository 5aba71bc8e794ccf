"""L2 as the node uses it: guarded by a breaker, with a journal of what it missed.

While L2 fails nothing waits for it: the breaker opens, reads go without, and writes are acknowledged from memory. The
keys written meanwhile are noted in the journal, because L2 may still hold their older values. Before L2 is trusted
again each of them gets a tombstone there. A journal that overflows forgets keys, so it raises a floor instead: what
L2 holds from before is ignored (over-invalidate, never under).

Interleavings:

0. One write fails and the breaker stays closed: the key is in the journal, and L2 is not believed about it until it
   is replayed (``test_a_single_lost_write_is_not_read_back_old``; the simulation found this).
1. A write during the replay: the breaker is not closed yet, so the write is journaled, and the replay, which ends
   only when the journal is empty with no await in between, covers it (``test_write_during_replay_is_replayed``).
2. A call that left before the breaker opened and succeeds after: its result is used, the breaker stays open until the
   recovery loop has replayed the journal (``test_late_success_does_not_close_the_breaker``).
3. The store is started anew, or a replica takes its place that lacks the last writes: an older value, or one that was
   removed, may be there again. What this node wrote in the last minute is journaled, every other node does the same,
   and then the store is trusted again (``test_lost_history_is_replayed_by_all``).
"""

from __future__ import annotations

import asyncio
import contextlib
import math
from collections import deque
from collections.abc import Awaitable, Callable, Sequence
from typing import Literal, TypeVar

import structlog

from cachenode.core.breaker import Breaker, BreakerState
from cachenode.core.entries import L2Entry, L2Write
from cachenode.errors import L2Unavailable
from cachenode.ports import Clock, L2Store
from cachenode_api.selectors import Selector

__all__ = ["Belief", "L2Tier"]

T = TypeVar("T")

Belief = Literal["believed", "absent", "away", "lost", "adopting", "failed", "missed", "forgotten", "barred"]
"""What a read makes of what the store holds: see `L2Tier.look`."""

_log = structlog.get_logger(__name__)

_REPLAY_CHUNK = 500
ADOPTION_S = 1.0
"""So long a node that has just come lets readers wait for the store's barriers; then they miss."""
RECENT_S = 60.0
"""A failover forgets the writes of some moments; older ones than this have long reached the replicas, or the disk."""


async def _do_nothing() -> None:
    pass


async def _tell_nobody(_namespace: str, _missed: Sequence[tuple[bytes, int]]) -> None:
    pass


class L2Tier:
    """The shared store behind a breaker and a journal.

    Args:
        store: The store.
        breaker: Opens after repeated failures; only `recover` closes it again.
        clock: For the breaker.
        next_version: Returns a version above all given so far: the floor after a journal overflow.
        journal_limit: Keys remembered while the store is away.
    """

    def __init__(
        self,
        store: L2Store,
        breaker: Breaker,
        clock: Clock,
        *,
        next_version: Callable[[], int],
        journal_limit: int = 100_000,
    ) -> None:
        self.errors = 0
        self._store = store
        self._breaker = breaker
        self._clock = clock
        self._next_version = next_version
        self._journal: dict[tuple[str, bytes], int] = {}
        self._journal_limit = journal_limit
        self._overflowed = False
        self._floor = 0
        self._barriers: dict[tuple[str, Selector], int] = {}
        self._history = store.history
        self._recent: deque[tuple[float, str, bytes, int]] = deque()
        self._forgot_at = -math.inf
        self.known_barriers: Callable[[], list[tuple[str, int, Selector]]] = list
        """Returns the barriers in force on this node."""
        self.tell_lost: Callable[[], Awaitable[None]] = _do_nothing
        """Has the other nodes bring the store up to date after it has lost its history; returns when they have."""
        self.must_adopt = False
        """True until the barriers that the store knows are known here: before, nothing that it holds is believed."""
        self._adopted = asyncio.Event()
        self._disowned_at = -math.inf
        self.may_adopt: Callable[[], bool] = lambda: True
        """Returns whether a barrier that another node orders from now on will be told to this one."""
        self.adopt: Callable[[str, int, Selector], None] = lambda _namespace, _position, _selector: None
        """Takes a barrier that the store knows."""
        self.judge: Callable[[str, bytes, L2Entry], L2Entry | None] = lambda _namespace, _key, entry: entry
        """Returns what barriers leave of an entry: None if it is untrue."""
        self.tell_missed: Callable[[str, Sequence[tuple[bytes, int]]], Awaitable[None]] = _tell_nobody
        """Tells the other nodes what the store has missed; returns when they know."""

    @property
    def available(self) -> bool:
        """True while the store is trusted: reads and writes go to it."""
        trusted = self._breaker.state is BreakerState.CLOSED and not self.must_adopt
        return trusted and self._history == self._store.history

    @property
    def state(self) -> str:
        """State of the breaker: closed, open or half_open; catching_up while that is closed and `must_adopt`."""
        state = self._breaker.state
        return "catching_up" if state is BreakerState.CLOSED and self.must_adopt else state.value

    @property
    def adopting(self) -> bool:
        """True if only the barriers that the store knows are to be learned: as a rule a matter of milliseconds."""
        if not self.must_adopt or self._breaker.state is not BreakerState.CLOSED:
            return False
        return self._clock.now() < self._disowned_at + ADOPTION_S

    async def adopted(self) -> None:
        """Return once the barriers are known, or have taken too long."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(max(0.0, self._disowned_at + ADOPTION_S - self._clock.now())):
                await self._adopted.wait()

    def disown(self) -> None:
        """Believe nothing that the store holds until its barriers are known: this node may have missed some."""
        self.must_adopt, self._disowned_at = True, self._clock.now()
        self._adopted.clear()

    @property
    def journal_size(self) -> int:
        """Keys that must get a tombstone before the store is trusted again."""
        return len(self._journal)

    async def read(self, namespace: str, keys: Sequence[bytes]) -> list[L2Entry | None]:
        """Return the live entry of each key; all None while the store is away.

        Raises:
            L2Unavailable: The store was thought healthy and did not answer.
        """
        if not self.available:
            return [None] * len(keys)
        entries = await self._guard(self._store.read(namespace, keys))
        judge = self.judge
        if self._floor or self._journal:
            entries = [
                entry if entry and entry.version > self._floor and (namespace, key) not in self._journal else None
                for key, entry in zip(keys, entries, strict=True)
            ]
        return [
            None if entry is None else judge(namespace, key, entry) for key, entry in zip(keys, entries, strict=True)
        ]

    async def look(self, namespace: str, key: bytes) -> tuple[Belief, L2Entry | None]:
        """Return what the store holds for a key, and whether a read would believe it, or why not."""
        if not self.available:
            if self._breaker.state is not BreakerState.CLOSED:
                return "away", None
            return "lost" if self._history != self._store.history else "adopting", None
        try:
            (entry,) = await self._guard(self._store.read(namespace, [key]))
        except L2Unavailable:
            return "failed", None
        return self._belief(namespace, key, entry), entry

    def _belief(self, namespace: str, key: bytes, entry: L2Entry | None) -> Belief:
        if (namespace, key) in self._journal:
            return "missed"
        if entry is None:
            return "absent"
        if entry.version <= self._floor:
            return "forgotten"
        return "believed" if self.judge(namespace, key, entry) else "barred"

    async def write(self, namespace: str, writes: Sequence[L2Write]) -> list[bool]:
        """Store values; those that the store cannot take now are journaled. Never raises for a store that is away.

        Returns:
            For each write, False if a value as new or newer was there.
        """
        versions = [(write.key, write.version) for write in writes]
        if self.available:
            try:
                taken = await self._guard(self._store.write(namespace, writes))
            except L2Unavailable:
                pass
            else:
                self._strike_out(namespace, versions)
                return taken
        self._note(namespace, versions)
        await self.tell_missed(namespace, versions)
        return [True] * len(writes)

    async def prolong(self, namespace: str, lives: Sequence[tuple[bytes, int, float]]) -> None:
        """Let values live longer. A store that does not answer ends them earlier, which does no harm."""
        if self.available:
            with contextlib.suppress(L2Unavailable):
                await self._guard(self._store.prolong(namespace, lives))

    async def drop(self, namespace: str, drops: Sequence[tuple[bytes, int]]) -> list[bool]:
        """Remove values; those that the store cannot remove now are journaled. Never raises for a store that is away.

        Returns:
            For each key, True if a live value was removed.
        """
        if self.available:
            try:
                removed = await self._guard(self._store.drop(namespace, drops))
            except L2Unavailable:
                pass
            else:
                self._strike_out(namespace, drops)
                return removed
        self._note(namespace, drops)
        await self.tell_missed(namespace, drops)
        return [False] * len(drops)

    def written(self, namespace: str, written: Sequence[tuple[bytes, int]]) -> None:
        """Take note of what the write-behind queue has brought to the store, or removed there, in its own step."""
        self._strike_out(namespace, written)

    def distrust(self, namespace: str, missed: Sequence[tuple[bytes, int]]) -> None:
        """Journal what another node could not bring to the store: it may be gone when the store is back."""
        self._note(namespace, missed)

    def missed(self) -> dict[str, list[tuple[bytes, int]]]:
        """Return what is in the journal, by namespace."""
        by_namespace: dict[str, list[tuple[bytes, int]]] = {}
        for (namespace, key), version in self._journal.items():
            by_namespace.setdefault(namespace, []).append((key, version))
        return by_namespace

    def missed_barriers(self) -> list[tuple[str, int, Selector]]:
        """Return the barriers that the store has missed."""
        return [(namespace, position, selector) for (namespace, selector), position in self._barriers.items()]

    async def note_barriers(self, namespace: str, barriers: Sequence[tuple[int, Selector]]) -> bool:
        """Tell the store of barriers, so that nodes which start later know them.

        Returns:
            False if it cannot take them now: then they are remembered, here and by whoever else is told.
        """
        if self.available:
            try:
                await self._guard(self._store.note_barriers(namespace, barriers))
            except L2Unavailable:
                pass
            else:
                return True
        self.remember_barriers(namespace, barriers)
        return False

    def remember_barriers(self, namespace: str, barriers: Sequence[tuple[int, Selector]]) -> None:
        """Remember barriers that the store has missed."""
        for position, selector in barriers:
            noted = namespace, selector
            self._barriers[noted] = max(position, self._barriers.get(noted, 0))

    async def keys(self, namespace: str, cursor: int = 0) -> tuple[list[bytes], int]:
        """Return some keys of a namespace, and the cursor to go on with (see `L2Store.keys`).

        Raises:
            L2Unavailable: The store is away, or has lost its history.
        """
        if not self.available:
            raise L2Unavailable("the shared store is away")
        return await self._guard(self._store.keys(namespace, cursor))

    async def note(self, kind: str, name: bytes, record: bytes, ttl_s: float, version: int) -> bool:
        """Keep a record of the nodes' own, in place of an older one. Return False if that could not be done.

        Args:
            kind: Begins with a dot, so that no namespace has this name.
            name: Of the record.
            record: Any bytes.
            ttl_s: How long it is kept.
            version: One of a lower version than the last is not taken.
        """
        if not self.available:
            return False
        write = L2Write(name, record, 0, version, ttl_s)
        try:
            [taken] = await self._guard(self._store.write(kind, [write]))
        except L2Unavailable:
            return False
        return taken

    async def noted(self, kind: str, names: Sequence[bytes]) -> list[L2Entry | None]:
        """Return records of the nodes' own, None where there is none or the store is away."""
        if self.available:
            with contextlib.suppress(L2Unavailable):
                return await self._guard(self._store.read(kind, names))
        return [None] * len(names)

    async def lock(self, namespace: str, key: bytes, token: bytes, ttl_s: float) -> bool:
        """Take the lock of a key, or prolong it (see `L2Store.lock`); True too while the store is away.

        A lock only saves work, so who cannot ask for it goes on without.
        """
        if not self.available:
            return True
        try:
            return await self._guard(self._store.lock(namespace, key, token, ttl_s))
        except L2Unavailable:
            return True

    async def unlock(self, namespace: str, key: bytes, token: bytes) -> None:
        """Give the lock of a key back; if the store is away it runs out."""
        if self.available:
            with contextlib.suppress(L2Unavailable):
                await self._guard(self._store.unlock(namespace, key, token))

    @property
    def behind(self) -> bool:
        """True if `recover` has something to do: the store is away, or has missed writes."""
        return not self.available or bool(self._journal) or self._overflowed or bool(self._barriers)

    async def recover(self) -> bool:
        """Try the store, bring it up to date, and trust it again. Call it from time to time.

        Returns:
            True if the store is trusted now and has missed nothing.
        """
        if not self.behind:
            return True
        if not self._breaker.allow(self._clock.now()):
            return False
        try:
            await self._store.ping()
            history = self._store.history
            if history != self._history:
                self._remember_all()
            while self._journal or self._barriers:
                await self._replay_some()
            if history != self._history:
                await self.tell_lost()
                self._history = history
                return False  # the next round sees whether it is still that history, and nothing was missed meanwhile
            if self.must_adopt and self.may_adopt():
                for namespace, position, selector in await self._store.barriers():
                    self.adopt(namespace, position, selector)
                self.must_adopt = False
                self._adopted.set()
        except L2Unavailable:
            self._fail()
            return False
        if self._overflowed:
            self._floor, self._overflowed = self._next_version(), False
        self._breaker.succeeded(self._clock.now())
        return self.available

    async def replay(self) -> None:
        """Bring a store that has lost its history up to date, so that another node may trust it.

        Raises:
            L2Unavailable: It does not answer.
        """
        await self._store.ping()
        if self._history != self._store.history:
            self._remember_all()
        while self._journal or self._barriers:
            await self._replay_some()

    def _remember_all(self) -> None:
        """Journal all that the store may have forgotten: what was written lately, and the barriers."""
        now = self._clock.now()
        for at, namespace, key, version in self._recent:
            if at >= now - RECENT_S:
                self._note(namespace, [(key, version)])
        if now - self._forgot_at < RECENT_S:
            self._overflowed = True
        for namespace, position, selector in self.known_barriers():
            self.remember_barriers(namespace, [(position, selector)])

    async def close(self) -> None:
        """Close the store."""
        await self._store.close()

    async def _replay_some(self) -> None:
        barriers = list(self._barriers.items())
        for (namespace, selector), position in barriers:
            await self._store.note_barriers(namespace, [(position, selector)])
            if self._barriers.get((namespace, selector)) == position:
                del self._barriers[namespace, selector]
        chunk = list(self._journal.items())[:_REPLAY_CHUNK]
        by_namespace: dict[str, list[tuple[bytes, int]]] = {}
        for (namespace, key), version in chunk:
            by_namespace.setdefault(namespace, []).append((key, version))
        for namespace, drops in by_namespace.items():
            await self._store.drop(namespace, drops)
        for noted, version in chunk:
            if self._journal.get(noted) == version:
                del self._journal[noted]

    def _strike_out(self, namespace: str, written: Sequence[tuple[bytes, int]]) -> None:
        """Take keys out of the journal that have got a newer value or tombstone since; remember what was written."""
        now, recent = self._clock.now(), self._recent
        for key, version in written:
            recent.append((now, namespace, key, version))
        while recent and (recent[0][0] < now - RECENT_S or len(recent) > self._journal_limit):
            if recent.popleft()[0] >= now - RECENT_S:
                self._forgot_at = now
        if self._journal:
            for key, version in written:
                if self._journal.get((namespace, key), version) < version:
                    del self._journal[namespace, key]

    def _note(self, namespace: str, drops: Sequence[tuple[bytes, int]]) -> None:
        for key, version in drops:
            self._journal[namespace, key] = max(version, self._journal.get((namespace, key), 0))
        while len(self._journal) > self._journal_limit:
            self._journal.pop(next(iter(self._journal)))
            self._overflowed = True

    async def _guard(self, call: Awaitable[T]) -> T:
        try:
            result = await call
        except L2Unavailable:
            self._fail()
            raise
        if self._history != self._store.history:
            raise L2Unavailable("the shared store has lost its history")
        if self.available:
            self._breaker.succeeded(self._clock.now())
        return result

    def _fail(self) -> None:
        self.errors += 1
        trusted = self.available
        self._breaker.failed(self._clock.now())
        if trusted and not self.available:
            _log.warning("l2_away", errors=self.errors)
