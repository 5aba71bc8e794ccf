"""The near cache: leases, barriers, deadlines, the budget, and reads beside all of these."""

from __future__ import annotations

import math
import sys
import threading
import time
import tracemalloc
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from cachenode_api.records import HEADER, HEADER_BYTES, TAGGED
from cachenode_api.tags import pack_tags, split_tags
from cachenode_client._near import ENCODED, MAX_AGE_S, Covers, NearCache, NearEntry, Shelf, boot_clock, keyed
from cachenode_client._values import Codec
from tests.support.clock import ManualClock

NODE_NOW = 50_000.0
"""A node's clock, which has nothing to do with this one's."""
CODEC = Codec()


def decode(record: bytes) -> Any:
    flags, value = int.from_bytes(record[4:8], "little"), record[HEADER_BYTES:]
    return CODEC.decode(split_tags(value)[1] if flags & TAGGED else value, flags & ~TAGGED)


def record_of(value: Any, *, life: float = math.inf, tags: tuple[bytes, ...] = (), version: int = 1) -> bytes:
    data, flags = CODEC.encode(value)
    if tags:
        data, flags = pack_tags(tags) + data, flags | TAGGED
    return HEADER.pack(7, flags, version, NODE_NOW + life) + data


def beginning(prefix: bytes) -> Covers:
    return lambda _namespace, key, _tags: key.startswith(prefix)


def bearing(tag: bytes) -> Covers:
    return lambda _namespace, _key, tags: tag in tags


class Reader:
    """A client's near cache and one session, and reads as the client does them."""

    def __init__(self, max_bytes: int = 1 << 20, *, share: bool = False, lease_s: float = 2.0) -> None:
        self.clock = ManualClock()
        self.near = NearCache(max_bytes, decode=decode, share=share, clock=self.clock.now)
        self.shelf = self.near.shelf()
        self.renew(lease_s)

    def renew(self, lease_s: float = 2.0) -> None:
        self.shelf.renew(self.clock.now() + lease_s)

    def keep(self, raw: bytes, value: Any, *, namespace: str = "n", shelf: Shelf | None = None, **fields: Any) -> None:
        sent_at, record = self.clock.now(), record_of(value, **fields)
        self.near.keep(namespace, raw, record, shelf or self.shelf, sent_at=sent_at, now_s=NODE_NOW)

    def find(self, key: str | bytes, *, namespace: str = "n") -> NearEntry | None:
        return self.near.entries(namespace).get(key)

    def judge(self, key: str | bytes, entry: NearEntry | None, *, namespace: str = "n") -> Any:
        """Return the value of an entry if it may be served, else None."""
        now = self.clock.now()
        if entry is not None and now < entry.deadline and now < entry.lease.until:
            entry.marked = True
        elif entry is not None:
            entry = self.near.revive(namespace, key, entry, now)
        if entry is None:
            return None
        return decode(entry.record) if entry.value is ENCODED else entry.value

    def read(self, key: str | bytes, *, namespace: str = "n") -> Any:
        return self.judge(key, self.find(key, namespace=namespace), namespace=namespace)


@pytest.fixture
def reader() -> Reader:
    return Reader()


def check_bytes(near: NearCache) -> None:
    spaces = near._spaces.values()
    assert all(space.used_bytes == sum(entry.cost for entry in space.entries.values()) for space in spaces)
    assert near.used_bytes == sum(space.used_bytes for space in spaces)
    assert near.used_bytes <= near.max_bytes


# Leases.


def test_copies_are_served_while_the_lease_lives(reader: Reader) -> None:
    """A copy is served until the lease runs out, and again once it is renewed."""
    reader.keep(b"k", "v")
    reader.clock.advance(1.999)
    assert reader.read("k") == "v"
    reader.clock.advance(0.001)
    assert reader.read("k") is None
    reader.renew()
    assert reader.read("k") == "v"


def test_renewal_never_lowers_a_lease(reader: Reader) -> None:
    """An answer to an older question does not shorten the lease."""
    reader.keep(b"k", "v")
    reader.renew(0.5)
    reader.clock.advance(1.0)
    assert reader.read("k") == "v"


