"""Changes of settings: which is the newest, and how they are kept."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cachenode.core.holdoff import Holdoff
from cachenode.core.live_policy import LivePolicy
from cachenode.core.memory import Memory
from cachenode.core.negatives import Negatives
from cachenode.core.store import Store

POLICIES = st.builds(LivePolicy, st.integers(0, 3), st.dictionaries(st.sampled_from("ab"), st.sampled_from("xyé")))


@given(one=POLICIES, other=POLICIES)
def test_of_two_changes_one_is_newer(one: LivePolicy, other: LivePolicy) -> None:
    """All who know both take the same one; the text brings back what was kept."""
    assert one.newer(other) + other.newer(one) == (one != other)
    assert LivePolicy.parse(one.text) == one


def test_next_version_has_what_was_changed_before() -> None:
    """Settings add up; what is reset goes, also all of it."""
    first = LivePolicy().changed({"ttl_s": "10m", "stale_s": "30s"})
    second = first.changed({"ttl_s": "5m"}, frozenset({"stale_s"}))
    assert second == LivePolicy(2, {"ttl_s": "5m"})
    assert second.changed({"share": "2"}, None) == LivePolicy(3, {"share": "2"})


@pytest.mark.parametrize("text", ["", "[]", "{}", '{"version": 1, "fields": 3}', '{"version": null, "fields": {}}'])
def test_what_is_no_change(text: str) -> None:
    """Something else at its place is told, whatever it is."""
    with pytest.raises(ValueError, match=r"not the settings|Expecting"):
        LivePolicy.parse(text)


def test_longer_holdoff_holds_everything_off_once() -> None:
    """What was removed before was not noted for so long. A shorter one changes nothing that is noted."""
    holdoff = Holdoff(0.0)
    holdoff.note(b"k", 0.0)
    holdoff.change(2.0, 1.0)
    assert holdoff.covers(b"k", (), 1.0)
    assert not holdoff.covers(b"k", (), 3.0)
    holdoff.note(b"k", 3.0)
    holdoff.change(1.0, 3.0)
    assert holdoff.covers(b"k", (), 4.9)
    assert not holdoff.covers(b"other", (), 3.5)


def test_absences_of_another_time() -> None:
    """Those that are known keep their end; none is believed once they are switched off."""
    negatives = Negatives(5.0)
    negatives.note(b"k", 0.0, 1)
    negatives.change(1.0)
    assert negatives.since(b"k", 4.0) == 1
    negatives.note(b"new", 0.0, 1)
    assert negatives.since(b"new", 1.0) is None
    negatives.change(0.0)
    assert negatives.since(b"k", 4.0) is None


def test_share_may_change() -> None:
    """Whoever uses more for its new share gives next."""
    memory = Memory(10_000)
    one, other = Store(), Store()
    for name, store in (("one", one), ("other", other)):
        memory.add(name, store, share=1.0)
        for at in range(20):
            store.put(b"%d" % at, b"x" * 100, flags=0, version=1, deadline=9.0, now=0.0)
    memory.set_share("one", 99.0)
    for at in range(20, 60):
        one.put(b"%d" % at, b"x" * 100, flags=0, version=1, deadline=9.0, now=0.0)
    memory.make_room()
    assert len(one) > len(other) == 0
