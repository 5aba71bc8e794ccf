"""The entries of one namespace in memory.

An entry is a key and a record, both ``bytes``. The record's header holds the entry's slot; by slot lie the key and what the eviction policy needs, in arrays. So an entry
costs two objects that the garbage collector never visits, and some 60 bytes of tables.

The index is 64 dictionaries chosen by the key's hash, not one: a dictionary of a million entries stops the world for 30 to 80 ms when it grows
(measured), one of 64 for about one. It costs 0.1 µs a look-up. There are no locks: one loop uses a store.

Expiry has no heap and no timers. A read finds an entry expired and drops it; `sweep` walks the slots in slices and drops the others. Between its deadline and the sweep
an expired entry takes memory but is never served.
"""

from __future__ import annotations

from array import array
from collections.abc import Sequence
from struct import Struct

from cachenode.core.policies import DEFAULT_POLICY, POLICIES, EvictionPolicy
from cachenode_api.records import HEADER, HEADER_BYTES

__all__ = ["Meter", "Store", "cost_of"]

_SHARDS = 64
_MASK = _SHARDS - 1
_DEADLINE = Struct("<d")
_DEADLINE_AT = 16
_BYTES_OBJECT = 33
_SMALL_OBJECT = 512
_MALLOC_HEAD = 8
_TABLES = 64
"""Bytes of tables per entry: 44 of dictionary (24 for the item, 6 for its index, at a mean load of 0.7), 9 of keys, 9 of policy arrays."""
_GROWTH = 1.125


def cost_of(key_bytes: int, value_bytes: int) -> int:
    """Return what an entry costs in memory, bookkeeping included: what CPython's allocators take for its objects, and its share of the tables."""
    return _allocated(key_bytes) + _allocated(HEADER_BYTES + value_bytes) + _TABLES


def _allocated(size: int) -> int:
    size += _BYTES_OBJECT
    if size > _SMALL_OBJECT:
        size += _MALLOC_HEAD
    return (size + 15) & ~15


class Meter:
    """Bytes used by all stores that share a budget."""

    __slots__ = ("used",)

    def __init__(self) -> None:
        self.used = 0


