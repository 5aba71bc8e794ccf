"""What is known to be absent, for how long, and what ends it."""

from __future__ import annotations

import math
import tracemalloc

from cachenode.core.memory import Memory
from cachenode.core.negatives import Absences, Negatives
from cachenode.core.store import Meter, Store


def test_absence_is_believed_for_its_time() -> None:
    """Until then its position is told; afterwards it is forgotten."""
    negatives = Negatives(5.0)
    negatives.note(b"k", 10.0, 3)
    assert negatives.since(b"k", 14.9) == 3
    assert negatives.since(b"other", 14.9) is None
    assert negatives.since(b"k", 15.0) is None
    assert len(negatives) == 0


def test_nothing_is_noted_without_a_time() -> None:
    """Zero switches it off."""
    negatives = Negatives(0.0)
    negatives.note(b"k", 10.0, 0)
    assert not negatives


def test_write_ends_it() -> None:
    """One key, or all of them."""
    negatives = Negatives(5.0)
    for key in (b"a", b"b", b"c"):
        negatives.note(key, 10.0, 0)
    negatives.void(b"a")
    negatives.void(b"never noted")
    assert [negatives.since(key, 11.0) for key in (b"a", b"b")] == [None, 0]
    negatives.void_all()
    assert len(negatives) == 0


def test_made_up_keys_push_out_the_oldest() -> None:
    """The memory is bounded; a key that is noted again is young again."""
    negatives = Negatives(5.0, Absences(Meter(16 * 3 * 257)))
    for number in (0, 1, 2, 0, 3):
        negatives.note(b"%d" % number, 10.0, 0)
    assert [negatives.since(b"%d" % number, 11.0) for number in range(4)] == [0, None, 0, 0]
    assert repr(negatives) == "<Negatives 3 keys>"


def test_namespace_with_most_forgets_first() -> None:
    """Whoever makes keys up in one namespace pushes out the absences of that one."""
    absences = Absences(Meter(16 * 100 * 300))
    quiet, flooded = Negatives(5.0, absences), Negatives(5.0, absences)
    quiet.note(b"quiet", 10.0, 0)
    for number in range(10_000):
        flooded.note(b"%08d" % number, 10.0, 0)
        assert absences.used == quiet.used_bytes + flooded.used_bytes <= absences.max_bytes
    assert quiet.since(b"quiet", 11.0) == 0
    assert flooded.since(b"00009999", 11.0) == 0
    flooded.void_all()
    assert absences.used == quiet.used_bytes


def test_made_up_keys_do_not_make_the_process_grow() -> None:
    """A penetration attack on a full cache: its memory stays within the budget, and nearly all values stay."""
    budget = 4 << 20
    tracemalloc.start()
    memory, store = Memory(budget), Store()
    memory.add("n", store, share=1.0)
    memory.add("other", Store(), share=1.0)
    negatives = Negatives(60.0, memory.absences)
    for number in range(15_000):
        store.put(b"%08d" % number, bytes(200), flags=0, version=number + 1, deadline=math.inf, now=0.0)
        memory.make_room("n")
    full = len(store)
    for number in range(80_000):
        negatives.note(b"made-up:%012d" % number, number / 1e4, 1 << 40 | number)
        memory.make_room()
        assert memory.used_bytes <= budget
    _, most = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert most < budget * 1.05
    assert full < 15_000
    assert len(store) > 0.9 * full
    assert 0.9 * memory.absences.max_bytes < memory.absences.used <= memory.absences.max_bytes
