"""What L2 could not take is not remembered, so it is believed again about keys that it holds older values of."""

from __future__ import annotations

from contextlib import ExitStack

from cachenode.core.l2_journal import L2Journal
from tests.sim.mutants.frame import Mutant, swap


def apply(stack: ExitStack) -> None:
    swap(stack, L2Journal, "note", lambda *_: 0)


MUTANT = Mutant(apply, "stores")
