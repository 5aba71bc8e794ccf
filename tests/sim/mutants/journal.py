"""What L2 could not take is not remembered, so it is believed again about keys that it holds older values of."""

from __future__ import annotations

from contextlib import ExitStack

from cachenode.node.l2_tier import L2Tier
from tests.sim.mutants.frame import Mutant, swap


def apply(stack: ExitStack) -> None:
    swap(stack, L2Tier, "_note", lambda *_: None)


MUTANT = Mutant(apply, "stores")