@pytest.mark.parametrize("lease_s", [-math.inf, 0.0])
def test_nothing_is_kept_without_a_lease(lease_s: float) -> None:
    """What comes before the first lease, or after its end, is not kept."""
    reader = Reader(lease_s=lease_s)
    reader.keep(b"k", "v")
    reader.renew()
    assert (reader.read("k"), len(reader.near)) == (None, 0)


def test_sessions_have_leases_of_their_own(reader: Reader) -> None:
    """The end of one stream, or its barriers, leave alone what came over another."""
    other = reader.near.shelf()
    other.renew(reader.clock.now() + 2.0)
    reader.keep(b"a", 1)
    reader.keep(b"b", 2, shelf=other)
    reader.shelf.lose()
    assert (reader.read("a"), reader.read("b")) == (None, 2)


# Barriers, and the interleavings of the module's header.


def test_barriers_cover_by_key_and_tag(reader: Reader) -> None:
    """A barrier ends what it covers and nothing else; a tag of a value is no part of it."""
    reader.keep(b"user:1", "one", tags=(b"red", b"blue"))
    reader.keep(b"user:2", {"two": 2}, tags=(b"blue",))
    reader.keep(b"item:1", "three")
    assert reader.read("user:2") == {"two": 2}
    reader.shelf.bar(bearing(b"red"))
    reader.find("user:2").marked = False
    assert [reader.read(key) for key in ("user:1", "user:2", "item:1")] == [None, {"two": 2}, "three"]
    assert reader.find("user:2").marked
    reader.shelf.bar(beginning(b"user:"))
    assert [reader.read(key) for key in ("user:1", "user:2", "item:1")] == [None, None, "three"]


def test_barriers_are_asked_with_the_keys_bytes(reader: Reader) -> None:
    """A barrier sees the namespace, the key's bytes however it is kept, and the tags; once for each copy."""
    seen = []

    def covers(*about: Any) -> bool:
        seen.append(about)
        return False

    reader.keep("ä".encode(), 1, tags=(b"t",))
    reader.keep(b"\xff", 2, namespace="m")
    reader.shelf.bar(covers)
    for _ in range(2):
        assert reader.read("ä") == 1
        assert reader.read(b"\xff", namespace="m") == 2
    assert seen == [("n", "ä".encode(), (b"t",)), ("m", b"\xff", ())]


def test_barrier_between_finding_and_judging(reader: Reader) -> None:
    """Interleaving 1: a copy found before a barrier is judged after it."""
    reader.keep(b"k", "v")
    entry = reader.find("k")
    reader.shelf.bar(beginning(b"k"))
    assert reader.judge("k", entry) is None


def test_barrier_before_the_copy_moves_on(reader: Reader) -> None:
    """Interleaving 2: a walk that was overtaken moves the copy to a retired lease; the next read goes on from there."""
    reader.keep(b"k", "v")
    reader.keep(b"other", "v")
    for key, served in (("k", None), ("other", "v")):
        entry = reader.find(key)
        reader.shelf.bar(beginning(b"x"))
        walked_to = reader.shelf.lease
        reader.shelf.bar(beginning(b"k"))
        reader.judge(key, entry)
        entry.lease = walked_to  # by the thread that was overtaken
        assert reader.read(key) == served
        assert reader.read(key) == served


def test_barrier_during_the_walk(reader: Reader) -> None:
    """A barrier that comes while a read walks counts for that read, too."""

    def covers(_namespace: str, _key: bytes, _tags: tuple[bytes, ...]) -> bool:
        reader.shelf.bar(beginning(b"k"))
        return False

    reader.keep(b"k", "v")
    reader.shelf.bar(covers)
    assert reader.read("k") is None


def test_drop_between_finding_and_reviving(reader: Reader) -> None:
    """Interleaving 3: a copy dropped before the walk is not served, and stays out of the table."""
    reader.keep(b"k", "v")
    entry = reader.find("k")
    reader.shelf.bar(beginning(b"x"))
    reader.near.drop("n", b"k")
    assert reader.judge("k", entry) is None
    assert (reader.find("k"), reader.near.used_bytes, reader.near.invalidated) == (None, 0, 1)


