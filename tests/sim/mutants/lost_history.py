"""A store that has forgotten its last writes is believed without being brought up to date."""

from __future__ import annotations

from contextlib import ExitStack

from cachenode.node.l2_tier import L2Tier
from tests.sim.mutants.frame import Mutant, swap


def apply(stack: ExitStack) -> None:
    swap(stack, L2Tier, "_remember_all", lambda *_: None)


MUTANT = Mutant(apply, "failovers")
