"""The node's memory budget over all namespaces.

A namespace may have a quota (`cachenode.core.quotas`), which it keeps by itself first. When the budget is exceeded,
entries go from the namespace that uses most for its share. So a namespace within its share loses
nothing while another is beyond its own, and one that is alone may use everything.

Looking for that namespace takes time in proportion to their number, and a full node evicts with every write. So the one
that was found goes on giving for a while, as long as it is beyond its share: the part of the budget that its share is
of all shares. If the budget is exceeded, there always is one.
"""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType

from cachenode.core.negatives import Absences
from cachenode.core.quotas import Quota
from cachenode.core.store import Meter, Store

__all__ = ["Memory"]

_EVICTIONS_PER_LOOK = 16
_NOTHING: Mapping[str, int] = MappingProxyType({})


class Memory:
    """A budget in bytes that several stores share.

    The stores count what they hold; whoever puts calls `make_room` afterwards. What the process takes beside entries
    (code, connections, buffers) is not counted.

    Args:
        max_bytes: The budget.
    """

    __slots__ = ("_giver", "_left", "_meter", "_quotas", "_shares", "_stores", "_total_shares", "absences")

    def __init__(self, max_bytes: int) -> None:
        self._meter = Meter(max_bytes)
        self.absences = Absences(self._meter)
        """Known absences of all namespaces: a part of the budget, for which entries make room."""
        self._stores: dict[str, Store] = {}
        self._shares: dict[str, float] = {}
        self._quotas: dict[str, Quota] = {}
        self._total_shares = 0.0
        self._giver = ""
        self._left = 0

    @property
    def max_bytes(self) -> int:
        """The budget."""
        return self._meter.max_bytes

    @property
    def used_bytes(self) -> int:
        """What all entries and known absences cost, bookkeeping included."""
        return self._meter.used

    def add(self, name: str, store: Store, *, share: float, quota: Quota | None = None) -> None:
        """Put a store, still empty, under this budget.

        Args:
            name: Its namespace, not added before.
            store: The store.
            share: Its share of the budget when memory is short, relative to the others'; above 0.
            quota: What it may take in any case; None: all that there is.
        """
        assert not len(store), "a store is put under its budget before it is used"
        store.meter = self._meter
        self._stores[name] = store
        self._shares[name] = share
        self._total_shares += share
        self.set_quota(name, quota)

    def set_quota(self, name: str, quota: Quota | None) -> None:
        """Give a namespace another quota, which is kept from its next write on; None: no longer any."""
        self._quotas.pop(name, None)
        if quota is not None:
            self._quotas[name] = quota

    def set_share(self, name: str, share: float) -> None:
        """Give a namespace another share of the budget, which it has the next time that memory is short."""
        self._total_shares += share - self._shares[name]
        self._shares[name] = share

    def make_room(self, name: str = "") -> Mapping[str, int]:
        """Evict until the budget is kept, and the quota of the namespace that has got entries.

        Takes time in proportion to what must go: a value of a megabyte may cost thousands of small entries.

        Returns:
            How many entries went, by namespace.
        """
        meter = self._meter
        evicted: dict[str, int] = {}
        if self._quotas and (quota := self._quotas.get(name)) is not None and (gone := quota.keep()):
            evicted[name] = gone
        if meter.used <= meter.max_bytes:
            return evicted or _NOTHING
        while meter.used > meter.max_bytes:
            if not self._left or not self._beyond_share(self._giver):
                self._giver = max(self._stores, key=self._use)
                self._left = _EVICTIONS_PER_LOOK
            self._left -= 1
            self._stores[self._giver].evict()
            evicted[self._giver] = evicted.get(self._giver, 0) + 1
        return evicted

    def _use(self, name: str) -> float:
        return self._stores[name].used_bytes / self._shares[name]

    def _beyond_share(self, name: str) -> bool:
        return self._use(name) * self._total_shares > self._meter.max_bytes - self.absences.used
