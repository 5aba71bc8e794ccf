"""A node that gains keys acts for them at once, whatever the others may still do."""

from __future__ import annotations

from contextlib import ExitStack

from cachenode.node.placement import Placement
from tests.sim.mutants.frame import Mutant, swap


def apply(stack: ExitStack) -> None:
    swap(stack, Placement, "gained", lambda *_: False)


MUTANT = Mutant(apply, "clock_steps")