def test_drop_during_the_walk(reader: Reader) -> None:
    """Interleaving 3: a copy dropped on the way is not served, and stays out of the table."""

    def covers(_namespace: str, _key: bytes, _tags: tuple[bytes, ...]) -> bool:
        reader.near.drop("n", b"k")
        return False

    reader.keep(b"k", "v")
    reader.shelf.bar(covers)
    assert reader.read("k") is None
    assert reader.find("k") is None


def test_barrier_while_the_lease_has_run_out(reader: Reader) -> None:
    """Interleaving 4: what a barrier covers meanwhile is dead, the rest is served once the lease is renewed."""
    reader.keep(b"a", 1)
    reader.keep(b"b", 2)
    reader.clock.advance(3.0)
    reader.shelf.bar(beginning(b"a"))
    assert (reader.read("a"), reader.read("b")) == (None, None)
    reader.renew()
    assert (reader.read("a"), reader.read("b")) == (None, 2)


def test_copies_that_come_after_a_barrier(reader: Reader) -> None:
    """Interleaving 5: a copy that came after a barrier is not covered by it, and needs no new lease."""
    reader.keep(b"k", "old")
    reader.shelf.bar(beginning(b"k"))
    reader.keep(b"k", "new")
    assert reader.read("k") == "new"


def test_lost_stream_does_not_come_back(reader: Reader) -> None:
    """Interleaving 6: after the end, neither a late renewal, nor barrier, nor answer brings anything back."""
    reader.keep(b"k", "v")
    reader.shelf.bar(beginning(b"x"))
    reader.shelf.lose()
    reader.shelf.bar(beginning(b"x"))
    reader.renew()
    assert reader.read("k") is None
    reader.keep(b"late", "v")
    assert (reader.read("k"), reader.read("late"), len(reader.near)) == (None, None, 1)


def test_many_barriers_cost_nothing_but_the_walk(reader: Reader) -> None:
    """A hundred thousand barriers between two reads: the chain is walked and freed without recursion."""
    reader.keep(b"k", "v")
    reader.keep(b"unread", "v")
    covers = beginning(b"x")
    for _ in range(100_000):
        reader.shelf.bar(covers)
    assert reader.read("k") == "v"
    reader.near.drop("n", b"unread")
    assert reader.read("k") == "v"


class EagerReader(threading.Thread):
    """Reads a number without end, and notes what it should not have been served.

    Attributes:
        oldest: The least number that a read which begins now may serve. The test raises it.
    """

    oldest = 0

    def __init__(self, reader: Reader) -> None:
        super().__init__()
        self.reader = reader
        self.done = False
        self.served = 0
        self.wrong: list[object] = []

    def run(self) -> None:
        try:
            while not self.done:
                self.read()
        except Exception as error:  # noqa: BLE001 - shown by the assertion, which a thread cannot make
            self.wrong.append(error)

    def read(self) -> None:
        oldest = EagerReader.oldest
        value = self.reader.read("k")
        if value is not None:
            self.served += 1
            if value < oldest:
                self.wrong.append((value, oldest))


@pytest.fixture
def hasty_threads() -> Iterator[None]:
    before = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    yield
    sys.setswitchinterval(before)


@pytest.mark.usefixtures("hasty_threads")
def test_reads_in_another_thread() -> None:
    """Interleaving 7: no read serves what was barred, dropped or replaced before it began."""
    reader = Reader(lease_s=math.inf)
    EagerReader.oldest = 0
    threads = [EagerReader(reader) for _ in range(3)]
    for thread in threads:
        thread.start()
    undo: list[Callable[[int], None]] = [
        lambda _: reader.near.drop("n", b"k"),
        lambda _: reader.shelf.bar(beginning(b"k")),
        lambda turn: reader.keep(b"k", turn + 1),
    ]
    for turn in range(3_000):
        reader.keep(b"k", turn)
        reader.shelf.bar(beginning(b"x"))
        undo[turn % 3](turn)
        EagerReader.oldest = turn + 1
    for thread in threads:
        thread.done = True
        thread.join()
    assert [thread.wrong for thread in threads] == [[]] * 3
    assert sum(thread.served for thread in threads)
    check_bytes(reader.near)


