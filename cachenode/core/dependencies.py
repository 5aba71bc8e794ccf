"""Who depends on whom: what the owner of a dependent and the owner of its parent remember of each other.

A *link* is kept by the owner of an entry that depends on others: its parents, and theirs as they were known when it was
made. An *edge* is kept by the owner of a parent: one dependent, until the latest time at which anybody may serve it.
Edges are made before what they are for is stored, so a parent's change always finds them.

A load does not know its parents before it ends. So the owner of a parent also remembers when keys have changed: what
began to be loaded before that is not kept. That memory has an end, and then counts as changed what may not be.

Nothing here grows without bound: links and edges end with the lives of the entries, and when there are too many the
oldest are given up by making their dependents untrue, which is more than must be, never less.

Interleavings, each forced by a test of the same name in ``tests/core/test_dependencies.py``:

1. ``edge_made_anew_during_a_cascade_stays``: the dependent is stored again while the parent's change goes round.
2. ``edge_outlives_one_cascade``: then a load of the dependent that began after it needs no other proof that the next
   change would have reached it. A second change without a store in between ends the edge.
3. ``overlapping_writes_keep_both_links``: two writes of a dependent overlap. Until both have ended either may be what
   readers find.
4. ``untied_link_stays_untied``: a parent changes while its dependent is being written; the writer sees it afterwards.
5. ``forgotten_changes_count_as_changes``: the memory of changes is full.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Sequence

from cachenode_api.selectors import Selector

__all__ = ["ALWAYS_US", "KEEP_S", "Dependents", "Edge", "Link", "Links"]

KEEP_S = 60.0
"""How long links outlive their entries: who loads something from one may take so long to store it."""
ALWAYS_US = (1 << 64) - 1
"""In place of a time without a change: none since the changes are remembered at all."""


class Link:
    """What one entry depends on.

    Attributes:
        parents: References of its parents, then of theirs.
        direct: How many of them are its own.
        stamp: A version lower than that of the write it was made for.
        until: When nobody serves that write's value any more.
        alive: False once a parent has changed, or it has been given up.
        version: Of the write; 0 while that is under way.
    """

    __slots__ = ("alive", "direct", "parents", "stamp", "until", "version")

    def __init__(self, parents: Sequence[bytes], stamp: int, until: float) -> None:
        self.parents = tuple(parents)
        self.direct = len(self.parents)
        self.stamp = stamp
        self.until = until
        self.alive = True
        self.version = 0


class Links:
    """The links of one namespace's entries that this node owns.

    Args:
        limit: Most keys that have one.
    """

    __slots__ = ("_by_key", "_limit", "_round")

    def __init__(self, *, limit: int = 100_000) -> None:
        self._limit = limit
        self._by_key: dict[bytes, list[Link]] = {}
        self._round: Iterator[bytes] = iter(())

    def begin(self, key: bytes, link: Link) -> None:
        """A write begins that depends on others."""
        links = self._by_key.pop(key, [])  # so that the youngest is the last
        links.append(link)
        self._by_key[key] = links

    def settle(self, key: bytes, link: Link, version: int) -> bool:
        """The write has ended, with this version, 0 for none. Return False if the link was untied meanwhile."""
        if not link.alive:
            return False
        link.version = version
        links = self._by_key[key]
        if all(each.version for each in links if each is not link):
            newest = max(each.version for each in links)
            links[:] = [each for each in links if each.version and each.version == newest]
        elif not version:
            links.remove(link)
        if not links:
            del self._by_key[key]
        return True

    def untie(self, key: bytes) -> None:
        """Give up all links of a key."""
        for link in self._by_key.pop(key, ()):
            link.alive = False

    def clear(self) -> None:
        """Give up all links."""
        for key in list(self._by_key):
            self.untie(key)

    def of(self, key: bytes) -> Sequence[Link]:
        """Return the links of a key: of what readers may find, and of what is being written."""
        return self._by_key.get(key, ())

    def vouch(self, key: bytes, version: int) -> bool:
        """Return True if changes of its parents would have reached this version of a key."""
        return any(link.stamp <= version for link in self.of(key))

    def parents(self, key: bytes) -> set[bytes]:
        """Return all that a key depends on."""
        return {parent for link in self.of(key) for parent in link.parents}

    def keys(self) -> list[bytes]:
        """Return the keys that have links."""
        return list(self._by_key)

    def surplus(self) -> list[bytes]:
        """Return the oldest keys, as many as there are too many."""
        keys = iter(self._by_key)
        return [next(keys) for _ in range(len(self._by_key) - self._limit)]

    def expire(self, now: float, limit: int) -> None:
        """Forget links of entries that have ended, looking at so many keys, and go on there the next time."""
        for _ in range(min(limit, len(self._by_key))):
            try:
                key = next(self._round)
            except StopIteration:
                self._round = iter(list(self._by_key))
                continue
            links = self._by_key.get(key, ())
            if links and all(link.version and link.until + KEEP_S <= now for link in links):
                del self._by_key[key]

    def __len__(self) -> int:
        return len(self._by_key)

    def __repr__(self) -> str:
        return f"<Links of {len(self)} keys>"


class Edge:
    """One dependent of a parent.

    Attributes:
        stamp: Of the link.
        until: When the dependent has ended.
        direct: False if it depends on the parent only over others.
        since: Since when changes of the parent reach the dependent's owner.
        spent: True if the parent has changed and the dependent has not been stored since.
    """

    __slots__ = ("direct", "since", "spent", "stamp", "until")

    def __init__(self, stamp: int, until: float, since: float, *, direct: bool) -> None:
        self.stamp = stamp
        self.until = until
        self.direct = direct
        self.since = since
        self.spent = False


class _Parent:
    __slots__ = ("edges", "tags")

    def __init__(self) -> None:
        self.edges: dict[bytes, Edge] = {}
        self.tags: set[bytes] = set()


class Dependents:
    """What depends on the keys of one namespace that this node owns, and when those have changed.

    Args:
        now: Since when every change is noted.
        limit: Most edges.
        changes: Most changed keys remembered.
    """

    __slots__ = ("_always", "_changed", "_changes", "_edges", "_limit", "_parents", "_round", "_since")

    def __init__(self, now: float, *, limit: int = 100_000, changes: int = 100_000) -> None:
        self._limit = limit
        self._changes = changes
        self._since = now
        self._always = True
        self._parents: dict[bytes, _Parent] = {}
        self._edges = 0
        self._changed: dict[bytes, float] = {}
        self._round: Iterator[bytes] = iter(())

    # Edges.

    def link(
        self, key: bytes, dependent: bytes, stamp: int, until: float, now: float, *, direct: bool, tags: Iterable[bytes]
    ) -> None:
        """Make an edge, or prolong it.

        Args:
            key: The parent.
            dependent: Reference of who depends on it.
            stamp: Of the link.
            until: When the dependent's life ends.
            now: The time.
            direct: Whether it names the parent itself.
            tags: Of the parent's entry.
        """
        parent = self._parents.pop(key, None) or _Parent()  # so that the youngest is the last
        self._parents[key] = parent
        parent.tags.update(tags)
        edge = parent.edges.get(dependent)
        if edge is None:
            parent.edges[dependent] = Edge(stamp, until, now, direct=direct)
            self._edges += 1
        elif stamp >= edge.stamp:
            edge.stamp, edge.until, edge.direct, edge.spent = stamp, max(until, edge.until), direct, False

    def edges(self, key: bytes) -> dict[bytes, Edge]:
        """Return what depends on a key, by reference."""
        parent = self._parents.get(key)
        return parent.edges if parent is not None else {}

    def count(self, key: bytes) -> int:
        """Return how many entries depend on a key."""
        return sum(not edge.spent for edge in self.edges(key).values())

    def tag(self, key: bytes, tags: Iterable[bytes]) -> None:
        """Take note of the tags of a key's entry, if anything depends on it."""
        if key in self._parents:
            self._parents[key].tags.update(tags)

    def covered(self, selectors: Sequence[Selector]) -> list[bytes]:
        """Return the keys with dependents that selectors cover."""
        return [
            key
            for key, parent in self._parents.items()
            if any(selector.covers(key, tuple(parent.tags)) for selector in selectors)
        ]

    def cascaded(self, key: bytes, stamps: dict[bytes, int], *, gone: bool = False) -> None:
        """The dependents of these stamps have been made untrue: an edge that has not been made anew since is spent.

        Args:
            key: The parent.
            stamps: Of the edges, as they were when that began.
            gone: Whether such edges are to go at once.
        """
        parent = self._parents.get(key)
        if parent is None:
            return
        for dependent, stamp in stamps.items():
            edge = parent.edges.get(dependent)
            if edge is None or edge.stamp != stamp:
                continue
            if edge.spent or gone:
                del parent.edges[dependent]
                self._edges -= 1
            edge.spent = True
        if not parent.edges:
            del self._parents[key]

    def forget(self, key: bytes) -> None:
        """Forget what depends on a key: it is another node's."""
        parent = self._parents.pop(key, None)
        if parent is not None:
            self._edges -= len(parent.edges)

    def surplus(self) -> list[bytes]:
        """Return the parents that were named longest ago, as many as hold the edges that are too many."""
        found: list[bytes] = []
        left = self._edges - self._limit
        for key, parent in self._parents.items():
            if left <= 0:
                break
            found.append(key)
            left -= len(parent.edges)
        return found

    def expire(self, now: float, limit: int) -> Sequence[bytes]:
        """Forget edges of dependents that have ended, and changes that no load is as old as.

        Looks at so many parents, and goes on there the next time.

        Returns:
            The parents it looked at that still have dependents.
        """
        looked: list[bytes] = []
        for _ in range(min(limit, len(self._parents))):
            try:
                key = next(self._round)
            except StopIteration:
                self._round = iter(list(self._parents))
                continue
            parent = self._parents.get(key)
            if parent is None:
                continue
            for dependent in [each for each, edge in parent.edges.items() if edge.until <= now]:
                del parent.edges[dependent]
                self._edges -= 1
            if parent.edges:
                looked.append(key)
            else:
                del self._parents[key]
        return looked

    # Changes.

    def note(self, key: bytes, now: float) -> None:
        """A key has changed: nobody reads the older value any more."""
        self._changed.pop(key, None)  # so that the youngest is the last
        self._changed[key] = now
        if len(self._changed) > self._changes:
            oldest = next(iter(self._changed))
            self.note_all(self._changed.pop(oldest))

    def note_all(self, now: float) -> None:
        """Any key may have changed."""
        self._since, self._always = max(self._since, now), False

    def unchanged_us(self, key: bytes, dependent: bytes, now: float) -> int:
        """Return for how many microseconds no change of a key can have been missed by a dependent.

        Since then it has not changed, or every change has been told to the dependent's owner.
        """
        changed = self._changed.get(key)
        if changed is None and self._always:
            return ALWAYS_US
        edge = self.edges(key).get(dependent)
        since = min(max(changed or -math.inf, self._since), edge.since if edge is not None else math.inf)
        return max(0, int((now - since) * 1_000_000))

    def __len__(self) -> int:
        return self._edges

    def __repr__(self) -> str:
        return f"<Dependents {self._edges} of {len(self._parents)} keys>"
