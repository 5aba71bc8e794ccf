"""The entries of one namespace in memory.

An entry is a key and a record, both ``bytes``. The record's header holds the entry's slot; by slot lie the key and what
the eviction policy needs, in arrays. So an entry costs two objects that the garbage collector never visits, and some 60
bytes of tables.

The index is 64 dictionaries chosen by the key's hash, not one. A dictionary of a million entries stops the node for
30 ms when it grows, and again each time a full cache has replaced half of its entries; one of 64 for less than one.
The choice costs about 0.1 µs a look-up. It takes the hash's highest bits, because a dictionary places keys by the
lowest: keys that agree in those would collide.

Expiry has no heap and no timers. A read finds an entry expired and drops it; `sweep` walks the slots in slices and
drops the others. Between its deadline and the sweep an expired entry takes memory but is never served.

Memory is counted, not guessed: what the allocators round objects up to, the arrays, and the dictionaries as they are.
A dictionary takes 27 to 54 bytes an entry while it fills and twice that once it is full and entries are replaced, as in
every cache at its budget. So each is measured again from time to time, and its change charged in small steps: a big one
would make `Memory` evict thousands at once. Sweeps and evictions build those anew that lost most of their entries;
else a namespace that was large once would lose its last entries to pay for empty tables.

There are no locks: one loop uses a store.
"""

from __future__ import annotations

import sys
from array import array
from collections.abc import Sequence
from struct import Struct

from cachenode.core.policies import DEFAULT_POLICY, POLICIES, EvictionPolicy
from cachenode.core.policies.base import MAX_MARK
from cachenode_api.records import HEADER, HEADER_BYTES, STALE

__all__ = ["Meter", "Store", "cost_of"]

_DICTS = 64
_SHIFT = sys.hash_info.width - 6
"""`hash(key) >> _SHIFT` is -32 to 31, an index into a list of 64 counted from either end."""
_SLOT_AND_DEADLINE = Struct("<I12xd")
"""A record's header without what the hot paths do not need, so that nobody makes integers of it."""
_ARRAYS = 19
"""Bytes of arrays per entry: 8 of keys, 9 of the policy, and what arrays are longer than they need be."""
_OBJECT = 48
"""What a bytes object takes beside its content, 33 bytes, and 15 to round up to the allocator's steps of 16."""
_VALUE_COST = HEADER_BYTES + _OBJECT
_MEASURE_MASK = 15
_CHARGE_AT_MOST = 16 * 1024
_LOOSE = 160
_LOOSE_AT_LEAST = 512
"""Bytes of a dictionary, per entry and in all, above which it has lost most of its entries."""
_FREED_AT_ONCE = 2_000
_FEWEST_SLOTS = 64
_GROWTH = 8
"""Arrays grow by an eighth."""


def cost_of(key_bytes: int, value_bytes: int) -> int:
    """Return what an entry costs in memory, without its share of the dictionaries.

    That is two objects and the arrays.
    """
    return (key_bytes + _OBJECT & -16) + (value_bytes + _VALUE_COST & -16) + _ARRAYS


class Meter:
    """Bytes used by all stores that share a budget.

    Args:
        max_bytes: An entry that costs more is not stored.
    """

    __slots__ = ("max_bytes", "used")

    def __init__(self, max_bytes: int = sys.maxsize) -> None:
        self.max_bytes = max_bytes
        self.used = 0


