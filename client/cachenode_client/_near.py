"""The near cache: copies of values in the application's own memory, served without asking a node.

A copy came over a session, and it may be served while that session's *lease* lives: until then no write of the key is
answered before this client has dropped its copy. So a hit asks two things of a clock: has the value expired, has the
lease. A lease that ran out may be renewed, for over the same stream no invalidation was missed; a lost stream's never.

A barrier declares all keys untrue that begin so, bear a tag, or have another owner. To look for them would stop the
loop for as long as there are copies, so nobody looks: the session's lease is retired, with a note of what the barrier
covers, and its successor goes on in its place. Copies point to the lease under which they came, and those of a retired
one are not served. The first read of each walks the chain from there to the present lease, and the copy is dead if a
barrier on the way covers it; else it moves on to the present lease, and the next read finds it there.

One thread, the loop's, changes the tables. Others may read them, and `revive`, which never touches a table: it moves
copies on and gives dead ones a deadline that is over, which nothing takes back. So two threads may walk at once, and
the later may put a copy back upon a lease that it had already left: that one is retired, so the copy is judged again.
Dead copies lie in the tables until they are replaced, evicted or swept.

Interleavings, each forced by a test in ``tests/client/test_near.py``:

1. A read finds a copy → a barrier covers it → the read looks at the lease: it is not served
   (``test_barrier_between_finding_and_judging``).
2. A read walks to the last lease → a barrier retires that one → the read moves the copy there: the next read goes on
   from there (``test_barrier_before_the_copy_moves_on``).
3. A read finds a copy → its key is dropped, before the walk or on the way: it is not served, and does not come back
   into the table (``test_drop_between_finding_and_reviving``, ``test_drop_during_the_walk``).
4. The lease runs out → a barrier → the lease is renewed: what the barrier covers is dead, the rest is served again
   (``test_barrier_while_the_lease_has_run_out``).
5. A barrier → a covered key is asked for anew: the new copy came later and is served
   (``test_copies_that_come_after_a_barrier``).
6. The stream is lost → a late answer or renewal comes: nothing is kept, nothing is served again
   (``test_lost_stream_does_not_come_back``).
7. All of this in two threads at once (``test_reads_in_another_thread``).
"""

from __future__ import annotations

import math
import time
from collections import OrderedDict
from collections.abc import Callable, Iterable, Iterator
from functools import partial
from itertools import islice
from operator import attrgetter
from sys import getsizeof
from typing import Any

from cachenode_api.records import HEADER, HEADER_BYTES, SERIALIZER_MASK, TAGGED
from cachenode_api.tags import split_tags

__all__ = [
    "ENCODED",
    "MAX_AGE_S",
    "Covers",
    "Lease",
    "NearCache",
    "NearEntry",
    "Shelf",
    "boot_clock",
    "everything",
    "keyed",
]

Covers = Callable[[str, bytes, tuple[bytes, ...]], bool]
"""What a barrier covers, by namespace, key and tags. Asked from any thread; must not raise."""

MAX_AGE_S = 60.0
"""No copy is served for longer: soon after, the node forgets that this client holds it."""
ENCODED: Any = object()
"""In place of a value: decode the record, anew for each reader, who may change what he gets."""

_DECODED = 5
"""Serializers up to this id yield bytes, str, int, float, bool and None: nobody can change these."""
_BOOKKEEPING = 220
"""Bytes of a copy beside key, record and value: its object, deadline and cost, and its place in the table."""
_LARGEST = 8
"""A copy takes at most this part of the budget: else one value would push out all others."""
_CHANCES = 32
_CONTAINERS = frozenset((list, tuple, set, frozenset))
_SCALARS = frozenset((bytes, str, int, float, bool, type(None)))

# CLOCK_MONOTONIC stands still while the machine sleeps; the lease does not. A partial is the cheapest call there is.
boot_clock: Callable[[], float] = (
    partial(time.clock_gettime, time.CLOCK_BOOTTIME) if hasattr(time, "CLOCK_BOOTTIME") else time.monotonic
)


def everything(_namespace: str, _key: bytes, _tags: tuple[bytes, ...]) -> bool:
    """Cover all keys."""
    return True


def keyed(raw: bytes) -> str | bytes:
    """Return the form under which a key's copy is found: str, as most callers have it, or bytes that are no text."""
    try:
        return raw.decode()
    except UnicodeDecodeError:
        return raw


class Lease:
    """Until when copies may be served.

    Attributes:
        until: On the near clock; minus infinity once retired.
        covers: What the barrier that retired the lease covers; None while the lease is a session's present one.
        successor: The lease that took its place; None if the stream was lost.
    """

    __slots__ = ("covers", "successor", "until")

    def __init__(self, until: float = -math.inf) -> None:
        self.until = until
        self.covers: Covers | None = None
        self.successor: Lease | None = None

    def __repr__(self) -> str:
        return f"<Lease until={self.until:.3f} retired={self.covers is not None}>"


