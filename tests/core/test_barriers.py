"""The log of barriers: what it covers, what it forgets, and that it never covers too little."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from cachenode.core.barriers import BarrierLog
from cachenode_api.selectors import EVERYTHING, Selector, SelectorKind, make_selector


def prefix(text: bytes) -> Selector:
    return make_selector(SelectorKind.PREFIX, text)


def tag(text: bytes) -> Selector:
    return make_selector(SelectorKind.TAG, text)


def glob(text: bytes) -> Selector:
    return make_selector(SelectorKind.GLOB, text)


ALL = make_selector(SelectorKind.NAMESPACE, EVERYTHING)


def test_barrier_during_a_load() -> None:
    """A load that began before the barrier is covered, one that begins after it is not."""
    log = BarrierLog()
    began = log.position
    assert not log.covers(b"user:1", (), began)
    assert log.note(5, prefix(b"user:"))
    assert log.covers(b"user:1", (), began)
    assert not log.covers(b"other", (), began)
    assert log.position == 5
    assert not log.covers(b"user:1", (), log.position)


def test_late_barrier_still_counts() -> None:
    """A barrier below the newest covers what began below it, and does not move the position back."""
    log = BarrierLog()
    log.note(9, tag(b"t"))
    assert log.note(5, tag(b"late"))
    assert log.position == 9
    assert [log.covers(b"k", (b"late",), since) for since in (4, 5)] == [True, False]


def test_repeated_selector_takes_one_place() -> None:
    """However often a tag is declared untrue, only its newest barrier is kept; an older one or the same is no news."""
    log = BarrierLog(limit=2)
    log.note(1, prefix(b"p"))
    for position in range(2, 100):
        assert log.note(position, tag(b"t"))
    assert len(log) == 2
    assert not log.note(99, tag(b"t"))
    assert not log.note(50, tag(b"t"))
    assert log.barriers() == [(1, prefix(b"p")), (99, tag(b"t"))]
    assert log.covers(b"k", (b"t",), 98)
    assert log.floor == 0


def test_overflow_becomes_a_floor() -> None:
    """Of too many the oldest, not the first to come, cover everything that began below them."""
    log = BarrierLog(limit=2)
    for position, text in ((3, b"c"), (1, b"a"), (2, b"b")):
        log.note(position, prefix(text))
    assert (len(log), log.floor) == (2, 1)
    assert log.covers(b"never declared", (), 0)
    assert not log.covers(b"never declared", (), 1)
    assert log.covers(b"b", (), 1)


def test_barriers_of_one_position_go_together() -> None:
    """One call may declare several selectors untrue under one position; the floor takes up all of them."""
    log = BarrierLog(limit=2)
    for text in (b"a", b"b", b"c"):
        assert log.note(7, tag(text))
    assert (len(log), log.floor, log.position) == (0, 7, 7)
    assert log.covers(b"k", (), 6)


def test_barrier_comes_again_after_the_floor() -> None:
    """What the floor has taken up is not recognised, so it is done again, but takes no place."""
    log = BarrierLog(limit=1)
    log.note(1, tag(b"a"))
    log.note(2, tag(b"b"))
    assert log.note(1, tag(b"a"))
    assert log.barriers() == [(2, tag(b"b"))]


def test_too_many_patterns_become_a_floor() -> None:
    """Patterns are tried one by one, so fewer of them are kept; what is older than the floor goes with them."""
    log = BarrierLog(globs=2)
    for position, selector in enumerate((tag(b"t"), glob(b"a*"), prefix(b"p"), glob(b"b*"), glob(b"c*")), 1):
        log.note(position, selector)
    assert log.floor == 2
    assert log.barriers() == [(3, prefix(b"p")), (4, glob(b"b*")), (5, glob(b"c*"))]
    assert [log.covers(b"c", (), since) for since in (1, 4, 5)] == [True, True, False]
    assert not log.covers(b"x", (), 2)


def test_a_namespace_is_a_floor() -> None:
    """A barrier of everything makes all below it superfluous, those that come late too."""
    log = BarrierLog()
    log.note(1, tag(b"t"))
    log.note(4, prefix(b"p"))
    assert log.note(3, ALL)
    assert (log.floor, log.position, log.barriers()) == (3, 4, [(4, prefix(b"p"))])
    assert not log.note(3, ALL)
    assert not log.note(2, tag(b"late"))
    assert [log.covers(b"k", (), since) for since in (2, 3)] == [True, False]


def test_a_raised_floor_covers_what_began_before() -> None:
    """A node that knows nothing of the past begins with a floor; what begins now is not covered, and no floor falls."""
    log = BarrierLog()
    log.raise_floor(10)
    log.raise_floor(5)
    assert (log.floor, log.position) == (10, 10)
    assert [log.covers(b"k", (), since) for since in (9, 10)] == [True, False]
    assert log.note(8, tag(b"late"))
    assert len(log) == 0


def test_only_lengths_of_live_prefixes_are_tried() -> None:
    """A length goes with its last prefix, so look-ups stay few."""
    log = BarrierLog()
    for position, text in enumerate((b"a", b"b", b"long"), 1):
        log.note(position, prefix(text))
    assert sorted(log._lengths) == [1, 4]
    log.raise_floor(1)
    assert sorted(log._lengths) == [1, 4]
    log.raise_floor(2)
    assert sorted(log._lengths) == [4]


def test_repr_shows_counts_alone() -> None:
    """No content of barriers gets into logs."""
    log = BarrierLog()
    log.note(7, tag(b"canary"))
    assert repr(log) == "<BarrierLog 1 position=7 floor=0>"


SELECTOR = st.sampled_from(
    [
        *map(prefix, (b"a", b"ab", b"b", b"abc")),
        *map(tag, (b"s", b"t", b"u")),
        *map(glob, (b"a*", b"*c", b"?b*")),
        ALL,
    ]
)
BARRIERS = st.lists(st.tuples(st.integers(1, 12), SELECTOR), max_size=30)
KEYS = (b"a", b"ab", b"abc", b"b", b"c")
TAGS: tuple[tuple[bytes, ...], ...] = ((), (b"s",), (b"t", b"u"))


class Model:
    """Remembers everything and looks through all of it."""

    def __init__(self) -> None:
        self.noted: list[tuple[int, Selector]] = []

    def covers(self, key: bytes, tags: tuple[bytes, ...], since: int) -> bool:
        return any(position > since and selector.covers(key, tags) for position, selector in self.noted)

    def answers(self, of: BarrierLog | Model) -> list[bool]:
        return [of.covers(key, tags, since) for key in KEYS for tags in TAGS for since in range(13)]


@given(BARRIERS)
def test_exact_while_not_full(barriers: list[tuple[int, Selector]]) -> None:
    """In whatever order barriers come, the log covers just what they cover, and its content makes an equal log."""
    log, model = BarrierLog(), Model()
    for position, selector in barriers:
        superfluous = any(known >= position and (other == selector or other is ALL) for known, other in model.noted)
        assert log.note(position, selector) is not superfluous or log.floor >= position
        model.noted.append((position, selector))
        assert model.answers(log) == model.answers(model)
        assert not log.note(position, selector)
    assert log.position == max((position for position, _ in barriers), default=0)
    copy = BarrierLog()
    copy.raise_floor(log.floor)
    for barrier in log.barriers():
        assert copy.note(*barrier)
    assert (copy.barriers(), copy.floor, copy.position) == (log.barriers(), log.floor, log.position)
    assert model.answers(copy) == model.answers(model)


@given(BARRIERS, st.integers(1, 4), st.integers(1, 2))
def test_over_invalidates_and_never_under(barriers: list[tuple[int, Selector]], limit: int, globs: int) -> None:
    """Whatever the limits, all that a barrier covers is covered; more only below the floor, and nothing that is new."""
    log, model = BarrierLog(limit=limit, globs=globs), Model()
    for position, selector in barriers:
        news = log.note(position, selector)
        assert news or any(known >= position and other in {selector, ALL} for known, other in model.noted)
        model.noted.append((position, selector))
        assert len(log) <= limit
        for key in KEYS:
            for tags in TAGS:
                for since in range(13):
                    expected = model.covers(key, tags, since) or since < log.floor
                    assert log.covers(key, tags, since) is expected
                assert not log.covers(key, tags, log.position)
        assert log.floor <= log.position == max(known for known, _ in model.noted)
        assert log.barriers() == sorted(log.barriers(), key=lambda barrier: barrier[0])
