"""Drops from memory what moved to other owners, in slices, after a view change.

Why not at once: hashing a million keys takes a second. Why hits are checked meanwhile: a key may move away and back
before the slices have come round, and the copy from before is then older than what the owner in between wrote. So a
key is kept only if this node owned it under *every* view since the walk began
(``test_key_that_moved_away_and_back_is_dropped``); a view that this node never saw may have moved any key, so after a
gap in the epochs everything is dropped (``test_gap_in_epochs_drops_everything``).

What this node owned until the newest view is offered to `parting` before it is dropped: its new owner may have a use
for it. What left with an earlier view is not, for its owner under that one may have written it since
(``test_only_what_left_with_the_newest_view_is_offered``).
"""

from __future__ import annotations

from collections.abc import Callable

from cachenode.node.namespaces import Namespace, Namespaces
from cachenode.node.placement import Placement
from cachenode_api.ring import Ring
from cachenode_api.view import View

__all__ = ["Mover"]


class Mover:
    """The walk over memory after view changes.

    Attributes:
        moving: True while a walk is under way; then `kept` must be asked about every hit.
        moved: Entries dropped because their ownership left.
        parting: Called with namespace, key and new owner of an entry that is about to be dropped.
    """

    def __init__(self, placement: Placement, namespaces: Namespaces) -> None:
        self.moving = False
        self.moved = 0
        self.parting: Callable[[Namespace, bytes, str], None] = lambda _namespace, _key, _owner: None
        self._me = placement.me.id
        self._placement = placement
        self._namespaces = namespaces
        self._rings: list[Ring] = []
        self._cursors: dict[str, int] = {}
        placement.listeners.append(self._view_changed)

    def _view_changed(self, former: View | None, view: View) -> None:
        if former is None:
            return
        for namespace in self._namespaces:
            namespace.fills.void_all()
        if not self._placement.follows:
            for namespace in self._namespaces:
                self.moved += len(namespace.store)
                namespace.store.clear()
            self._finish()
            return
        assert self._placement.ring is not None
        self.walk(self._placement.ring)

    def walk(self, ring: Ring) -> None:
        """Begin to drop what is not this node's under a ring."""
        self._rings.append(ring)
        self._cursors = {namespace.policy.name: 0 for namespace in self._namespaces if len(namespace.store)}
        self.moving = bool(self._cursors)
        if not self.moving:
            self._finish()

    def kept(self, key: bytes) -> bool:
        """Return True if this node owned the key under every view since the walk began."""
        return all(ring.owner(key) == self._me for ring in self._rings)

    def step(self, limit: int) -> int:
        """Look at up to `limit` entries of the walk. Return how many were dropped."""
        if not self.moving:
            return 0
        name, cursor = next(iter(self._cursors.items()))
        namespace = self._namespaces.get(name)
        assert namespace is not None
        keys, cursor = namespace.store.scan(cursor, limit)
        dropped = 0
        *before, newest = self._rings
        for key in keys:
            owner = newest.owner(key)
            owned = all(ring.owner(key) == self._me for ring in before)
            if owned and owner == self._me:
                continue
            if owned and owner is not None:
                self.parting(namespace, key, owner)
            namespace.store.remove(key)
            dropped += 1
        self.moved += dropped
        if cursor:
            self._cursors[name] = cursor
        else:
            del self._cursors[name]
            if not self._cursors:
                self._finish()
        return dropped

    def _finish(self) -> None:
        self.moving = False
        self._rings.clear()
        self._cursors.clear()
