"""The store: entries, versions, deadlines, slots and the byte count."""

from __future__ import annotations

import math
import os
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from cachenode.core.policies import POLICIES
from cachenode.core.store import _SLOT_AND_DEADLINE, Meter, Store, cost_of
from cachenode_api.records import HEADER, HEADER_BYTES

KEYS = [b"k%d" % number for number in range(12)]
MANY = 5_000


def put(
    store: Store, key: bytes, value: bytes = b"v", *, version: int = 1, deadline: float = math.inf, now: float = 0.0
) -> bool:
    return store.put(key, value, flags=7, version=version, deadline=deadline, now=now)


def value_of(record: bytes | None) -> bytes | None:
    return None if record is None else record[HEADER_BYTES:]


class StoreMachine(RuleBasedStateMachine):
    """A store beside a dictionary that does the same."""

    def __init__(self) -> None:
        super().__init__()
        self.now = 0.0
        self.version = 0
        self.model: dict[bytes, tuple[bytes, int, float]] = {}
        self.expirations = 0
        self.evictions = 0

    @initialize(policy=st.sampled_from(sorted(POLICIES)))
    def start(self, policy: str) -> None:
        self.store = Store(policy)

    def expected(self, key: bytes) -> tuple[bytes, int, float] | None:
        """What a read finds; it drops what has expired."""
        entry = self.model.get(key)
        if entry is not None and entry[2] <= self.now:
            del self.model[key]
            self.expirations += 1
            return None
        return entry

    @rule(seconds=st.sampled_from([0.5, 1.0, 5.0]))
    def wait(self, seconds: float) -> None:
        self.now += seconds

    @rule(
        key=st.sampled_from(KEYS),
        value=st.binary(max_size=40),
        ttl=st.sampled_from([0.5, 2.0, math.inf]),
        newer=st.sampled_from([1, 1, 1, 0, -1]),
    )
    def put(self, key: bytes, value: bytes, ttl: float, newer: int) -> None:
        self.version = max(1, self.version + newer)
        old = self.model.get(key)
        stored = old is None or old[2] <= self.now or old[1] < self.version
        deadline = self.now + ttl
        assert put(self.store, key, value, version=self.version, deadline=deadline, now=self.now) is stored
        if stored:
            self.model[key] = (value, self.version, deadline)

    @rule(key=st.sampled_from(KEYS), mark=st.booleans())
    def get(self, key: bytes, mark: bool) -> None:
        entry = self.expected(key)
        record = self.store.get(key, self.now) if mark else self.store.peek(key, self.now)
        assert (record is None) == (entry is None)
        if record is not None and entry is not None:
            assert HEADER.unpack_from(record)[1:] == (7, *entry[1:])
            assert record[HEADER_BYTES:] == entry[0]

    @rule(keys=st.lists(st.sampled_from(KEYS), max_size=15))
    def get_many(self, keys: list[bytes]) -> None:
        entries = [self.expected(key) for key in keys]
        records = self.store.get_many(keys, self.now)
        assert [record[HEADER_BYTES:] if record else None for record in records] == [
            entry[0] if entry else None for entry in entries
        ]

    @rule(key=st.sampled_from(KEYS))
    def remove(self, key: bytes) -> None:
        entry = self.model.pop(key, None)
        assert value_of(self.store.remove(key)) == (entry[0] if entry else None)

    @rule()
    def evict(self) -> None:
        key = self.store.evict()
        assert (key is None) == (not self.model)
        if key is not None:
            del self.model[key]
            self.evictions += 1

    @rule(limit=st.integers(1, 8))
    def sweep(self, limit: int) -> None:
        dropped = self.store.sweep(self.now, limit)
        gone = self.model.keys() - self.walk(limit)
        assert len(gone) == dropped
        for key in gone:
            assert self.expected(key) is None, "a sweep drops what has expired, nothing else"

    @rule(limit=st.integers(1, 8))
    def scan(self, limit: int) -> None:
        keys = self.walk(limit)
        assert sorted(keys) == sorted(self.model)

    def walk(self, limit: int) -> list[bytes]:
        found, cursor = self.store.scan(0, limit)
        while cursor:
            keys, cursor = self.store.scan(cursor, limit)
            found += keys
        return found

    @rule()
    def clear(self) -> None:
        self.store.clear()
        self.model.clear()

    @invariant()
    def consistent(self) -> None:
        self.store.check_invariants()
        assert len(self.store) == len(self.model)
        assert self.store.meter.used == self.store.used_bytes
        assert (self.store.expirations, self.store.evictions) == (self.expirations, self.evictions)


TestStoreMachine = StoreMachine.TestCase
TestStoreMachine.settings = settings(max_examples=150, stateful_step_count=40, deadline=None)


