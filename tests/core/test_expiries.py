"""The log of expiries: what it lets be served for a while, and what it hands to the log that removes."""

from __future__ import annotations

import pytest

from cachenode.core.barriers import BarrierLog
from cachenode.core.expiries import Expiries
from cachenode_api.selectors import EVERYTHING, Selector, SelectorKind, make_selector


def prefix(text: bytes) -> Selector:
    return make_selector(SelectorKind.PREFIX, text)


WHOLE = make_selector(SelectorKind.NAMESPACE, EVERYTHING)
RED = make_selector(SelectorKind.TAG, b"red")
GLOB = make_selector(SelectorKind.GLOB, b"*7")


class Logs:
    """The two logs of one namespace, at one time."""

    def __init__(self, **limits: int) -> None:
        self.removals = BarrierLog()
        self.expiries = Expiries(self.removals, **limits)
        self.now = 0.0

    def expire(self, position: int, selector: Selector, stale_s: float = 10.0) -> bool:
        return self.expiries.note(position, selector, self.now + stale_s, self.now)

    def fate(self, since: int, key: bytes = b"k7", *tags: bytes) -> float | str:
        """Return what becomes of an entry that began then: "kept", "gone", or when it ends."""
        if self.removals.covers(key, tags, since):
            return "gone"
        until = self.expiries.until(key, tags, since)
        return "kept" if until is None else until


@pytest.mark.parametrize("selector", [prefix(b"k"), RED, GLOB, WHOLE])
def test_covered_entries_end_later(selector: Selector) -> None:
    """What began before an expiry ends at its time; what begins later is not covered, and remembers that."""
    logs = Logs()
    assert logs.expire(5, selector)
    assert [logs.fate(since, b"k7", b"red") for since in (4, 5)] == [10.0, "kept"]
    assert logs.removals.position == 5
    assert logs.fate(4, b"other") == (10.0 if selector is WHOLE else "kept")


@pytest.mark.parametrize("positions", [(5, 6), (6, 5)])
def test_removal_beside_an_expiry(positions: tuple[int, int]) -> None:
    """What both cover is removed."""
    logs = Logs()
    removed, expired = positions
    logs.removals.note(removed, prefix(b"k"))
    logs.expire(expired, prefix(b"k"))
    assert logs.fate(4) == "gone"
    assert logs.fate(5) == (10.0 if removed < expired else "gone")


def test_repeated_expiry_keeps_the_first_end() -> None:
    """An entry that is expired again and again ends with the first expiry."""
    logs = Logs()
    logs.expire(5, RED)
    logs.now = 9.0
    assert logs.expire(7, RED)
    assert [logs.fate(since, b"k", b"red") for since in (4, 6, 7)] == [10.0, 10.0, "kept"]
    assert not logs.expire(7, RED)
    assert not logs.expire(6, RED)


@pytest.mark.parametrize("selector", [RED, WHOLE])
def test_expiry_after_the_first_has_ended(selector: Selector) -> None:
    """What the first covered is gone for good, what came after it has its full time."""
    logs = Logs()
    logs.expire(5, selector)
    logs.now = 10.0
    logs.expire(7, selector)
    assert [logs.fate(since, b"k", b"red") for since in (4, 5, 6, 7)] == ["gone", 20.0, 20.0, "kept"]


def test_overflow_removes() -> None:
    """A full log forgets its oldest expiries, and everything from before them counts as removed."""
    logs = Logs(limit=2)
    for position in (5, 6, 7, 8):
        logs.expire(position, prefix(b"%d" % position))
    assert len(logs.expiries) == 2
    assert [logs.fate(since, b"8") for since in (5, 6, 7, 8)] == ["gone", 10.0, 10.0, "kept"]
    assert logs.fate(5, b"other") == "gone"
    assert logs.expire(4, prefix(b"late"))
    assert len(logs.expiries) == 2
    assert logs.fate(3, b"late") == "gone"


def test_many_patterns_remove() -> None:
    """Patterns have a limit of their own."""
    logs = Logs(globs=1)
    logs.expire(5, make_selector(SelectorKind.GLOB, b"a*7"))
    logs.expire(6, GLOB)
    assert [logs.fate(since) for since in (4, 5)] == ["gone", 10.0]


def test_expiry_of_the_whole_namespace() -> None:
    """It covers every key, keeps the log's other expiries, and is listed as what it is."""
    logs = Logs()
    logs.expire(5, RED)
    logs.expire(6, WHOLE, 3.0)
    assert [logs.fate(since, b"any") for since in (4, 5, 6)] == [3.0, 3.0, "kept"]
    assert logs.expiries.barriers() == [(5, RED), (6, WHOLE)]
    assert logs.expiries.knows(6, WHOLE)
    assert not logs.expiries.knows(6, RED)
    assert repr(logs.expiries) == "<Expiries 2>"
