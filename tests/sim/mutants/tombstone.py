"""Tombstones refuse nothing: a set that was under way when its key was deleted brings the value back."""

from __future__ import annotations

from contextlib import ExitStack

from cachenode.core.tombstones import Tombstones
from tests.sim.mutants.frame import Mutant, swap


def apply(stack: ExitStack) -> None:
    swap(stack, Tombstones, "covers", lambda *_: False)


MUTANT = Mutant(apply, "fills", ("C3", "C4"))