class Store:
    """Entries by key, with versions, deadlines, an eviction order and a byte count.

    Nothing is evicted unless `evict` is called: see `Memory`.

    Args:
        policy: Name of the eviction policy.
        meter: Counts the bytes of several stores together.

    Attributes:
        used_bytes: What the entries cost, bookkeeping included. Tables do not shrink when entries go, so after many
            have gone the process holds more than this, for entries to come.
        evictions: Entries that `evict` removed.
        expirations: Entries removed because their deadline had passed.

    Raises:
        KeyError: There is no such policy.
    """

    __slots__ = (
        "_capacity",
        "_charged",
        "_cursor",
        "_freeing",
        "_index",
        "_keys",
        "_make_policy",
        "_policy",
        "_policy_extra",
        "_size",
        "_tidied",
        "_vacant",
        "evictions",
        "expirations",
        "meter",
        "used_bytes",
    )

    def __init__(self, policy: str = DEFAULT_POLICY, *, meter: Meter | None = None) -> None:
        self._make_policy = POLICIES[policy]
        self.meter = meter or Meter()
        self._freeing: list[dict[bytes, bytes] | list[bytes | None]] = []
        self.used_bytes = 0
        self.evictions = 0
        self.expirations = 0
        self._begin()

    def _begin(self) -> None:
        self._policy: EvictionPolicy = self._make_policy()
        self._policy_extra = 0
        self._index: list[dict[bytes, bytes]] = [{} for _ in range(_DICTS)]
        self._charged = [0] * _DICTS
        self._keys: list[bytes | None] = []
        self._vacant = array("I")
        self._capacity = 0
        self._size = 0
        self._cursor = 0
        self._tidied = 0

    def __len__(self) -> int:
        return self._size

    # Reading.

    def get_many(self, keys: Sequence[bytes], now: float) -> list[bytes]:
        """Return the record of each key, empty where there is none. A hit counts for the eviction order."""
        index, shift, unpack, policy = self._index, _SHIFT, _SLOT_AND_DEADLINE.unpack_from, self._policy
        marks = policy.marks
        found: list[bytes] = []
        append = found.append
        for key in keys:
            record = index[hash(key) >> shift].get(key)
            if record is None:
                append(b"")
                continue
            slot, deadline = unpack(record)
            if deadline <= now:
                self._expire(key)
                append(b"")
                continue
            if marks is None:
                policy.hit(slot)
            else:
                mark = marks[slot]
                if mark & MAX_MARK != MAX_MARK:
                    marks[slot] = mark + 1
            append(record)
        return found

    def get(self, key: bytes, now: float) -> bytes | None:
        """Return a key's record, None if there is none. A hit counts for the eviction order."""
        record = self._index[hash(key) >> _SHIFT].get(key)  # as `peek`, without the call
        if record is None:
            return None
        slot, deadline = _SLOT_AND_DEADLINE.unpack_from(record)
        if deadline <= now:
            self._expire(key)
            return None
        self._policy.hit(slot)
        return record

    def peek(self, key: bytes, now: float) -> bytes | None:
        """Return a key's record, None if there is none. Counts for nothing."""
        record = self._index[hash(key) >> _SHIFT].get(key)
        if record is None:
            return None
        if _SLOT_AND_DEADLINE.unpack_from(record)[1] <= now:
            self._expire(key)
            return None
        return record

    def heat(self, record: bytes) -> int:
        """Return how often an entry was read lately, as far as the policy counts it: 0 to 7."""
        marks = self._policy.marks
        return marks[_SLOT_AND_DEADLINE.unpack_from(record)[0]] & 0b111 if marks is not None else 0

    # Writing.

    def put(self, key: bytes, value: bytes, *, flags: int, version: int, deadline: float, now: float) -> bool:
        """Store a value unless one as new or newer is there. What is overwritten keeps its place in the eviction order.

        Returns:
            False if the value was not stored: the entry there has this version or a higher one and has not expired; or
            the value does not fit the budget, in which case the older entry is removed.
        """
        cost = (len(key) + _OBJECT & -16) + (len(value) + _VALUE_COST & -16) + _ARRAYS  # cost_of, without the call
        key_hash = hash(key)
        entries = self._index[key_hash >> _SHIFT]
        old = entries.get(key)
        meter = self.meter
        if old is None:
            if cost > meter.max_bytes:
                return False
            slot = self._vacant.pop() if self._vacant else self._new_slot()
            self._keys[slot] = key
            self._policy.admitted(slot, key_hash)
            self._size += 1
            if not slot & _MEASURE_MASK:
                cost += self._charge(key_hash >> _SHIFT)
        else:
            slot, _, there, until = HEADER.unpack_from(old)
            if there >= version and until > now:
                return False
            if cost > meter.max_bytes:
                self.remove(key)
                return False
            cost -= cost_of(len(key), len(old) - HEADER_BYTES)
        entries[key] = HEADER.pack(slot, flags, version, deadline) + value
        self.used_bytes += cost
        meter.used += cost
        return True

    def mark_stale(self, key: bytes, until: float) -> bytes:
        """Mark an entry as stale, and let it end then if it does not end before. Return its record.

        Raises:
            KeyError: There is no entry.
        """
        entries = self._index[hash(key) >> _SHIFT]
        record = entries[key]
        slot, flags, version, deadline = HEADER.unpack_from(record)
        if not flags & STALE or until < deadline:
            record = HEADER.pack(slot, flags | STALE, version, min(deadline, until)) + record[HEADER_BYTES:]
            entries[key] = record
        return record

    def _new_slot(self) -> int:
        slot = len(self._keys)
        self._keys.append(None)
        if slot >= self._capacity:
            self._capacity = max(_FEWEST_SLOTS, slot + slot // _GROWTH)
            self._policy.grow(self._capacity)
        return slot

    def _charge(self, at: int) -> int:
        """Return what to add to the bytes used so that they follow the size of a dictionary."""
        entries = self._index[at]
        change = (sys.getsizeof(entries) if entries else 0) - self._charged[at]
        change = max(-_CHARGE_AT_MOST, min(_CHARGE_AT_MOST, change))
        self._charged[at] += change
        return change

    def prolong(self, key: bytes, deadline: float) -> None:
        """Give a key's entry another deadline; nothing else about it changes. It must be there."""
        entries = self._index[hash(key) >> _SHIFT]
        record = entries[key]
        slot, flags, version, _ = HEADER.unpack_from(record)
        entries[key] = HEADER.pack(slot, flags, version, deadline) + record[HEADER_BYTES:]

    def remove(self, key: bytes) -> bytes | None:
        """Remove a key's entry. Return its record, None if there was none."""
        record = self._index[hash(key) >> _SHIFT].pop(key, None)
        if record is None:
            return None
        slot: int = _SLOT_AND_DEADLINE.unpack_from(record)[0]
        self._policy.removed(slot)
        self._keys[slot] = None
        self._vacant.append(slot)
        cost = cost_of(len(key), len(record) - HEADER_BYTES)
        self._size -= 1
        self.used_bytes -= cost
        self.meter.used -= cost
        if not self._size:
            self.clear()
        return record

    def clear(self) -> None:
        """Remove all entries at once. The next sweeps give their memory back: freeing a million takes 0.3 s."""
        self._freeing += [entries for entries in self._index if entries]
        if self._size:
            self._freeing.append(self._keys)
        self._begin()
        self.meter.used -= self.used_bytes
        self.used_bytes = 0

    # Expiry, eviction, moving.

    def _expire(self, key: bytes) -> None:
        self.remove(key)
        self.expirations += 1

    def sweep(self, now: float, limit: int) -> int:
        """Drop expired entries among the next `limit` slots, and go on where the last call stopped, round and round.

        Call it also while the store is empty: it frees what `clear` removed.

        Returns:
            How many entries it dropped.
        """
        if self._freeing:
            self._free()
        self._tidy()
        keys, index, unpack = self._keys, self._index, _SLOT_AND_DEADLINE.unpack_from
        first = self._cursor if self._cursor < len(keys) else 0
        self._cursor = last = min(first + limit, len(keys))
        dropped = 0
        for slot in range(first, last):
            key = keys[slot]
            if key is not None and unpack(index[hash(key) >> _SHIFT][key])[1] <= now:
                self._expire(key)
                dropped += 1
        return dropped

    def _tidy(self) -> None:
        at = self._tidied = (self._tidied + 1) % _DICTS
        entries = self._index[at]
        if sys.getsizeof(entries) > _LOOSE * len(entries) + _LOOSE_AT_LEAST:
            self._index[at] = {**entries}  # dict(entries) may copy a loose table as it is
        change = self._charge(at)
        self.used_bytes += change
        self.meter.used += change

    def _free(self) -> None:
        part = self._freeing[-1]
        if isinstance(part, list):
            del part[-_FREED_AT_ONCE:]
        else:
            for _ in range(min(_FREED_AT_ONCE, len(part))):
                part.popitem()
        if not part:
            self._freeing.pop()

    def evict(self) -> bytes | None:
        """Remove the entry that the policy likes least. Return its key, None if there is no entry."""
        if not self._size:
            return None
        policy = self._policy
        key = self._keys[policy.victim(self._keys)]
        assert key is not None, "a policy names entries that are there"
        if policy.extra_bytes != self._policy_extra:
            change = policy.extra_bytes - self._policy_extra
            self._policy_extra = policy.extra_bytes
            self.used_bytes += change
            self.meter.used += change
        self.remove(key)
        self.evictions += 1
        if not self.evictions & _MEASURE_MASK:
            self._tidy()
        return key

    def scan(self, cursor: int, limit: int) -> tuple[list[bytes], int]:
        """Return the keys of the next `limit` slots, and the cursor to go on with: 0 at the end.

        Keys that are there during the whole walk are returned exactly once. Keys that come meanwhile may be missed,
        and a key that goes and comes again may be returned twice.
        """
        last = min(cursor + limit, len(self._keys))
        keys = [key for key in self._keys[cursor:last] if key is not None]
        return keys, last if last < len(self._keys) else 0

    def check_invariants(self) -> None:
        """Raise AssertionError if the parts disagree (for tests)."""
        records = {key: record for entries in self._index for key, record in entries.items()}
        by_slot = {slot: key for slot, key in enumerate(self._keys) if key is not None}
        assert len(records) == self._size == len(by_slot)
        assert {key: HEADER.unpack_from(record)[0] for key, record in records.items()} == {
            key: slot for slot, key in by_slot.items()
        }
        assert all(key in self._index[hash(key) >> _SHIFT] for key in records)
        assert sorted([*by_slot, *self._vacant]) == list(range(len(self._keys))), "a slot is used once or vacant once"
        assert sorted(self._policy.slots()) == sorted(by_slot), "the policy knows the entries that are there"
        costs = sum(cost_of(len(key), len(record) - HEADER_BYTES) for key, record in records.items())
        assert self.used_bytes == costs + sum(self._charged) + self._policy_extra

    def __repr__(self) -> str:
        return f"<Store entries={self._size} used_bytes={self.used_bytes}>"