class Store:
    """Entries by key, with versions, deadlines, an eviction order and a byte count.

    Args:
        policy: Name of the eviction policy.
        meter: Counts the bytes of several stores together.

    Attributes:
        used_bytes: What the entries cost.
        evictions: Entries that `evict` removed.
        expirations: Entries removed because their deadline had passed.
    """

    __slots__ = (
        "_capacity",
        "_cleared",
        "_cursor",
        "_free",
        "_index",
        "_keys",
        "_make_policy",
        "_policy",
        "_size",
        "evictions",
        "expirations",
        "meter",
        "used_bytes",
    )

    def __init__(self, policy: str = DEFAULT_POLICY, *, meter: Meter | None = None) -> None:
        self._make_policy = POLICIES[policy]
        self._policy: EvictionPolicy = self._make_policy()
        self._index: list[dict[bytes, bytes]] = [{} for _ in range(_SHARDS)]
        self._keys: list[bytes | None] = []
        self._free = array("I")
        self._capacity = 0
        self._size = 0
        self._cursor = 0
        self._cleared: list[dict[bytes, bytes]] = []
        self.meter = meter or Meter()
        self.used_bytes = 0
        self.evictions = 0
        self.expirations = 0

    def __len__(self) -> int:
        return self._size

    # Reading.

    def get_many(self, keys: Sequence[bytes], now: float) -> list[bytes]:
        """Return the record of each key, empty where there is none. A hit counts for the eviction order."""
        index, unpack, policy = self._index, HEADER.unpack_from, self._policy
        marks = policy.marks
        found = []
        append = found.append
        for key in keys:
            record = index[hash(key) & _MASK].get(key)
            if record is None:
                append(b"")
                continue
            slot, _, _, deadline = unpack(record)
            if deadline <= now:
                self._expire(key)
                append(b"")
                continue
            if marks is None:
                policy.hit(slot)
            else:
                mark = marks[slot]
                if mark & 3 != 3:
                    marks[slot] = mark + 1
            append(record)
        return found

    def get(self, key: bytes, now: float) -> bytes | None:
        """Return a key's record, None if there is none. A hit counts for the eviction order."""
        record = self.peek(key, now)
        if record is not None:
            slot: int = HEADER.unpack_from(record)[0]
            self._policy.hit(slot)
        return record

    def peek(self, key: bytes, now: float) -> bytes | None:
        """Return a key's record, None if there is none. Counts for nothing."""
        record = self._index[hash(key) & _MASK].get(key)
        if record is None:
            return None
        if _DEADLINE.unpack_from(record, _DEADLINE_AT)[0] <= now:
            self._expire(key)
            return None
        return record

    # Writing.

    def put(self, key: bytes, value: bytes, *, flags: int, version: int, deadline: float, now: float) -> bool:
        """Store a value unless one as new or newer is there.

        Returns:
            False if nothing changed: the entry there has this version or a higher one and has not expired.
        """
        shard = self._index[hash(key) & _MASK]
        old = shard.get(key)
        if old is None:
            self._add(shard, key, value, flags, version, deadline)
            return True
        slot, _, there, until = HEADER.unpack_from(old)
        if there >= version and until > now:
            return False
        shard[key] = record = HEADER.pack(slot, flags, version, deadline) + value
        change = _allocated(len(record)) - _allocated(len(old))
        self.used_bytes += change
        self.meter.used += change
        return True

    def _add(
        self, shard: dict[bytes, bytes], key: bytes, value: bytes, flags: int, version: int, deadline: float
    ) -> None:
        slot = self._free.pop() if self._free else self._new_slot()
        shard[key] = HEADER.pack(slot, flags, version, deadline) + value
        self._keys[slot] = key
        self._policy.admitted(slot, hash(key))
        cost = cost_of(len(key), len(value))
        self._size += 1
        self.used_bytes += cost
        self.meter.used += cost

    def _new_slot(self) -> int:
        slot = len(self._keys)
        self._keys.append(None)
        if slot >= self._capacity:
            self._capacity = max(64, int((slot + 1) * _GROWTH))
            self._policy.grow(self._capacity)
        return slot

    def remove(self, key: bytes) -> bytes | None:
        """Remove a key's entry. Return its record, None if there was none."""
        record = self._index[hash(key) & _MASK].pop(key, None)
        if record is None:
            return None
        slot: int = HEADER.unpack_from(record)[0]
        self._policy.removed(slot)
        self._keys[slot] = None
        self._free.append(slot)
        cost = cost_of(len(key), len(record) - HEADER_BYTES)
        self._size -= 1
        self.used_bytes -= cost
        self.meter.used -= cost
        return record

    def clear(self) -> None:
        """Remove all entries at once. Their memory is given back by the next sweeps, a 64th at a time: freeing a million takes 0.1 s."""
        self._cleared += [shard for shard in self._index if shard]
        self._index = [{} for _ in range(_SHARDS)]
        self._keys, self._free = [], array("I")
        self._policy, self._capacity, self._cursor = self._make_policy(), 0, 0
        self.meter.used -= self.used_bytes
        self._size = self.used_bytes = 0

    # Expiry, eviction, moving.

    def _expire(self, key: bytes) -> None:
        self.remove(key)
        self.expirations += 1

    def sweep(self, now: float, limit: int) -> int:
        """Drop expired entries among the next `limit` slots, going round for ever. Return how many."""
        if self._cleared:
            self._cleared.pop()
        keys, index, deadline_of = self._keys, self._index, _DEADLINE.unpack_from
        first = self._cursor if self._cursor < len(keys) else 0
        last = min(first + limit, len(keys))
        self._cursor = last
        before = self.expirations
        for slot in range(first, last):
            key = keys[slot]
            if key is not None and deadline_of(index[hash(key) & _MASK][key], _DEADLINE_AT)[0] <= now:
                self._expire(key)
        return self.expirations - before

    def evict(self) -> bytes | None:
        """Remove the entry that the policy likes least. Return its key, None if there is no entry."""
        if not self._size:
            return None
        key = self._keys[self._policy.victim(self._keys)]
        assert key is not None
        self.remove(key)
        self.evictions += 1
        return key

    def scan(self, cursor: int, limit: int) -> tuple[list[bytes], int]:
        """Return the keys of the next `limit` slots, and the cursor to go on with: 0 at the end.

        Keys that are there during the whole walk are returned once; those that come or go meanwhile, at most once.
        """
        last = min(cursor + limit, len(self._keys))
        keys = [key for key in self._keys[cursor:last] if key is not None]
        return keys, last if last < len(self._keys) else 0

    def check_invariants(self) -> None:
        """Raise AssertionError if the parts disagree (for tests)."""
        entries = {key: record for shard in self._index for key, record in shard.items()}
        assert len(entries) == self._size == len(self._keys) - len(self._free)
        assert self.used_bytes == sum(cost_of(len(k), len(r) - HEADER_BYTES) for k, r in entries.items())
        for slot, key in enumerate(self._keys):
            assert (key is None) == (slot in self._free)
            assert key is None or HEADER.unpack_from(entries[key])[0] == slot

    def __repr__(self) -> str:
        return f"<Store entries={self._size} used_bytes={self.used_bytes}>"
