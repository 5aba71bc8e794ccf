"""Quotas: what a namespace may take, whatever else there is, and what is refused."""

from __future__ import annotations

import math

from hypothesis import given
from hypothesis import strategies as st

from cachenode.core.memory import Memory
from cachenode.core.quotas import Quota
from cachenode.core.store import Store, cost_of

ENTRY = cost_of(8, 100)


def key_of(number: int) -> bytes:
    return b"%8d" % number


def put(store: Store, number: int, size: int = 100, *, deadline: float = math.inf) -> None:
    assert store.put(key_of(number), bytes(size), flags=0, version=number + 1, deadline=deadline, now=0.0)


@given(
    sizes=st.lists(st.integers(0, 3_000), max_size=80),
    max_bytes=st.none() | st.integers(1, 40_000),
    max_keys=st.none() | st.integers(1, 20),
)
def test_quota_holds_after_each_write(sizes: list[int], max_bytes: int | None, max_keys: int | None) -> None:
    """Neither bytes nor keys are ever beyond it, and the other namespace loses nothing."""
    memory, store, other = Memory(1 << 24), Store(), Store()
    quota = Quota(store, max_bytes, max_keys)
    memory.add("small", store, share=1.0, quota=quota)
    memory.add("other", other, share=1.0)
    for number in range(50):
        put(other, number)
    gone = 0
    for number, size in enumerate(sizes):
        put(store, number, size)
        gone += memory.make_room("small").get("small", 0)
        assert max_bytes is None or store.used_bytes <= max_bytes or not len(store)
        assert max_keys is None or len(store) <= max_keys
    assert len(other) == 50
    assert quota.evictions == gone == len(sizes) - len(store)
    if max_bytes is None and max_keys is None:
        assert gone == 0


def test_quota_of_another_namespace_is_left_alone() -> None:
    """Only the one that has got entries is looked at; a budget that is exceeded is everybody's matter as before."""
    memory, store, other = Memory(20_000), Store(), Store()
    memory.add("small", store, share=1.0, quota=Quota(store, None, 5))
    memory.add("other", other, share=1.0)
    for number in range(10):
        put(store, number)
    assert memory.make_room("other") == {}
    assert memory.make_room("small") == {"small": 5}
    for number in range(200):
        put(other, number)
        memory.make_room("other")
    assert memory.used_bytes <= 20_000
    assert len(store) == 5, "it is within its share"


def test_what_is_refused() -> None:
    """New keys beyond the number; bytes beyond the size; what is overwritten counts for its growth alone."""
    store = Store()
    keys = Quota(store, None, 3, refuses=True)
    for number in range(2):
        put(store, number)
    room = keys.room(0.0)
    assert room.refusal(key_of(2), 100) == ""
    assert room.refusal(key_of(3), 100) == "max_keys: 4 keys would exceed the namespace's quota of 3 a node"
    assert room.refusal(key_of(0), 9_000) == ""
    assert keys.refusals == 1
    limit = store.used_bytes + 12_000  # room for one of 10,000, and for dictionaries that are measured meanwhile
    room = Quota(store, limit, None, refuses=True).room(0.0)
    assert room.refusal(key_of(0), 100) == ""
    assert room.refusal(key_of(5), 10_000) == ""
    text = room.refusal(key_of(6), 10_000)
    assert text.startswith("max_bytes: ")
    assert text.endswith(f" bytes would exceed the namespace's quota of {limit:,} a node")
    assert room.refusal(key_of(0), 50) == "", "what gets smaller has room"


def test_expired_entries_are_in_nobodys_way() -> None:
    """They are dropped before a write is refused."""
    store = Store()
    quota = Quota(store, None, 2, refuses=True)
    put(store, 0, deadline=5.0)
    put(store, 1)
    assert quota.room(4.0).refusal(key_of(2), 10)
    assert quota.room(6.0).refusal(key_of(2), 10) == ""
    assert len(store) == 1
