"""L2 as the node uses it: guarded by a breaker, with a journal of what it missed.

While L2 fails nothing waits for it: the breaker opens, reads go without, and writes are acknowledged from memory. The
keys written meanwhile are noted in the journal (`cachenode.core.l2_journal`), because L2 may still hold their older
values. Before L2 is trusted again each of them gets a tombstone there, or a floor is raised: what L2 holds from before
is ignored (over-invalidate, never under).

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
4. The same, and a member has gone within that minute: nobody has its journal. The floor rises above all that it can
   have written (``test_history_lost_with_a_member``), also if it goes while it is being asked
   (``test_member_that_goes_while_it_is_asked``).
   A member that has left in good order is not missed: it has told the others what it wrote (see `Witnesses`).
5. A node comes after the store has lost its history, and before anybody has noticed. It asks the members before it
   believes anything (``test_newcomer_after_history_was_lost``).
"""

from __future__ import annotations

import asyncio
import contextlib
import math
from collections.abc import Awaitable, Callable, Sequence
from typing import Literal, TypeVar

import structlog

from cachenode.core.breaker import Breaker, BreakerState
from cachenode.core.entries import L2Entry, L2Write
from cachenode.core.l2_journal import RECENT_S, L2Journal
from cachenode.errors import L2Unavailable
from cachenode.ports import Clock, L2Store
from cachenode_api.selectors import Selector
from cachenode_api.tracing import recording, spanned, switch
from cachenode_api.version import epoch_of, sequence_of

__all__ = ["Belief", "L2Tier"]

T = TypeVar("T")

Belief = Literal["believed", "absent", "away", "lost", "adopting", "failed", "missed", "forgotten", "barred"]
"""What a read makes of what the store holds: see `L2Tier.look`."""

_log = structlog.get_logger(__name__)

_REPLAY_CHUNK = 500
ADOPTION_S = 1.0
"""So long a node that has just come lets readers wait for the store's barriers; then they miss."""


def _attributes(namespace: str, operation: str, count: int) -> dict[str, str | int]:
    """Return what a span says of a call."""
    return {
        "db.system.name": "redis",
        "db.namespace": namespace,
        "db.operation.name": operation,
        "db.operation.batch.size": count,
    }


async def _ask_nobody(_newcomer: bool) -> None:
    pass


async def _tell_nobody(_namespace: str, _missed: Sequence[tuple[bytes, int]]) -> None:
    pass