@pytest.fixture(params=sorted(POLICIES))
def store(request: pytest.FixtureRequest) -> Store:
    return Store(request.param)


def test_the_short_header_agrees_with_the_contract() -> None:
    """The hot paths' view of a header reads the slot and the deadline of the record both ends agreed on."""
    assert _SLOT_AND_DEADLINE.unpack_from(HEADER.pack(1, 2, 3, 4.5)) == (1, 4.5)


def test_an_expired_entry_is_absent_and_dropped_when_read(store: Store) -> None:
    """At its deadline an entry is gone for get, get_many and peek, and the read drops it. Scenario 20."""
    for key in KEYS[:3]:
        put(store, key, deadline=10.0)
    assert store.get(KEYS[0], 9.99)
    assert store.get(KEYS[0], 10.0) is None
    assert store.get_many([KEYS[1]], 10.0) == [b""]
    assert store.peek(KEYS[2], 10.0) is None
    assert (len(store), store.expirations, store.used_bytes) == (0, 3, 0)


def test_an_expired_entry_gives_way_to_an_older_version(store: Store) -> None:
    """Absent is absent: an expired entry's version refuses nothing."""
    put(store, b"k", b"new", version=9, deadline=10.0)
    assert put(store, b"k", b"old", version=3, now=10.0)
    assert value_of(store.peek(b"k", 10.0)) == b"old"


@pytest.mark.parametrize("version", [4, 5])
def test_an_older_or_equal_version_is_refused(store: Store, version: int) -> None:
    """The last writer by version wins, whatever the order of arrival; a repeated write changes nothing."""
    put(store, b"k", b"first", version=5)
    before = store.used_bytes
    assert not put(store, b"k", b"second and longer than the first by far", version=version)
    assert value_of(store.get(b"k", 0.0)) == b"first"
    assert store.used_bytes == before


@pytest.mark.parametrize("size", [0, 3, 500, 100_000])
def test_overwriting_with_another_size_is_counted(store: Store, size: int) -> None:
    """After an overwrite the store counts the new value's bytes and not the old one's."""
    put(store, b"k", b"x" * 400)
    tables = store.used_bytes - cost_of(1, 400)
    put(store, b"k", b"x" * size, version=2)
    assert store.used_bytes == cost_of(1, size) + tables
    assert len(store) == 1


def test_nothing_to_evict(store: Store) -> None:
    """An empty store evicts nothing and does not count it."""
    assert store.evict() is None
    assert store.evictions == 0


def test_removing_twice(store: Store) -> None:
    """The first removal returns the record, the second None."""
    put(store, b"k", b"value")
    assert value_of(store.remove(b"k")) == b"value"
    assert store.remove(b"k") is None


def test_an_empty_store_uses_no_bytes(store: Store) -> None:
    """Whatever its tables grew to, a store whose last entry goes gives everything back."""
    for number in range(MANY):
        put(store, b"%d" % number)
    store.evict()
    assert store.used_bytes > MANY * cost_of(1, 1)
    for number in range(MANY):
        store.remove(b"%d" % number)
    assert store.used_bytes == store.meter.used == 0
    store.check_invariants()


def test_the_sweep_goes_round(store: Store) -> None:
    """Slices cover all slots one after the other, stop at the end, and begin again."""
    for number in range(10):
        put(store, b"%d" % number, deadline=1.0 + number)
    assert store.sweep(0.0, 8) == 0
    assert store.sweep(100.0, 8) == 2, "the two slots that were left"
    assert store.sweep(3.0, 8) == 3, "from the beginning: deadlines 1, 2 and 3"
    assert store.sweep(100.0, 8) == 0, "those two slots are empty by now"
    assert store.sweep(100.0, 8) == 5
    assert len(store) == 0
    assert store.expirations == 10


def test_slots_are_used_again(store: Store) -> None:
    """Entries that come and go do not make the arrays longer."""
    put(store, b"stays")
    for number in range(1_000):
        put(store, b"%d" % number)
        store.remove(b"%d" % number)
    assert len(store._keys) == 2


def test_cleared_memory_is_freed_by_sweeps(store: Store) -> None:
    """Clearing takes effect at once; sweeps free the parts bit by bit, also while the store is empty or used again."""
    for number in range(MANY):
        put(store, b"%d" % number, b"old")
    store.clear()
    assert (len(store), store.used_bytes, store.peek(b"1", 0.0)) == (0, 0, None)
    put(store, b"1", b"new")
    store.clear()
    put(store, b"1", b"newer")
    for _ in range(MANY):
        store.sweep(0.0, 10)
    assert not store._freeing
    assert value_of(store.peek(b"1", 0.0)) == b"newer"
    store.check_invariants()


