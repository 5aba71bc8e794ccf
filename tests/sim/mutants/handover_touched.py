"""A new owner takes what its key's former owner hands over, although it has removed or written the key since."""

from __future__ import annotations

from contextlib import ExitStack

from cachenode.core.gains import Gains
from tests.sim.mutants.frame import Mutant, swap


def apply(stack: ExitStack) -> None:
    swap(stack, Gains, "touch", lambda *_: None)


MUTANT = Mutant(apply, "handovers", ("C3", "C4"), first=10)
