"""A refresh goes on as if nothing had happened when its key is written or declared untrue meanwhile."""

from __future__ import annotations

from contextlib import ExitStack
from typing import Any

from cachenode.core.flights import Flights
from cachenode.node.loads import Loads
from tests.sim.mutants.frame import Mutant, swap

_detach, _renew = Flights.detach, Loads.renew


def apply(stack: ExitStack) -> None:
    refreshes: set[tuple[bytes, int]] = set()

    def renew(self: Loads, batch: Any, namespace: Any, key: bytes, holder: Any, now: float) -> int:
        token = _renew(self, batch, namespace, key, holder, now)
        refreshes.add((key, token))
        return token

    def detach(self: Flights[Any], key: bytes) -> None:
        flight = self.find(key)
        if flight is None or (key, flight.token) not in refreshes:
            _detach(self, key)

    swap(stack, Loads, "renew", renew)
    swap(stack, Flights, "detach", detach)


MUTANT = Mutant(apply, "refreshes")
