"""Remote markers: where a key is loaded from, against a plain list of changes."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from cachenode.core import markers as module
from cachenode.core.markers import HERE, Mark, Markers
from cachenode_api.selectors import EVERYTHING, SelectorKind, make_selector

KEYS = [b"a1", b"a2", b"b1"]
LIFE_S = 2.0
TAG = make_selector(SelectorKind.TAG, b"tag")
PREFIX = make_selector(SelectorKind.PREFIX, b"a")


@given(
    changes=st.lists(
        st.tuples(st.integers(0, 20), st.sampled_from([*KEYS, b"a*", b"tag"]), st.sampled_from([HERE, "east", "west"])),
        max_size=12,
    ),
    key=st.sampled_from(KEYS),
    tagged=st.booleans(),
    now=st.integers(0, 25),
    primary=st.sampled_from(["", "east"]),
)
def test_as_a_list_of_changes(
    changes: list[tuple[int, bytes, str]], key: bytes, tagged: bool, now: int, primary: str
) -> None:
    """A key is loaded where it was changed within the life of a mark, if all that changed it are the same region.

    While marks of a key follow each other without a pause they count together: then it may be loaded here longer.
    """
    marks = Markers(LIFE_S, primary)
    live: list[tuple[float, str]] = []
    followed = False
    for at, what, region in sorted(changes):
        if at > now:
            break
        if what == b"a*":
            marks.note_selector(PREFIX, region, at)
            covered = key.startswith(b"a")
        elif what == b"tag":
            marks.note_selector(TAG, region, at)
            covered = tagged
        else:
            marks.note(what, region, at)
            covered = what == key
        followed |= covered and any(until <= now for until, _ in live)
        if covered:
            live.append((at + LIFE_S, primary or region))
    regions = {region for until, region in live if until > now}
    found = marks.of(key, [b"tag"] if tagged else [], now)
    if found is not None:
        assert regions == {found.region}
        assert found.region != HERE
        assert found.until == max(until for until, region in live if until > now)
    elif not followed:
        assert len(regions) != 1 or regions == {HERE}


def test_it_says_whether_what_is_loaded_here_may_be_old() -> None:
    """Of what another region has changed, and of what two have; not of what was changed here alone."""
    marks = Markers(LIFE_S)
    assert not marks.note(b"k", HERE, 0.0)
    assert marks.note(b"k", "east", 1.0)
    assert marks.note(b"l", "east", 1.0)
    assert not marks.note(b"l", HERE, 1.5)
    assert marks.of(b"k", (), 1.5) is None
    assert marks.of(b"l", (), 1.5) is None
    assert marks.note(b"k", "east", 9.0)
    assert marks.of(b"k", (), 9.0) == Mark("east", 11.0)
    assert not marks.note_selector(PREFIX, HERE, 9.0)
    assert Markers(LIFE_S, "east").note_selector(PREFIX, HERE, 9.0)


def test_too_many_are_forgotten() -> None:
    """Nobody is asked for anything then until these would have ended: somebody else may have changed it."""
    marks = Markers(LIFE_S, limit=2)
    for number in range(3):
        marks.note(b"%d" % number, "east", float(number) / 10)
    assert marks.count(0.2) == 2
    assert marks.of(b"2", (), 0.2) is None
    assert marks.of(b"2", (), LIFE_S) == Mark("east", LIFE_S + 0.2)
    assert "2 keys, 0 selectors" in repr(marks)
    primary = Markers(LIFE_S, "east", limit=2)
    for number in range(3):
        primary.note(b"%d" % number, HERE, 0.0)
    assert primary.of(b"2", (), 0.1) == Mark("east", LIFE_S)
    for _ in range(module._MOST_SELECTORS + 1):
        marks.note_selector(PREFIX, "east", 9.0)
    assert marks.count(9.0) == module._MOST_SELECTORS
    assert marks.of(b"a1", (), 9.0) is None


def test_marks_end() -> None:
    """And take no memory then."""
    marks = Markers(LIFE_S)
    marks.note(b"k", "east", 0.0)
    marks.note_selector(PREFIX, "east", 0.0)
    assert marks.of(b"k", (), LIFE_S - 0.1) is not None
    assert marks.of(b"k", (), LIFE_S) is None
    assert marks.count(LIFE_S) == 0


def test_whole_namespace_is_not_marked() -> None:
    """Nobody is asked for everything; nor for a key, unless there is a region that has everything."""
    everything = make_selector(SelectorKind.NAMESPACE, EVERYTHING)
    for primary, expected in (("", None), ("east", Mark("east", LIFE_S))):
        marks = Markers(LIFE_S, primary)
        marks.note(b"k", "east", 0.0)
        assert marks.note_selector(everything, "east", 0.0)
        assert marks.of(b"k", (), 0.1) == expected
        assert marks.of(b"other", (), 0.1) is None
