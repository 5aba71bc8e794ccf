"""What depends on others is not linked again when its parents move."""

from __future__ import annotations

from contextlib import ExitStack

from cachenode.node.linking import Linking
from tests.sim.mutants.frame import Mutant, swap


def apply(stack: ExitStack) -> None:
    swap(stack, Linking, "_owner_under", lambda *_: None)


MUTANT = Mutant(apply, "relinks")
