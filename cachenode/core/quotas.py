"""What one namespace may take of a node's memory: bytes and keys, whatever room there is beside it.

Shares decide who gives when memory is short; a quota holds at all times. What goes beyond it pushes out the namespace's
own entries, those that its eviction policy likes least, and nobody else's. Where the quota refuses instead, a write of
a new key that does not fit fails, and a loaded value is handed to those who wait and not kept. Even there the quota is
kept by evicting: what comes from L2 or from a former owner, and writes that were under way together, ask nobody.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

from cachenode.core.store import Store, cost_of
from cachenode_api.records import HEADER_BYTES

if TYPE_CHECKING:
    from cachenode.core.policy import NamespacePolicy

__all__ = ["Quota", "QuotaAction", "Room"]

QuotaAction = Literal["evict", "refuse"]
_SWEPT = 2_000
"""Entries that are looked at before a write is refused: what has expired is in nobody's way."""


class Quota:
    """The quota of one namespace on one node.

    Args:
        store: Its entries.
        max_bytes: What they may cost, bookkeeping included; None for any.
        max_keys: How many there may be; None for any.
        refuses: Whether a write that does not fit is refused.

    Attributes:
        evictions: Entries that went because of the quota.
        refusals: Writes and loaded values that were refused.
    """

    __slots__ = ("evictions", "max_bytes", "max_keys", "refusals", "refuses", "store")

    def __init__(self, store: Store, max_bytes: int | None, max_keys: int | None, *, refuses: bool = False) -> None:
        self.store = store
        self.max_bytes = max_bytes
        self.max_keys = max_keys
        self.refuses = refuses
        self.evictions = 0
        self.refusals = 0

    @classmethod
    def of(cls, policy: NamespacePolicy, store: Store) -> Quota | None:
        """Return the quota that a policy gives a namespace, None if it gives none."""
        if policy.max_bytes is None and policy.max_keys is None:
            return None
        return cls(store, policy.max_bytes, policy.max_keys, refuses=policy.quota == "refuse")

    def keep(self) -> int:
        """Evict what is beyond the quota. Return how many entries went."""
        store, evicted = self.store, 0
        while len(store) and self._over(store.used_bytes, len(store)):
            store.evict()
            evicted += 1
        self.evictions += evicted
        return evicted

    def _over(self, used_bytes: int, keys: int) -> bool:
        return (self.max_bytes is not None and used_bytes > self.max_bytes) or (
            self.max_keys is not None and keys > self.max_keys
        )

    def room(self, now: float) -> Room:
        """Return what is left for values that come together."""
        return Room(self, now)


class Room:
    """What is left of a quota while the values of one batch are looked at, one after the other."""

    __slots__ = ("_bytes", "_new", "_now", "_quota", "_swept")

    def __init__(self, quota: Quota, now: float) -> None:
        self._quota = quota
        self._now = now
        self._bytes = 0
        self._new: set[bytes] = set()
        self._swept = False

    def refusal(self, key: bytes, value_bytes: int) -> str:
        """Take room for a value. Return why there is none, empty if there is."""
        quota, store = self._quota, self._quota.store
        present = store.peek(key, self._now)
        more = cost_of(len(key), value_bytes)
        more -= cost_of(len(key), len(present) - HEADER_BYTES) if present is not None else 0
        new = present is None and key not in self._new
        text = self._beyond(more, new)
        if text and not self._swept:
            self._swept = True
            store.sweep(self._now, _SWEPT)
            text = self._beyond(more, new)
        if text:
            quota.refusals += 1
            return text
        self._bytes += more
        if new:
            self._new.add(key)
        return ""

    def _beyond(self, more: int, new: bool) -> str:
        quota, store = self._quota, self._quota.store
        keys, used_bytes = len(store) + len(self._new) + new, store.used_bytes + self._bytes + more
        if quota.max_keys is not None and new and keys > quota.max_keys:
            return f"max_keys: {keys:,} keys would exceed the namespace's quota of {quota.max_keys:,} a node"
        if quota.max_bytes is not None and more > 0 and used_bytes > quota.max_bytes:
            return f"max_bytes: {used_bytes:,} bytes would exceed the namespace's quota of {quota.max_bytes:,} a node"
        return ""
