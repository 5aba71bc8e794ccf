"""The node's memory budget over all namespaces.

When it is exceeded, entries go from the namespace that uses most for its share. So a namespace within its share loses nothing while another is beyond its own,
and one that is alone may use everything.
"""

from __future__ import annotations

from cachenode.core.store import Meter, Store

__all__ = ["Memory"]

_AT_ONCE = 16


class Memory:
    """A budget in bytes that several stores share.

    Args:
        max_bytes: The budget.
    """

    __slots__ = ("_meter", "_shares", "_stores", "max_bytes")

    def __init__(self, max_bytes: int) -> None:
        self.max_bytes = max_bytes
        self._meter = Meter()
        self._stores: dict[str, Store] = {}
        self._shares: dict[str, float] = {}

    @property
    def used_bytes(self) -> int:
        """What all entries cost, bookkeeping included."""
        return self._meter.used

    def add(self, name: str, store: Store, *, share: float) -> None:
        """Put a store, still empty, under this budget.

        Args:
            name: Its namespace.
            store: The store.
            share: Its share of the budget when memory is short, relative to the others'.
        """
        assert not len(store), "a store is put under its budget before it is used"
        store.meter = self._meter
        self._stores[name] = store
        self._shares[name] = share

    def make_room(self) -> int:
        """Evict until the budget is kept. Return how many entries went."""
        evicted = 0
        while self._meter.used > self.max_bytes:
            store = self._stores[max(self._stores, key=self._use)]
            for _ in range(_AT_ONCE):
                if store.evict() is None:
                    break
                evicted += 1
                if self._meter.used <= self.max_bytes:
                    break
        return evicted

    def _use(self, name: str) -> float:
        return self._stores[name].used_bytes / self._shares[name]