class L2Tier:
    """The shared store behind a breaker and a journal.

    Args:
        store: The store.
        breaker: Opens after repeated failures; only `recover` closes it again.
        clock: For the breaker.
        journal_limit: Keys remembered while the store is away.

    Attributes:
        errors: Calls that have failed.
        floors: How often what the store holds had to be given up, up to some version.
    """

    def __init__(
        self,
        store: L2Store,
        breaker: Breaker,
        clock: Clock,
        *,
        journal_limit: int = 100_000,
    ) -> None:
        self.errors = 0
        self.floors = 0
        self._store = store
        self._breaker = breaker
        self._clock = clock
        self._journal = L2Journal(journal_limit)
        self._sealed = False
        self._floor = 0
        self._gave_up_at = -math.inf
        self._history = store.history
        self.known_barriers: Callable[[], list[tuple[str, int, Selector]]] = list
        """Returns the barriers in force on this node."""
        self.ask_members: Callable[[bool], Awaitable[None]] = _ask_nobody
        """Has the other nodes bring the store up to date, which may have lost its history, and takes their floors;
        returns when they have. With True this node is new, and only those who know more are sure."""
        self.gave_up: Callable[[int], object] = lambda _floor: None
        """Told of each new floor: what is written from now on is to be believed."""
        self.must_adopt = False
        """True until the barriers that the store knows are known here: before, nothing that it holds is believed."""
        self._adopted = asyncio.Event()
        self._disowned_at = -math.inf
        self._disowned = 0
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
        self._disowned += 1
        self._adopted.clear()

    @property
    def floor(self) -> int:
        """Up to this version nothing that the store holds is believed."""
        return self._floor

    def give_up(self, floor: int) -> None:
        """Believe nothing that the store holds up to a version."""
        if floor <= self._floor:
            return
        self._floor, now = floor, self._clock.now()
        self.gave_up(floor)
        if now >= self._gave_up_at + RECENT_S:  # a journal that overflows does so with every write
            self.floors, self._gave_up_at = self.floors + 1, now
            _log.warning("l2_floor", epoch=epoch_of(floor), sequence=sequence_of(floor))

    def bereave(self, version: int) -> None:
        """Take note that a member has gone, or may have, whose journal is gone with it.

        Args:
            version: One above all that it can have given.
        """
        self._journal.bereave(version, self._clock.now())

    def console(self) -> None:
        """Take note that another member knows who has gone, and would say so."""
        self._journal.console()

    def testament(self) -> dict[str, list[tuple[bytes, int, float]]] | None:
        """Return what another must know in place of this node (see `L2Journal.testament`), None if that is not all.

        From then on this node brings nothing to the store: writes that come all the same count as missed by it.
        """
        left = self._journal.testament(self._clock.now()) if self.available else None
        self._sealed = left is not None
        return left

    def inherit(self, namespace: str, written: Sequence[tuple[bytes, int, float]]) -> bool:
        """Remember what a node that leaves has brought to the store, as if this one had.

        Returns:
            False if this node may be bringing a store up to date that has forgotten it: that would go without this.
        """
        if self.available:
            self._journal.inherit(namespace, written, self._clock.now())
        return self.available

    @property
    def journal_size(self) -> int:
        """Keys that must get a tombstone before the store is trusted again."""
        return len(self._journal.keys)

    async def read(self, namespace: str, keys: Sequence[bytes]) -> list[L2Entry | None]:
        """Return the live entry of each key; all None while the store is away.

        Raises:
            L2Unavailable: The store was thought healthy and did not answer.
        """
        if not self.available:
            return [None] * len(keys)
        reading = self._guard(self._store.read(namespace, keys))
        if switch.tracer is not None and recording():
            reading = spanned(reading, "l2 read", "client", _attributes(namespace, "read", len(keys)))
        entries = await reading
        judge = self.judge
        missed = self._journal.keys
        if self._floor or missed:
            entries = [
                entry if entry and entry.version > self._floor and (namespace, key) not in missed else None
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
        if (namespace, key) in self._journal.keys:
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
        if self.available and not self._sealed:
            try:
                writing = self._guard(self._store.write(namespace, writes))
                if switch.tracer is not None and recording():
                    writing = spanned(writing, "l2 write", "client", _attributes(namespace, "write", len(writes)))
                taken = await writing
            except L2Unavailable:
                pass
            else:
                self._journal.written(namespace, versions, self._clock.now())
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
        if self.available and not self._sealed:
            try:
                removed = await self._guard(self._store.drop(namespace, drops))
            except L2Unavailable:
                pass
            else:
                self._journal.written(namespace, drops, self._clock.now())
                return removed
        self._note(namespace, drops)
        await self.tell_missed(namespace, drops)
        return [False] * len(drops)

    def written(self, namespace: str, written: Sequence[tuple[bytes, int]]) -> None:
        """Take note of what the write-behind queue has brought to the store, or removed there, in its own step."""
        self._journal.written(namespace, written, self._clock.now())

    def distrust(self, namespace: str, missed: Sequence[tuple[bytes, int]]) -> None:
        """Journal what another node could not bring to the store: it may be gone when the store is back."""
        self._note(namespace, missed)

    def missed(self) -> dict[str, list[tuple[bytes, int]]]:
        """Return what is in the journal, by namespace."""
        return self._journal.by_namespace()

    def missed_barriers(self) -> list[tuple[str, int, Selector]]:
        """Return the barriers that the store has missed."""
        return [(namespace, position, selector) for (namespace, selector), position in self._journal.barriers.items()]

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
        self._journal.note_barriers(namespace, barriers)

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
        return not self.available or bool(self._journal)

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
            while self._journal:
                await self._replay_some()
            if history != self._history:
                await self.ask_members(False)
                self.give_up_forgotten()
                self._history = history
                return False  # the next round sees whether it is still that history, and nothing was missed meanwhile
            if self.must_adopt and self.may_adopt() and not await self._learn():
                return False
        except L2Unavailable as error:
            self._fail(str(error))
            return False
        self._breaker.succeeded(self._clock.now())
        return self.available

    async def _learn(self) -> bool:
        """Learn what the members and the store know of it. Return False if that has to begin anew."""
        disowned = self._disowned
        await self.ask_members(True)
        barriers = await self._store.barriers()
        if disowned != self._disowned or self._history != self._store.history or not self.may_adopt():
            return False
        for namespace, position, selector in barriers:
            self.adopt(namespace, position, selector)
        self.must_adopt = False
        self._adopted.set()
        return True

    async def replay(self, *, newcomer: bool) -> None:
        """Bring a store that may have lost its history up to date, so that another node may trust it.

        Args:
            newcomer: That one would not know if it has: this node must be done with it.

        Raises:
            L2Unavailable: It does not answer, or this node is not done.
        """
        try:
            await self._store.ping()
            lost = self._history != self._store.history
            if not (lost and newcomer):
                if lost:
                    self._remember_all()
                while self._journal:
                    await self._replay_some()
        except L2Unavailable as error:
            self._fail(str(error))
            raise
        if lost and newcomer:
            raise L2Unavailable("the shared store is being brought up to date")
        if lost:
            self.give_up_forgotten()

    @property
    def cut_off(self) -> bool:
        """True if this node has tried in vain for a while: it does not know whether the store has lost its history."""
        return self._breaker.state is not BreakerState.CLOSED

    def fear(self) -> None:
        """Take it that the store has lost its history: this node is cut off, and others want to trust the store."""
        self._remember_all()
        self.give_up_forgotten()

    def give_up_forgotten(self) -> None:
        """Raise the floor above what nobody remembers, if that may be among what the store has forgotten."""
        self.give_up(self._journal.forgotten(self._clock.now()))

    def _remember_all(self) -> None:
        """Journal all that the store may have forgotten: what was written lately, and the barriers."""
        self.give_up(self._journal.recall(self._clock.now()))
        for namespace, position, selector in self.known_barriers():
            self.remember_barriers(namespace, [(position, selector)])

    async def close(self) -> None:
        """Close the store."""
        await self._store.close()

    async def _replay_some(self) -> None:
        journal = self._journal
        for namespace, position, selector in self.missed_barriers():
            await self._store.note_barriers(namespace, [(position, selector)])
            journal.replayed_barrier(namespace, position, selector)
        for namespace, drops in journal.by_namespace(_REPLAY_CHUNK).items():
            await self._store.drop(namespace, drops)
            journal.replayed(namespace, drops, self._clock.now())

    def _note(self, namespace: str, missed: Sequence[tuple[bytes, int]]) -> None:
        self.give_up(self._journal.note(namespace, missed))

    async def _guard(self, call: Awaitable[T]) -> T:
        try:
            result = await call
        except L2Unavailable as error:
            self._fail(str(error))
            raise
        if self._history != self._store.history:
            raise L2Unavailable("the shared store has lost its history")
        if self.available:
            self._breaker.succeeded(self._clock.now())
        return result

    def _fail(self, why: str = "") -> None:
        self.errors += 1
        trusted = self.available
        self._breaker.failed(self._clock.now())
        if trusted and not self.available:
            _log.warning("l2_away", errors=self.errors, detail=why)
