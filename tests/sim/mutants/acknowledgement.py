"""Nobody waits for those who hold copies."""

from __future__ import annotations

from contextlib import ExitStack

from cachenode.node.invalidations import Invalidations
from tests.sim.mutants.frame import Mutant, swap


def apply(stack: ExitStack) -> None:
    swap(stack, Invalidations, "_wait", lambda *_: None)


MUTANT = Mutant(apply, "delays")
