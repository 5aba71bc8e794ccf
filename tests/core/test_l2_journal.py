"""What the shared store has missed and may forget, and the floors in place of what is not remembered."""

from __future__ import annotations

from cachenode.core.l2_journal import RECENT_S, L2Journal
from cachenode_api.selectors import SelectorKind, make_selector

USERS = make_selector(SelectorKind.PREFIX, b"user:")


def test_newest_version_of_a_missed_key_counts() -> None:
    """A write that comes late does not make the journal forget a newer one that was missed."""
    journal = L2Journal(10)
    assert not journal
    journal.note("n", [(b"k", 7)])
    journal.note("n", [(b"k", 5)])
    assert journal.by_namespace() == {"n": [(b"k", 7)]}
    assert journal


def test_newer_write_takes_a_key_out() -> None:
    """A value that is as old as what was missed leaves the key in; a newer one does not."""
    journal = L2Journal(10)
    journal.note("n", [(b"k", 7)])
    journal.note("other", [(b"k", 7)])
    journal.written("n", [(b"k", 7)], 0.0)
    assert ("n", b"k") in journal.keys
    journal.written("n", [(b"k", 8)], 0.0)
    assert journal.by_namespace() == {"other": [(b"k", 7)]}


def test_what_was_missed_again_meanwhile_is_replayed_again() -> None:
    """A tombstone or a barrier that reached the store does not stand for a later one."""
    journal = L2Journal(10)
    journal.note("n", [(b"k", 7), (b"other", 7)])
    drops = journal.by_namespace(1)
    assert drops == {"n": [(b"k", 7)]}
    journal.note("n", [(b"k", 8)])
    journal.replayed("n", drops["n"], 0.0)
    assert journal.keys == {("n", b"k"): 8, ("n", b"other"): 7}
    journal.note_barriers("n", [(3, USERS)])
    journal.note_barriers("n", [(9, USERS), (4, USERS)])
    journal.replayed_barrier("n", 3, USERS)
    assert journal.barriers == {("n", USERS): 9}
    journal.replayed_barrier("n", 9, USERS)
    journal.replayed("n", [(b"k", 8), (b"other", 7)], 0.0)
    assert not journal


def test_missed_keys_beyond_the_limit_become_a_floor() -> None:
    """The oldest go, and the floor is above all of them."""
    journal = L2Journal(2)
    assert journal.note("n", [(b"a", 9), (b"b", 3)]) == 0
    assert journal.note("n", [(b"c", 10), (b"d", 11)]) == 9
    assert journal.by_namespace() == {"n": [(b"c", 10), (b"d", 11)]}


def test_store_without_its_last_writes_has_missed_them() -> None:
    """What was written lately counts as missed; what has long reached the replicas does not."""
    journal = L2Journal(10)
    journal.written("n", [(b"old", 5)], 0.0)
    journal.written("n", [(b"new", 6)], 1.0)
    assert journal.recall(RECENT_S + 0.5) == 0
    assert journal.by_namespace() == {"n": [(b"new", 6)]}
    assert journal.forgotten(RECENT_S + 0.5) == 0


def test_writes_beyond_the_limit_become_a_floor() -> None:
    """Who remembers fewer writes than a failover may forget distrusts the rest, for as long as it may forget them."""
    journal = L2Journal(2)
    journal.written("n", [(b"a", 5), (b"b", 6), (b"c", 7)], 10.0)
    assert journal.forgotten(10.0) == 5
    journal.recall(10.0)
    assert journal.by_namespace() == {"n": [(b"b", 6), (b"c", 7)]}
    assert journal.forgotten(10.0 + RECENT_S) == 0


def test_member_that_is_gone_becomes_a_floor() -> None:
    """Nobody has its journal, until all that it wrote is safe, or another member says who has gone."""
    journal = L2Journal(10)
    journal.bereave(100, 10.0)
    assert journal.forgotten(10.0) == 100
    assert journal.forgotten(10.0 + RECENT_S) == 0
    journal.console()
    assert journal.forgotten(10.0) == 0


def test_tombstones_are_remembered_like_writes() -> None:
    """The store may forget what it was told after the fact."""
    journal = L2Journal(10)
    journal.note("n", [(b"k", 7)])
    journal.replayed("n", [(b"k", 7)], 0.0)
    assert not journal
    journal.recall(1.0)
    assert journal.by_namespace() == {"n": [(b"k", 7)]}


def test_testament_is_all_that_was_written_lately() -> None:
    """The newest version of each key, for as long as it is to be known; an heir remembers it no longer than that."""
    journal, heir = L2Journal(10), L2Journal(10)
    journal.written("n", [(b"old", 1)], 0.0)
    journal.written("n", [(b"k", 3), (b"k", 4)], 30.0)
    journal.written("m", [(b"k", 5)], 31.0)
    left = journal.testament(RECENT_S + 1.0)
    assert left == {"n": [(b"k", 4, 29.0)], "m": [(b"k", 5, 30.0)]}
    for namespace, written in left.items():
        heir.inherit(namespace, written, 500.0)
    heir.recall(529.5)
    assert heir.by_namespace() == {"m": [(b"k", 5)]}


def test_no_testament_of_who_is_not_sure() -> None:
    """The store has missed something, or more is to be feared than the journal holds."""
    journal = L2Journal(1)
    assert journal.testament(0.0) == {}
    journal.note("n", [(b"k", 7)])
    assert journal.testament(0.0) is None
    journal = L2Journal(1)
    journal.written("n", [(b"k", 1), (b"l", 2)], 0.0)
    assert journal.testament(0.0) is None
    journal = L2Journal(1)
    journal.bereave(5, 0.0)
    assert journal.testament(0.0) is None
    assert journal.testament(RECENT_S + 1.0) == {}
