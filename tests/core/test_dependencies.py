"""Links and edges as plain data, with the interleavings of the module's header."""

from __future__ import annotations

import math

from hypothesis import given
from hypothesis import strategies as st

from cachenode.core.dependencies import ALWAYS_US, KEEP_S, Dependents, Link, Links
from cachenode_api.selectors import SelectorKind, make_selector


def linked(*dependents: bytes, limit: int = 100) -> Dependents:
    """Return the dependents of key p, known since second 0."""
    found = Dependents(0.0, limit=limit)
    for dependent in dependents:
        found.link(b"p", dependent, 1, math.inf, 0.0, direct=True, tags=())
    return found


def test_edge_made_anew_during_a_cascade_stays() -> None:
    """The dependent that was stored again meanwhile is not spent."""
    dependents = linked(b"d")
    dependents.link(b"p", b"d", 2, math.inf, 1.0, direct=True, tags=())
    for _ in range(2):
        dependents.cascaded(b"p", {b"d": 1})
    assert not dependents.edges(b"p")[b"d"].spent


def test_edge_outlives_one_cascade() -> None:
    """The second change without a store in between ends it."""
    dependents = linked(b"d", b"e")
    dependents.cascaded(b"p", {b"d": 1})
    assert set(dependents.edges(b"p")) == {b"d", b"e"}
    dependents.cascaded(b"p", {b"d": 1})
    assert set(dependents.edges(b"p")) == {b"e"}
    dependents.cascaded(b"p", {b"e": 1}, gone=True)
    assert not dependents.edges(b"p")
    assert len(dependents) == 0


def test_overlapping_writes_keep_both_links() -> None:
    """Until both have ended; then the later version's stays, in whatever order they end."""
    for first_ends_last in (False, True):
        links, first, second = Links(), Link([b"p"], 1, math.inf), Link([b"q"], 2, math.inf)
        links.begin(b"k", first)
        links.begin(b"k", second)
        ends = [(first, 3), (second, 4)]
        for link, version in reversed(ends) if first_ends_last else ends:
            assert links.parents(b"k") == {b"p", b"q"}
            assert links.settle(b"k", link, version)
        assert links.parents(b"k") == {b"q"}


def test_write_that_fails_leaves_the_link_before() -> None:
    """Its value is still there."""
    links, first, second = Links(), Link([b"p"], 1, math.inf), Link([b"q"], 3, math.inf)
    links.begin(b"k", first)
    links.settle(b"k", first, 2)
    links.begin(b"k", second)
    links.settle(b"k", second, 0)
    assert links.parents(b"k") == {b"p"}
    assert links.vouch(b"k", 2)
    assert not links.vouch(b"k", 0)


def test_untied_link_stays_untied() -> None:
    """The writer is told at the end."""
    links, link = Links(), Link([b"p"], 1, math.inf)
    links.begin(b"k", link)
    links.untie(b"k")
    assert not links.settle(b"k", link, 2)
    assert not links.of(b"k")


def test_forgotten_changes_count_as_changes() -> None:
    """With the memory full, whatever is older than what was forgotten may have changed."""
    dependents = Dependents(0.0, changes=2)
    assert dependents.unchanged_us(b"a", b"d", 1.0) == ALWAYS_US
    for at, key in enumerate((b"a", b"b", b"c")):
        dependents.note(key, float(at + 1))
    assert dependents.unchanged_us(b"a", b"d", 10.0) == 9_000_000
    assert dependents.unchanged_us(b"never", b"d", 10.0) == 9_000_000
    assert dependents.unchanged_us(b"c", b"d", 10.0) == 7_000_000
    dependents.note_all(8.0)
    assert dependents.unchanged_us(b"c", b"d", 10.0) == 2_000_000


def test_known_dependent_is_told_of_changes() -> None:
    """So for it none can have been missed since its edge was made."""
    dependents = linked(b"d")
    dependents.note(b"p", 9.0)
    assert dependents.unchanged_us(b"p", b"d", 10.0) == 10_000_000
    assert dependents.unchanged_us(b"p", b"e", 10.0) == 1_000_000


def test_selectors_cover_parents_by_key_and_tag() -> None:
    """A parent's tags are those of its entries since it is one."""
    dependents = Dependents(0.0)
    dependents.link(b"user:1", b"d", 1, math.inf, 0.0, direct=True, tags=[b"t"])
    dependents.link(b"team:1", b"d", 1, math.inf, 0.0, direct=True, tags=[])
    dependents.tag(b"team:1", [b"u"])
    dependents.tag(b"nobody's", [b"u"])
    for kind, text, covered in (
        (SelectorKind.PREFIX, b"user:", [b"user:1"]),
        (SelectorKind.GLOB, b"*:1", [b"user:1", b"team:1"]),
        (SelectorKind.TAG, b"t", [b"user:1"]),
        (SelectorKind.TAG, b"u", [b"team:1"]),
        (SelectorKind.NAMESPACE, b"*", [b"user:1", b"team:1"]),
    ):
        assert dependents.covered([make_selector(kind, text)]) == covered


def test_parents_named_longest_ago_are_the_surplus() -> None:
    """As many as hold the edges that are too many."""
    dependents = Dependents(0.0, limit=2)
    for parent, dependent in ((b"p", b"1"), (b"q", b"2"), (b"r", b"3"), (b"p", b"4")):
        dependents.link(parent, dependent, 1, math.inf, 0.0, direct=True, tags=())
    assert dependents.surplus() == [b"q", b"r"]


@given(st.lists(st.tuples(st.sampled_from("lcefs"), st.sampled_from([b"p", b"q"]), st.sampled_from([b"1", b"2"]))))
def test_edges_are_counted(steps: list[tuple[str, bytes, bytes]]) -> None:
    """Whatever is done, the number of edges is that of the edges that are there."""
    dependents = Dependents(0.0)
    for stamp, (step, parent, dependent) in enumerate(steps, start=1):
        edges = dependents.edges(parent)
        if step == "l":
            dependents.link(parent, dependent, stamp, float(stamp + 3), float(stamp), direct=True, tags=())
        elif step == "c":
            dependents.cascaded(parent, {each: edge.stamp for each, edge in edges.items()})
        elif step == "e":
            dependents.expire(float(stamp), 10)
        elif step == "f":
            dependents.forget(parent)
        assert len(dependents) == len(dependents.edges(b"p")) + len(dependents.edges(b"q"))


def test_links_end_a_while_after_their_entries() -> None:
    """What was loaded from one may be stored so late."""
    links, link = Links(), Link([b"p"], 1, 10.0)
    links.begin(b"k", link)
    links.settle(b"k", link, 2)
    for now, left in ((10.0, 1), (10.0 + KEEP_S - 1, 1), (10.0 + KEEP_S, 0)):
        for _ in range(3):
            links.expire(now, 10)
        assert len(links) == left
