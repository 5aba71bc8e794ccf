"""The walk that removes what barriers cover."""

from __future__ import annotations

import math

from hypothesis import given
from hypothesis import strategies as st

from cachenode.core.store import Store
from cachenode.core.sweep import Sweep, tags_of
from cachenode_api.records import HEADER, STALE, TAGGED
from cachenode_api.selectors import EVERYTHING, Selector, SelectorKind, make_selector
from cachenode_api.tags import MAX_TAG_BYTES, MAX_TAGS, pack_tags


def prefix(text: bytes) -> Selector:
    return make_selector(SelectorKind.PREFIX, text)


def tag(text: bytes) -> Selector:
    return make_selector(SelectorKind.TAG, text)


WHOLE = make_selector(SelectorKind.NAMESPACE, EVERYTHING)


class Swept:
    """A store with its sweep, and reads as a node does them."""

    def __init__(self, count: int = 0) -> None:
        self.store = Store()
        self.sweep = Sweep(self.store)
        for number in range(count):
            self.put(b"k%d" % number, 1)

    def put(self, key: bytes, version: int, *tags: bytes) -> None:
        value = pack_tags(tags) + b"v" if tags else b"v"
        flags = TAGGED if tags else 0
        self.store.put(key, value, flags=flags, version=version, deadline=math.inf, now=0.0)

    def read(self, key: bytes) -> bool:
        record = self.store.get(key, 0.0)
        return record is not None and (not self.sweep.active or self.sweep.until(key, record) > 0.0)

    def walk(self, slots: int = 64) -> None:
        while self.sweep.active:
            self.sweep.step(slots, 0.0)


def test_covered_at_once_and_removed_in_slices() -> None:
    """A barrier is in force from its first moment; memory is freed by and by, and what it does not cover stays."""
    swept = Swept(1_000)
    swept.put(b"other", 1)
    swept.sweep.bar(prefix(b"k"), 2)
    assert (swept.read(b"k7"), swept.read(b"other"), len(swept.store)) == (False, True, 1_001)
    assert swept.sweep.step(10, 0.0) <= 10
    assert swept.sweep.active
    swept.walk()
    assert (len(swept.store), swept.sweep.removed, swept.read(b"other")) == (1, 1_000, True)


def test_what_is_written_after_the_barrier_stays() -> None:
    """An entry of a higher version than the barrier's came later: readers get it, and the walk leaves it."""
    swept = Swept(10)
    swept.sweep.bar(prefix(b"k"), 2)
    swept.put(b"k3", 3)
    assert swept.read(b"k3")
    swept.walk()
    assert swept.read(b"k3")
    assert len(swept.store) == 1


def test_barrier_during_a_walk_waits_for_the_next() -> None:
    """A second barrier counts at once too, also for slots that the walk has passed; its own walk removes them."""
    swept = Swept(1_000)
    swept.put(b"x", 1)
    swept.sweep.bar(prefix(b"k99"), 2)
    while len(swept.store) == 1_001:
        swept.sweep.step(100, 0.0)
    swept.sweep.bar(prefix(b"k"), 3)
    swept.sweep.bar(tag(b"t"), 4)
    assert not any(swept.read(b"k%d" % number) for number in range(1_000))
    assert swept.read(b"x")
    swept.walk()
    assert len(swept.store) == 1
    assert swept.sweep.removed == 1_000


def test_tags_are_looked_at() -> None:
    """A tag's barrier covers what bears it, and nothing else."""
    swept = Swept(3)
    swept.put(b"red", 1, b"colour", b"red")
    swept.sweep.bar(tag(b"red"), 2)
    assert (swept.read(b"red"), swept.read(b"k1")) == (False, True)
    swept.walk()
    assert len(swept.store) == 3


def test_whole_namespace_needs_no_walk() -> None:
    """A barrier of the namespace empties memory at once."""
    swept = Swept(100)
    swept.sweep.bar(WHOLE, 2)
    assert (len(swept.store), swept.sweep.active, swept.sweep.removed) == (0, False, 100)


def test_empty_store_needs_no_walk() -> None:
    """Where there is nothing a barrier leaves nothing to do; a step then does nothing."""
    swept = Swept()
    swept.sweep.bar(prefix(b"k"), 2)
    assert not swept.sweep.active
    assert swept.sweep.step(10, 0.0) == 0
    swept.sweep.expire(prefix(b"k"), 3, 5.0, 0.0)
    assert not swept.sweep.active


