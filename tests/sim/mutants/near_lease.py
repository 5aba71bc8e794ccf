"""A near cache's lease never runs out as long as its stream lasts."""

from __future__ import annotations

import math
from contextlib import ExitStack

from cachenode_client._near import Shelf
from tests.sim.mutants.frame import Mutant, swap


def _renew(self: Shelf, until: float) -> None:
    if self.lease.covers is None:
        self.lease.until = math.inf


def apply(stack: ExitStack) -> None:
    swap(stack, Shelf, "renew", _renew)


MUTANT = Mutant(apply, "leases")