# Deadlines.


def test_expired_copies_are_not_served(reader: Reader) -> None:
    """A copy's life counts from the question, on this client's clock."""
    reader.renew(1_000.0)
    sent_at = reader.clock.now()
    reader.clock.advance(0.5)
    reader.near.keep("n", b"k", record_of("v", life=3.0), reader.shelf, sent_at=sent_at, now_s=NODE_NOW)
    reader.clock.advance(2.499)
    assert reader.read("k") == "v"
    reader.clock.advance(0.001)
    assert reader.read("k") is None


def test_no_copy_is_served_for_longer_than_the_node_remembers(reader: Reader) -> None:
    """A copy of a value that never expires is served for `MAX_AGE_S` from the question on."""
    reader.renew(1_000.0)
    reader.keep(b"k", "v")
    reader.clock.advance(MAX_AGE_S - 0.001)
    assert reader.read("k") == "v"
    reader.clock.advance(0.001)
    assert reader.read("k") is None


def test_nothing_expired_is_kept(reader: Reader) -> None:
    """A record without remaining life, or an answer that took longer than that, is not kept."""
    reader.keep(b"dead", "v", life=0.0)
    sent_at = reader.clock.now()
    reader.clock.advance(1.0)
    reader.near.keep("n", b"late", record_of("v", life=1.0), reader.shelf, sent_at=sent_at, now_s=NODE_NOW)
    assert len(reader.near) == 0


# What a copy holds.


@pytest.mark.parametrize("value", [b"bytes", "text", 17, 0.5, True, None])
def test_what_nobody_can_change_is_kept_decoded(reader: Reader, value: Any) -> None:
    """Values of the direct types are decoded once, and only the header is kept beside them."""
    reader.keep(b"k", value, life=5.0, version=9)
    entry = reader.find("k")
    assert (entry.value, type(entry.value)) == (value, type(value))
    _, flags, version, deadline = HEADER.unpack(entry.record)
    assert (flags, version, deadline) == (CODEC.encode(value)[1], 9, reader.clock.now() + 5.0)


def test_what_can_be_changed_is_decoded_for_each_reader(reader: Reader) -> None:
    """Two readers of a list get lists of their own; the record's deadline is on this client's clock."""
    reader.keep(b"k", [1], life=5.0)
    assert reader.find("k").value is ENCODED
    reader.read("k").append(2)
    assert reader.read("k") == [1]
    assert HEADER.unpack_from(reader.find("k").record)[3] == reader.clock.now() + 5.0


def test_sharing_hands_out_one_object() -> None:
    """With `share`, all readers get the same object, and the record's header only is kept."""
    reader = Reader(share=True)
    reader.keep(b"k", {"a": [1, [2]]})
    assert reader.read("k") is reader.read("k")
    assert (reader.read("k"), len(reader.find("k").record)) == ({"a": [1, [2]]}, HEADER_BYTES)


def test_cyclic_values_are_measured() -> None:
    """A shared value that holds itself can be kept."""
    loop: list[Any] = []
    loop.append(loop)
    near = NearCache(decode=lambda _record: loop, share=True, clock=lambda: 0.0)
    shelf = near.shelf()
    shelf.renew(1.0)
    near.keep("n", b"k", record_of([1]), shelf, sent_at=0.0, now_s=NODE_NOW)
    assert near.entries("n")["k"].value is loop


@pytest.mark.parametrize("data", [b"17x", b""])
def test_what_cannot_be_decoded_is_not_kept(reader: Reader, data: bytes) -> None:
    """A damaged record is left to its reader, and takes the older copy away."""
    reader.keep(b"k", 17)
    damaged = HEADER.pack(0, 2, 1, math.inf) + data
    reader.near.keep("n", b"k", damaged, reader.shelf, sent_at=reader.clock.now(), now_s=NODE_NOW)
    assert (len(reader.near), reader.near.used_bytes) == (0, 0)


