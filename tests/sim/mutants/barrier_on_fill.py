"""What L2 holds is believed although a barrier covers it."""

from __future__ import annotations

from contextlib import ExitStack

from cachenode.node.witnesses import Witnesses
from tests.sim.mutants.frame import Mutant, swap


def apply(stack: ExitStack) -> None:
    swap(stack, Witnesses, "_judge", lambda _node, _name, _key, entry: entry)


MUTANT = Mutant(apply, "calm")
