"""A member takes its journal with it, and L2 is believed about what it wrote although it has forgotten that."""

from __future__ import annotations

from contextlib import ExitStack

from cachenode.node.l2_tier import L2Tier
from tests.sim.mutants.frame import Mutant, swap


def apply(stack: ExitStack) -> None:
    swap(stack, L2Tier, "bereave", lambda *_: None)


MUTANT = Mutant(apply, "bereft")