def test_keys_are_found_under_one_form(reader: Reader) -> None:
    """A key that is text is kept as str, others as bytes; both are dropped by their bytes."""
    raws = [b"plain", "ä".encode(), b"\xff\xfe"]
    assert [keyed(raw) for raw in raws] == ["plain", "ä", b"\xff\xfe"]
    for raw in raws:
        reader.keep(raw, 1)
    assert list(reader.near.entries("n")) == ["plain", "ä", b"\xff\xfe"]
    reader.near.drop_many("n", [*raws, b"absent"])
    assert (len(reader.near), reader.near.invalidated) == (0, 3)


def test_entries_stay_the_same_object(reader: Reader) -> None:
    """The dictionary of a namespace may be held for ever; others do not see its keys."""
    entries = reader.near.entries("n")
    reader.keep(b"k", 1)
    reader.near.drop("n", b"k")
    reader.near.drop("unknown", b"k")
    reader.keep(b"k", 2)
    assert reader.near.entries("n") is entries
    assert "k" in entries
    assert not reader.near.entries("m")


def test_newer_copy_replaces_the_older(reader: Reader) -> None:
    """A key has one copy; whoever holds the older entry still does not serve it."""
    reader.keep(b"k", "old")
    old = reader.find("k")
    reader.keep(b"k", "newer")
    assert (reader.read("k"), reader.judge("k", old)) == ("newer", None)
    assert (len(reader.near), reader.near.inserts, reader.near.invalidated) == (1, 2, 0)
    check_bytes(reader.near)


# The budget.


def fill(reader: Reader, count: int, *, first: int = 0) -> None:
    for number in range(first, first + count):
        reader.keep(b"%05d" % number, b"x" * 100)


def test_the_oldest_make_room() -> None:
    """The budget holds, and what came last stays."""
    reader = Reader(20_000)
    fill(reader, 1_000)
    kept = list(reader.near.entries("n"))
    assert kept == [f"{number:05}" for number in range(1_000 - len(kept), 1_000)]
    assert reader.near.evictions == 1_000 - len(kept)
    check_bytes(reader.near)
    assert reader.near.used_bytes > 19_000


def test_what_is_read_stays() -> None:
    """A copy that was read since it last came up for eviction goes round once more, one time."""
    reader = Reader(20_000)
    fill(reader, 10)
    for _ in range(5):
        assert reader.read("00000")
        fill(reader, 30, first=reader.near.inserts)
    assert reader.read("00000")
    fill(reader, 100, first=1_000)
    assert reader.read("00000") is None


def test_second_chances_are_bounded() -> None:
    """Where all was read, an insert looks at a few and then evicts all the same."""
    reader = Reader(100_000)
    fill(reader, 1_000)
    entries = reader.near.entries("n")
    for entry in entries.values():
        entry.marked = True
    evictions = reader.near.evictions
    reader.keep(b"one more", b"x" * 100)
    assert reader.near.evictions - evictions <= 2
    assert sum(not entry.marked for entry in entries.values()) <= 33


def test_the_largest_namespace_makes_room() -> None:
    """A namespace that floods the budget takes nothing from small ones."""
    reader = Reader(40_000)
    reader.keep(b"k", "small", namespace="m")
    fill(reader, 1_000)
    assert reader.read("k", namespace="m") == "small"


@pytest.mark.parametrize(("value", "share"), [(b"x" * 2_600, False), (["x" * 2_400], False), ([0] * 700, True)])
def test_large_values_are_not_kept(value: Any, share: bool) -> None:
    """A value of more than an eighth of the budget is not kept, and takes the older copy away."""
    reader = Reader(20_000, share=share)
    reader.keep(b"k", 1)
    reader.keep(b"k", value)
    assert len(reader.near) == 0


