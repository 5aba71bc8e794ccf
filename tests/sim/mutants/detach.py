"""A load goes on as if nothing had happened when its key is removed meanwhile."""

from __future__ import annotations

from contextlib import ExitStack

from cachenode.core.flights import Flights
from tests.sim.mutants.frame import Mutant, swap


def apply(stack: ExitStack) -> None:
    swap(stack, Flights, "detach", lambda *_: None)


MUTANT = Mutant(apply, "calm")
