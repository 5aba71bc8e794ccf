"""That the origin has nothing for a key is believed although the key was written or removed since."""

from __future__ import annotations

from contextlib import ExitStack

from cachenode.core.negatives import Negatives
from tests.sim.mutants.frame import Mutant, swap


def apply(stack: ExitStack) -> None:
    swap(stack, Negatives, "void", lambda *_: None)


MUTANT = Mutant(apply, "through_calm")