@pytest.mark.parametrize("make", [str, float, lambda number: b"x" * (number % 500), lambda number: {"id": number}])
@pytest.mark.parametrize("share", [False, True])
def test_costs_are_about_what_copies_take(make: Callable[[int], Any], share: bool) -> None:
    """The bytes counted are those that the process has taken, give or take a fifth."""
    raws = [f"user:{number:07}".encode() for number in range(10_000)]
    records = [record_of(make(number)) for number in range(10_000)]
    near = NearCache(1 << 30, decode=decode, share=share, clock=lambda: 0.0)
    shelf = near.shelf()
    shelf.renew(1.0)
    tracemalloc.start()
    try:
        for raw, record in zip(raws, records, strict=True):
            near.keep("n", raw, record, shelf, sent_at=0.0, now_s=NODE_NOW)
        taken, _ = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert near.used_bytes == pytest.approx(taken, rel=0.2)


# Sweeping.


def test_sweep_removes_the_dead_in_slices(reader: Reader) -> None:
    """Slices go on where the last stopped, round and round, and remove what nothing can bring back."""
    other = reader.near.shelf()
    other.renew(reader.clock.now() + 1_000.0)
    for number in range(10):
        reader.keep(b"expires %d" % number, number, shelf=other, life=1.0)
        reader.keep(b"barred %d" % number, number, shelf=other, namespace="m")
        reader.keep(b"lost %d" % number, number)
        reader.keep(b"stays %d" % number, number, shelf=other, namespace="m")
    reader.clock.advance(1.0)
    other.bar(beginning(b"barred"))
    reader.shelf.lose()
    removed = [reader.near.sweep(7) for _ in range(7)]
    assert max(removed) <= 7
    assert sum(removed) == 30
    assert list(reader.near.entries("m")) == [f"stays {number}" for number in range(10)]
    assert (len(reader.near), reader.near.evictions, reader.near.invalidated) == (10, 0, 0)
    check_bytes(reader.near)
    reader.clock.advance(MAX_AGE_S)
    assert sum(reader.near.sweep(7) for _ in range(4)) == 10


def test_sweep_keeps_what_may_be_served_again(reader: Reader) -> None:
    """A lease that ran out is no reason to remove a copy."""
    reader.keep(b"k", "v")
    reader.clock.advance(3.0)
    reader.near.sweep(10)
    reader.near.sweep(10)
    reader.renew()
    assert reader.read("k") == "v"


def test_sweep_lets_go_of_the_chain(reader: Reader) -> None:
    """Copies that nobody reads move on to their present leases, so the chains do not grow."""
    reader.keep(b"k", "v")
    for _ in range(3):
        reader.shelf.bar(beginning(b"x"))
    reader.near.sweep(10)
    reader.near.sweep(10)
    assert reader.find("k").lease is reader.shelf.lease


def test_sweep_survives_changes_between_slices(reader: Reader) -> None:
    """Keys may come and go, and namespaces appear, while a round is under way."""
    fill(reader, 10)
    reader.near.sweep(1)
    reader.near.sweep(3)
    reader.near.drop_many("n", [b"%05d" % number for number in range(10)])
    reader.keep(b"k", 1, namespace="m")
    assert [reader.near.sweep(3) for _ in range(5)] == [0] * 5
    assert reader.read("k", namespace="m") == 1


def test_the_clock_goes_on(reader: Reader) -> None:
    """The near clock counts seconds that begin with the machine, and is never behind the monotonic one."""
    assert boot_clock() >= time.monotonic() - 1e-3
    assert repr(reader.shelf).startswith("<Shelf <Lease")
    reader.keep(b"secret", "secret")
    assert "secret" not in repr(reader.find("secret"))


# All of it, beside something that does the same by looking at everything.

KEYS = [b"a", b"ab", b"b", b"\xff"]
TAGS = [b"t", b"u"]
COVERS: dict[str, Covers] = {
    "a*": beginning(b"a"),
    "b*": beginning(b"b"),
    "tag t": bearing(b"t"),
    "namespace": lambda namespace, _key, _tags: namespace == "n",
}


class Kept(NamedTuple):
    """What the model knows of a copy."""

    value: int
    tags: tuple[bytes, ...]
    shelf: int
    at: int
    deadline: float


