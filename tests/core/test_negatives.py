"""What is known to be absent, for how long, and what ends it."""

from __future__ import annotations

from cachenode.core.negatives import Negatives


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
    negatives = Negatives(5.0, max_bytes=3 * 201)
    for number in (0, 1, 2, 0, 3):
        negatives.note(b"%d" % number, 10.0, 0)
    assert [negatives.since(b"%d" % number, 11.0) for number in range(4)] == [0, None, 0, 0]
    assert repr(negatives) == "<Negatives 3 keys>"
