"""What a node loads is stored although the key was written or declared untrue meanwhile."""

from __future__ import annotations

from contextlib import ExitStack

from cachenode.node.loads import Loads
from tests.sim.mutants.frame import Mutant, swap


def apply(stack: ExitStack) -> None:
    swap(stack, Loads, "_storable", lambda *_: True)


MUTANT = Mutant(apply, "through_calm")
