"""What was loaded is kept, whatever has changed since its load began."""

from __future__ import annotations

from contextlib import ExitStack

from cachenode.node.linking import Linking
from tests.sim.mutants.frame import Mutant, swap


def apply(stack: ExitStack) -> None:
    swap(stack, Linking, "_fresh", lambda *_: True)


MUTANT = Mutant(apply, "cascades")