class Shelf:
    """What one session has brought, for as long as its stream lasts.

    Attributes:
        lease: The present one. There is none to begin with: `renew` it.
    """

    __slots__ = ("lease",)

    def __init__(self) -> None:
        self.lease = Lease()

    def renew(self, until: float) -> None:
        """Let the lease last at least until then. A lost stream's lease is beyond that."""
        lease = self.lease
        if lease.covers is None and lease.until < until:
            lease.until = until

    def bar(self, covers: Covers) -> None:
        """Serve no copy any more that came before now and is covered."""
        old = self.lease
        if old.covers is not None:
            return
        fresh = Lease(old.until)
        old.successor = fresh  # before `covers`: who finds that asks for this next
        old.covers = covers
        old.until = -math.inf
        self.lease = fresh

    def lose(self) -> None:
        """Serve no copy any more that came before now, and keep none: the stream has ended."""
        self.lease.covers = everything
        self.lease.until = -math.inf

    def __repr__(self) -> str:
        return f"<Shelf {self.lease!r}>"


class NearEntry:
    """A copy of one value.

    Attributes:
        lease: The one under which it is judged.
        deadline: When its life or `MAX_AGE_S` ends, on the near clock; minus infinity once it is dead.
        marked: True if it was read since it last came up for eviction.
        value: The value, or `ENCODED`.
        record: The record, its deadline on the near clock, so that a reader's `now` stands for the owner's time. Only
            the header if `value` is there: flags, version and deadline are all that a reader then needs.
        tags: Those that the value was stored with.
        cost: Its bytes in memory, about.
    """

    __slots__ = ("cost", "deadline", "lease", "marked", "record", "tags", "value")

    def __init__(self, lease: Lease, deadline: float, record: bytes, value: Any, tags: tuple[bytes, ...]) -> None:
        self.lease = lease
        self.deadline = deadline
        self.marked = False
        self.value = value
        self.record = record
        self.tags = tags
        self.cost = 0

    def __repr__(self) -> str:
        return f"<NearEntry deadline={self.deadline:.3f} cost={self.cost} {self.lease!r}>"


Entries = OrderedDict[str | bytes, NearEntry]


class _Space:
    """The copies of one namespace, and their bytes."""

    __slots__ = ("entries", "name", "used_bytes")

    def __init__(self, name: str) -> None:
        self.name = name
        self.entries: Entries = OrderedDict()
        self.used_bytes = 0