def test_store_emptied_during_a_walk() -> None:
    """A namespace barrier in the middle of a walk leaves a walk that ends by itself."""
    swept = Swept(100)
    swept.sweep.bar(prefix(b"k"), 2)
    swept.sweep.step(10, 0.0)
    swept.sweep.bar(WHOLE, 3)
    swept.put(b"k1", 4)
    swept.walk()
    assert swept.read(b"k1")


def test_longest_block_of_tags_is_read() -> None:
    """The tags of a record are found however many they are, and however long the value behind them is."""
    tags = tuple(b"%02d" % number + b"t" * (MAX_TAG_BYTES - 2) for number in range(MAX_TAGS))
    record = HEADER.pack(0, TAGGED, 1, math.inf) + pack_tags(tags) + b"v" * 100_000
    assert tags_of(record) == tags
    assert tags_of(HEADER.pack(0, 0, 1, math.inf) + pack_tags(tags)) == ()


def test_repr_says_whether_a_walk_is_under_way() -> None:
    """Its form for people."""
    assert repr(Swept().sweep) == "<Sweep active=False removed=0>"


@given(
    events=st.lists(
        st.one_of(
            st.tuples(st.just("put"), st.sampled_from([b"a1", b"a2", b"b1", b"b2"])),
            st.tuples(st.just("bar"), st.sampled_from([b"a", b"b", b"a1"])),
            st.tuples(st.just("step"), st.integers(1, 3)),
        ),
        max_size=40,
    )
)
def test_readers_see_what_came_after_the_last_barrier(events: list[tuple[str, object]]) -> None:
    """Whatever the walk has reached, a key is there exactly if it was put after the last barrier that covers it."""
    swept, alive = Swept(), set[bytes]()
    for version, (what, argument) in enumerate(events, 1):
        if what == "put":
            assert isinstance(argument, bytes)
            swept.put(argument, version)
            alive.add(argument)
        elif what == "bar":
            assert isinstance(argument, bytes)
            swept.sweep.bar(prefix(argument), version)
            alive = {key for key in alive if not key.startswith(argument)}
        else:
            assert isinstance(argument, int)
            swept.sweep.step(argument, 0.0)
        assert {key for key in (b"a1", b"a2", b"b1", b"b2") if swept.read(key)} == alive
    swept.walk()
    assert len(swept.store) == len(alive)


def test_expired_entries_are_marked() -> None:
    """An expired entry stays until its end, marked; it is looked at once more when it is read, and walked over once."""
    swept = Swept(10)
    swept.put(b"red", 1, b"red")
    swept.sweep.expire(tag(b"red"), 2, 5.0, 0.0)
    record = swept.store.peek(b"red", 0.0)
    assert record is not None
    assert swept.sweep.until(b"red", record) == 5.0
    judged = swept.sweep.judge(b"red", record, 0.0)
    _, flags, version, deadline = HEADER.unpack_from(judged)
    assert (flags, version, deadline) == (TAGGED | STALE, 1, 5.0)
    swept.walk()
    assert (swept.sweep.removed, swept.sweep.expired) == (0, 1)
    assert swept.store.peek(b"red", 4.9) == judged
    assert swept.store.peek(b"red", 5.0) is None
    swept.store.check_invariants()


def test_expired_entries_end_with_the_walk_if_their_time_is_over() -> None:
    """A walk that comes late removes what should have ended meanwhile."""
    swept = Swept(10)
    swept.sweep.expire(prefix(b"k"), 2, 5.0, 0.0)
    assert swept.sweep.step(100, 5.0) == 10
    assert (len(swept.store), swept.sweep.removed, swept.sweep.expired) == (0, 10, 0)


def test_removal_during_an_expiry_removes() -> None:
    """What is marked already goes if a barrier covers it, and an expiry of everything needs a walk."""
    swept = Swept(10)
    swept.sweep.expire(WHOLE, 2, 5.0, 0.0)
    swept.sweep.bar(prefix(b"k1"), 3)
    swept.walk()
    assert (len(swept.store), swept.sweep.removed, swept.sweep.expired) == (9, 1, 9)
    swept.sweep.expire(prefix(b"k"), 4, 9.0, 0.0)
    swept.walk()
    assert swept.sweep.expired == 9  # they end sooner already
