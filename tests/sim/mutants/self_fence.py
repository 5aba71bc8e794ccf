"""A node goes on as an owner when its lease is over."""

from __future__ import annotations

from contextlib import ExitStack

from cachenode.node.placement import Placement
from tests.sim.mutants.frame import Mutant, swap


def apply(stack: ExitStack) -> None:
    swap(stack, Placement, "fenced", lambda *_: False)


MUTANT = Mutant(apply, "exile")
