"""The node's memory budget over namespaces."""

from __future__ import annotations

import math
from collections.abc import Mapping

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cachenode.core.memory import Memory
from cachenode.core.store import Store, cost_of

ENTRY = cost_of(8, 100)
SHARES = {"a": 1.0, "b": 3.0, "c": 0.5}


def put(store: Store, number: int, size: int = 100) -> bool:
    return store.put(b"%8d" % number, bytes(size), flags=0, version=number + 1, deadline=math.inf, now=0.0)


def memory_with(max_bytes: int, shares: Mapping[str, float]) -> tuple[Memory, dict[str, Store]]:
    memory = Memory(max_bytes)
    stores = {name: Store() for name in shares}
    for name, store in stores.items():
        memory.add(name, store, share=shares[name])
    return memory, stores


def fill(memory: Memory, store: Store, first: int, count: int) -> dict[str, int]:
    """Put entries, making room after each; return what was evicted by namespace."""
    evicted: dict[str, int] = {}
    for number in range(first, first + count):
        assert put(store, number)
        for name, entries in memory.make_room().items():
            evicted[name] = evicted.get(name, 0) + entries
    return evicted


def test_there_is_room() -> None:
    """Within the budget nothing goes."""
    memory, stores = memory_with(100_000, SHARES)
    assert fill(memory, stores["a"], 0, 20) == {}
    assert memory.used_bytes == stores["a"].used_bytes >= 20 * ENTRY


def test_without_namespaces_there_is_room() -> None:
    """A budget that nothing uses evicts nothing."""
    memory = Memory(0)
    assert memory.make_room() == {}
    assert memory.max_bytes == 0


def test_one_namespace_may_use_everything() -> None:
    """A namespace that is alone fills the budget, then loses as much as it stores."""
    memory, stores = memory_with(500_000, SHARES)
    evicted = fill(memory, stores["c"], 0, 5_000)
    assert evicted == {"c": stores["c"].evictions}
    assert 490_000 < memory.used_bytes <= 500_000


def test_space_goes_back_to_those_within_their_share() -> None:
    """A namespace that took everything gives way to others until each has its share, and those lose nothing."""
    memory, stores = memory_with(900_000, SHARES)
    fill(memory, stores["c"], 0, 5_000)
    evicted = fill(memory, stores["b"], 0, 1_500)
    assert evicted.keys() == {"c"}
    fill(memory, stores["a"], 0, 5_000)
    fill(memory, stores["b"], 1_500, 5_000)
    total = sum(SHARES.values())
    for name, store in stores.items():
        assert store.used_bytes == pytest.approx(900_000 * SHARES[name] / total, rel=0.1)
        store.check_invariants()


def test_who_uses_most_for_its_share_gives() -> None:
    """Of two namespaces beyond their shares the larger gives until they are level, then both do."""
    memory, stores = memory_with(1_000_000, {"a": 1.0, "b": 1.0, "c": 3.0})
    fill(memory, stores["a"], 0, 5_000)
    while stores["b"].used_bytes < 400_000:
        fill(memory, stores["b"], len(stores["b"]), 1)
    assert stores["b"].evictions == 0
    while stores["c"].used_bytes < 400_000:
        fill(memory, stores["c"], len(stores["c"]), 1)
    assert stores["a"].used_bytes == pytest.approx(300_000, rel=0.03)
    assert stores["b"].used_bytes == pytest.approx(300_000, rel=0.03)
    assert stores["c"].evictions == 0


def test_who_gave_stops_at_its_share() -> None:
    """Few large entries are not taken beyond their namespace's share to make room for many small ones."""
    memory, stores = memory_with(100_000, {"a": 1.0, "b": 1.0})
    for number in range(100):
        put(stores["a"], number, size=2_000)
        memory.make_room()
    fill(memory, stores["b"], 0, 1_000)
    assert stores["a"].used_bytes > 50_000 - 2 * cost_of(8, 2_000)
    assert stores["b"].evictions > 0


def test_a_budget_of_one_entry() -> None:
    """With room for one entry the newest is kept."""
    memory, stores = memory_with(2 * ENTRY - 1, {"a": 1.0})
    store = stores["a"]
    for number in range(50):
        assert put(store, number)
        memory.make_room()
        assert len(store) <= 1
        assert memory.used_bytes <= memory.max_bytes
    store.check_invariants()


def test_an_entry_beyond_the_budget_costs_the_others_nothing() -> None:
    """A value that can never fit is refused before anything is evicted for it."""
    memory, stores = memory_with(20_000, SHARES)
    fill(memory, stores["a"], 0, 10)
    assert not put(stores["b"], 1, size=20_000)
    assert memory.make_room() == {}
    assert len(stores["a"]) == 10
    assert memory.used_bytes <= 20_000


def test_a_big_entry_makes_many_small_ones_go() -> None:
    """One call evicts as many as it takes."""
    memory, stores = memory_with(100_000, {"a": 1.0, "b": 1.0})
    fill(memory, stores["a"], 0, 300)
    assert put(stores["b"], 1, size=40_000)
    evicted = memory.make_room()
    assert evicted.keys() == {"a"}
    assert evicted["a"] > 50
    assert memory.used_bytes <= 100_000


def test_clearing_gives_the_budget_back() -> None:
    """What a namespace clears is free for the others at once."""
    memory, stores = memory_with(100_000, SHARES)
    fill(memory, stores["a"], 0, 100)
    stores["a"].clear()
    assert memory.used_bytes == 0


def test_only_an_empty_store_joins() -> None:
    """A store with entries would bring bytes that the budget never counted."""
    store = Store()
    put(store, 1)
    with pytest.raises(AssertionError, match="before it is used"):
        Memory(100_000).add("a", store, share=1.0)


@settings(deadline=None, max_examples=60)
@given(
    puts=st.lists(
        st.tuples(st.sampled_from(sorted(SHARES)), st.integers(0, 300), st.sampled_from([0, 100, 3_000])), max_size=300
    ),
    max_bytes=st.integers(4_000, 60_000),
)
def test_only_those_beyond_their_share_lose(puts: list[tuple[str, int, int]], max_bytes: int) -> None:
    """After each put the budget holds, and whoever lost an entry was beyond its share until then."""
    memory, stores = memory_with(max_bytes, SHARES)
    biggest = cost_of(8, 3_000)
    for name, number, size in puts:
        put(stores[name], number, size)
        evicted = memory.make_room()
        assert memory.used_bytes <= max_bytes
        assert memory.used_bytes == sum(store.used_bytes for store in stores.values())
        for loser in evicted:
            share = max_bytes * SHARES[loser] / sum(SHARES.values())
            # An emptied store gives its tables back as well, so its last eviction says less than the others'.
            assert not len(stores[loser]) or stores[loser].used_bytes + biggest > share
    for store in stores.values():
        store.check_invariants()
