"""What moved away stays in memory, and is served when the key comes back."""

from __future__ import annotations

from contextlib import ExitStack

from cachenode.node.mover import Mover
from tests.sim.mutants.frame import Mutant, swap


def apply(stack: ExitStack) -> None:
    swap(stack, Mover, "_view_changed", lambda *_: None)


MUTANT = Mutant(apply, "moves")