class NearMachine(RuleBasedStateMachine):
    """A near cache beside a dictionary and the list of all barriers."""

    def __init__(self) -> None:
        super().__init__()
        self.reader = Reader(1 << 30, lease_s=-math.inf)
        self.shelves = [self.reader.shelf, self.reader.near.shelf()]
        self.until = [-math.inf, -math.inf]
        self.lost = [-1, -1]
        self.model: dict[tuple[str, bytes], Kept] = {}
        self.barriers: list[tuple[int, int, Covers]] = []
        self.steps = 0

    def expected(self, namespace: str, key: bytes) -> int | None:
        copy, now = self.model.get((namespace, key)), self.reader.clock.now()
        if copy is None or copy.at < self.lost[copy.shelf] or copy.deadline <= now or self.until[copy.shelf] <= now:
            return None
        later = (covers for shelf, at, covers in self.barriers if shelf == copy.shelf and at > copy.at)
        return None if any(covers(namespace, key, copy.tags) for covers in later) else copy.value

    @rule(seconds=st.sampled_from([0.5, 1.0, 20.0]))
    def wait(self, seconds: float) -> None:
        self.reader.clock.advance(seconds)

    @rule(shelf=st.integers(0, 1), lease_s=st.sampled_from([0.5, 2.0, 30.0]))
    def renew(self, shelf: int, lease_s: float) -> None:
        until = self.reader.clock.now() + lease_s
        self.shelves[shelf].renew(until)
        self.until[shelf] = max(self.until[shelf], until)

    @rule(
        namespace=st.sampled_from("nm"),
        key=st.sampled_from(KEYS),
        tags=st.lists(st.sampled_from(TAGS), unique=True).map(tuple),
        shelf=st.integers(0, 1),
        life=st.sampled_from([0.0, 1.0, 30.0, math.inf]),
    )
    def keep(self, namespace: str, key: bytes, tags: tuple[bytes, ...], shelf: int, life: float) -> None:
        self.steps += 1
        now = self.reader.clock.now()
        self.reader.keep(key, self.steps, namespace=namespace, tags=tags, shelf=self.shelves[shelf], life=life)
        self.model.pop((namespace, key), None)
        if now < self.until[shelf]:
            deadline = now + min(life, MAX_AGE_S)
            self.model[namespace, key] = Kept(self.steps, tags, shelf, self.steps, deadline)

    @rule(shelf=st.integers(0, 1), covers=st.sampled_from(sorted(COVERS)))
    def bar(self, shelf: int, covers: str) -> None:
        self.steps += 1
        self.shelves[shelf].bar(COVERS[covers])
        self.barriers.append((shelf, self.steps, COVERS[covers]))

    @rule(shelf=st.integers(0, 1))
    def lose(self, shelf: int) -> None:
        """The stream ends and another begins."""
        self.steps += 1
        self.shelves[shelf].lose()
        self.shelves[shelf] = self.reader.near.shelf()
        self.until[shelf], self.lost[shelf] = -math.inf, self.steps

    @rule(namespace=st.sampled_from("nm"), key=st.sampled_from(KEYS))
    def drop(self, namespace: str, key: bytes) -> None:
        self.reader.near.drop(namespace, key)
        self.model.pop((namespace, key), None)

    @rule(limit=st.integers(1, 9))
    def sweep(self, limit: int) -> None:
        self.reader.near.sweep(limit)

    @rule(namespace=st.sampled_from("nm"), key=st.sampled_from(KEYS))
    def read(self, namespace: str, key: bytes) -> None:
        assert self.reader.read(keyed(key), namespace=namespace) == self.expected(namespace, key)

    @invariant()
    def bytes_add_up(self) -> None:
        check_bytes(self.reader.near)

    def teardown(self) -> None:
        for namespace in "nm":
            for key in KEYS:
                assert self.reader.read(keyed(key), namespace=namespace) == self.expected(namespace, key)


TestNearMachine = NearMachine.TestCase
TestNearMachine.settings = settings(max_examples=150, stateful_step_count=40, deadline=None)
