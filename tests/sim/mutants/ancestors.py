"""What depends on others is linked to its parents alone, not to what those depend on."""

from __future__ import annotations

from contextlib import ExitStack

from cachenode.core.dependencies import Links
from tests.sim.mutants.frame import Mutant, swap


def apply(stack: ExitStack) -> None:
    swap(stack, Links, "parents", lambda *_: set())


MUTANT = Mutant(apply, "cascades")