class NearCache:
    """The copies that one client keeps.

    Only one thread may call what changes the tables; `revive`, and `get` of `entries`, may be called from all.

    Args:
        max_bytes: Budget of all namespaces together.
        decode: Makes a value of a record. A record of which it raises is not kept; its reader will see why.
        share: Decode all values once and give every reader the same object, also one that readers could change.
        clock: Seconds; the leases' deadlines are on it.

    Attributes:
        used_bytes: What the copies take, bookkeeping included.
        inserts: Copies kept.
        evictions: Copies that went to make room.
        invalidated: Copies that went because their key was dropped.
    """

    def __init__(
        self,
        max_bytes: int = 32 << 20,
        *,
        decode: Callable[[bytes], Any],
        share: bool = False,
        clock: Callable[[], float] = boot_clock,
    ) -> None:
        self.max_bytes = max_bytes
        self.used_bytes = 0
        self.inserts = 0
        self.evictions = 0
        self.invalidated = 0
        self._decode = decode
        self._share = share
        self._clock = clock
        self._spaces: dict[str, _Space] = {}
        self._round: Iterator[tuple[_Space, str | bytes]] = iter(())

    def __len__(self) -> int:
        return sum(len(space.entries) for space in list(self._spaces.values()))

    def shelf(self) -> Shelf:
        """Return a place for what a new session will bring."""
        return Shelf()

    def entries(self, namespace: str) -> Entries:
        """Return the copies of a namespace by `keyed` key, the same object for ever."""
        return self._space(namespace).entries

    def _space(self, namespace: str) -> _Space:
        space = self._spaces.get(namespace)
        if space is None:
            space = self._spaces.setdefault(namespace, _Space(namespace))  # two threads may come at once
        return space

    # Reading.

    def revive(self, namespace: str, key: str | bytes, entry: NearEntry, now: float) -> NearEntry | None:
        """Judge a copy that is past its deadline or whose lease does not live; return it if it may be served."""
        if now < entry.deadline:
            _move_on(namespace, key, entry)
        if now >= entry.deadline or now >= entry.lease.until:
            return None
        entry.marked = True
        return entry

    # Writing.

    def keep(self, namespace: str, raw: bytes, record: bytes, shelf: Shelf, *, sent_at: float, now_s: float) -> None:
        """Keep a copy of a record, in place of any older one.

        The older one goes even if the record is not kept, because it is too large, its life or the lease is over, or it
        cannot be decoded: a reader has seen what is newer.

        Args:
            namespace: Where the key belongs.
            raw: The key.
            record: As the node sent it.
            shelf: That of the session which brought it.
            sent_at: When the question was sent, on the near clock. The answer is younger, so counting from there errs
                on the safe side.
            now_s: The owner's time in the answer.
        """
        space, key = self._space(namespace), keyed(raw)
        self._remove(space, key)
        lease, now = shelf.lease, self._clock()
        slot, flags, version, deadline = HEADER.unpack_from(record)
        ends_at = sent_at + (deadline - now_s)
        deadline = min(ends_at, sent_at + MAX_AGE_S)
        largest = self.max_bytes // _LARGEST
        if now >= lease.until or now >= deadline or len(record) > largest:
            return
        try:
            tags = split_tags(record[HEADER_BYTES:])[0] if flags & TAGGED else ()
            value = self._decode(record) if self._share or flags & SERIALIZER_MASK <= _DECODED else ENCODED
        except Exception:  # noqa: BLE001 - a serializer may raise anything
            return
        header = HEADER.pack(slot, flags, version, ends_at)
        copy = header + record[HEADER_BYTES:] if value is ENCODED else header
        entry = NearEntry(lease, deadline, copy, value, tags)
        entry.cost = _cost_of(key, entry, len(record))
        if entry.cost <= largest:
            self._insert(space, key, entry)

    def _insert(self, space: _Space, key: str | bytes, entry: NearEntry) -> None:
        self._make_room(entry.cost)
        space.entries[key] = entry
        space.used_bytes += entry.cost
        self.used_bytes += entry.cost
        self.inserts += 1

    def drop(self, namespace: str, raw: bytes) -> None:
        """Forget a key's copy: its value is untrue."""
        self.drop_many(namespace, (raw,))

    def drop_many(self, namespace: str, raws: Iterable[bytes]) -> None:
        """Forget the copies of several keys."""
        space = self._spaces.get(namespace)
        if space is not None:
            for raw in raws:
                self.invalidated += self._remove(space, keyed(raw))

    def _remove(self, space: _Space, key: str | bytes) -> bool:
        entry = space.entries.pop(key, None)
        if entry is None:
            return False
        entry.deadline = -math.inf  # for a thread that has found it already
        space.used_bytes -= entry.cost
        self.used_bytes -= entry.cost
        return True

    # Making room.

    def _make_room(self, cost: int) -> None:
        """Evict from the largest namespace, oldest first; what was read since it last came up goes round once more.

        Only so often: where all was read, an insert would else go round all of it.
        """
        chances = _CHANCES
        while self.used_bytes + cost > self.max_bytes:
            space = max(self._spaces.values(), key=attrgetter("used_bytes"))
            key, entry = next(iter(space.entries.items()))
            if entry.marked and chances:
                chances -= 1
                entry.marked = False
                space.entries.move_to_end(key)
            else:
                self._remove(space, key)
                self.evictions += 1

    def sweep(self, limit: int) -> int:
        """Remove dead copies among the next `limit`, and go on where the last call stopped, round and round.

        It also moves the others on to their present leases: else copies that nobody reads would hold the whole chain.

        Returns:
            How many copies it removed.
        """
        now, looked, removed = self._clock(), 0, 0
        for space, key in islice(self._round, limit):
            looked += 1
            entry = space.entries.get(key)
            if entry is None:
                continue
            if now < entry.deadline:
                _move_on(space.name, key, entry)
            if now >= entry.deadline:
                removed += self._remove(space, key)
        if looked < limit:
            self._round = _round_of(self._spaces)
        return removed


def _move_on(namespace: str, key: str | bytes, entry: NearEntry) -> None:
    """Move a copy on to the last lease of its chain; it is dead if one on the way covers it."""
    lease = entry.lease
    if lease.covers is None:
        return
    raw = key.encode() if isinstance(key, str) else key
    while (covers := lease.covers) is not None:
        successor = lease.successor
        if successor is None or covers(namespace, raw, entry.tags):
            entry.deadline = -math.inf
            break
        lease = successor
    entry.lease = lease


def _round_of(spaces: dict[str, _Space]) -> Iterator[tuple[_Space, str | bytes]]:
    """Yield the keys of all copies, as they are when their namespace's turn comes.

    An ordered dictionary cannot be iterated while it changes, nor from its middle; its keys cost 8 bytes each.
    """
    for space in list(spaces.values()):
        for key in list(space.entries):
            yield space, key


def _cost_of(key: str | bytes, entry: NearEntry, record_bytes: int) -> int:
    """Return about what a copy takes in memory."""
    size = _BOOKKEEPING + getsizeof(key) + getsizeof(entry.record)
    if entry.tags:
        size += _deep_size(entry.tags)
    if entry.value is ENCODED:
        return size
    return size + max(record_bytes, _deep_size(entry.value))  # what the walk cannot see is seldom less than its bytes


def _deep_size(value: Any) -> int:
    """Return the bytes of a value and, through the built-in containers, of what is in it."""
    if type(value) in _SCALARS:
        return getsizeof(value)
    size, seen, left = 0, set[int](), [value]
    while left:
        item = left.pop()
        if id(item) in seen:
            continue
        seen.add(id(item))
        size += getsizeof(item, 0)
        if type(item) is dict:
            left += item.keys()
            left += item.values()
        elif type(item) in _CONTAINERS:  # exactly: iterating somebody's subclass may do anything
            left += item
    return size