def test_a_sweep_tightens_dictionaries_that_lost_their_entries(store: Store) -> None:
    """When most entries have gone, sweeps build small dictionaries, and the byte count follows."""
    for number in range(MANY):
        put(store, b"%d" % number)
    for number in range(20, MANY):
        store.remove(b"%d" % number)
    before = store.used_bytes
    for _ in range(200):
        store.sweep(0.0, 10)
    assert store.used_bytes < before / 4
    assert [value_of(store.peek(b"%d" % number, 0.0)) for number in range(20)] == [b"v"] * 20
    store.check_invariants()


def test_tables_of_the_policy_are_counted() -> None:
    """What a policy allocates when evictions begin is on the bill of the store and of its budget."""
    store = Store("s3fifo")
    for number in range(MANY):
        put(store, b"%d" % number)
    before = store.used_bytes
    store.evict()
    ghosts = 2 * MANY * 4
    assert store.used_bytes == store.meter.used == before - cost_of(1, 1) + ghosts
    store.evict()
    assert store.used_bytes < before + ghosts, "made once"


def test_an_entry_beyond_the_whole_budget_is_refused(store: Store) -> None:
    """What can never fit is not stored, and the older value that it was to replace is dropped."""
    store.meter = Meter(1_000)
    assert not put(store, b"k", b"x" * 1_000)
    assert put(store, b"k", b"small", version=2)
    assert put(store, b"other", b"small")
    assert not put(store, b"k", b"x" * 1_000, version=1), "older: nothing changes"
    assert value_of(store.peek(b"k", 0.0)) == b"small"
    assert not put(store, b"k", b"x" * 1_000, version=3)
    assert store.peek(b"k", 0.0) is None
    assert len(store) == 1
    store.check_invariants()


def test_a_scan_returns_what_stays_exactly_once(store: Store) -> None:
    """Keys that are there from begin to end of a walk are returned once although others come and go meanwhile."""
    for number in range(100):
        put(store, b"stays %d" % number)
    found: list[bytes] = []
    cursor, step = 0, 0
    while cursor or not step:
        keys, cursor = store.scan(cursor, 7)
        found += keys
        put(store, b"comes %d" % step)
        store.remove(b"comes %d" % (step - 3))
        step += 1
    assert sorted(key for key in found if key.startswith(b"stays")) == sorted(b"stays %d" % n for n in range(100))


def test_a_scan_survives_that_the_store_is_emptied(store: Store) -> None:
    """A cursor from before the store was emptied ends the walk."""
    for number in range(100):
        put(store, b"%d" % number)
    _, cursor = store.scan(0, 50)
    store.clear()
    assert store.scan(cursor, 50) == ([], 0)


def test_hits_count_for_the_eviction_order(store: Store) -> None:
    """An entry that get_many or get has read outlives one that nobody read; a peek counts for nothing."""
    for number in range(100):
        put(store, b"%d" % number)
    store.get_many([b"0"] * 10, 0.0)
    store.get(b"1", 0.0)
    store.get(b"1", 0.0)
    store.peek(b"2", 0.0)
    evicted = [store.evict() for _ in range(50)]
    assert b"2" in evicted
    assert not {b"0", b"1"} & set(evicted)


def test_an_unknown_policy() -> None:
    """A name that is no policy's is refused at once."""
    with pytest.raises(KeyError, match="random"):
        Store("random")


def test_the_repr_shows_no_keys(store: Store) -> None:
    """A store in a log line or traceback shows sizes, never keys or values."""
    put(store, b"secret", b"secret")
    assert repr(store) == f"<Store entries=1 used_bytes={store.used_bytes}>"


FILL = """
import sys
from cachenode.core.store import Store

def resident():
    with open("/proc/self/status") as lines:
        return next(int(line.split()[1]) for line in lines if line.startswith("VmRSS:")) * 1024

entries, size, replaced = map(int, sys.argv[1:])
store = Store()
before = resident()
for number in range(entries + replaced):
    store.put(b"key:%013d" % number, bytes(size), flags=0, version=1, deadline=1e9 + number, now=0.0)
    if number >= entries:
        store.evict()
print(store.used_bytes, resident() - before)
"""


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="resident memory is read from /proc")
@pytest.mark.parametrize("replaced", [0, 1], ids=["filled", "all replaced"])
@pytest.mark.parametrize(("entries", "size"), [(200_000, 10), (200_000, 100), (50_000, 2_000)])
def test_used_bytes_are_what_the_process_grows_by(entries: int, size: int, replaced: int) -> None:
    """In a fresh process the count of a full store is within 15 % of the growth of its resident memory."""
    arguments = [sys.executable, "-c", FILL, str(entries), str(size), str(replaced * entries)]
    environ = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
    output = subprocess.run(arguments, env=environ, capture_output=True, check=True, text=True).stdout
    used, grown = map(int, output.split())
    assert used == pytest.approx(grown, rel=0.15)
