"""A write is added to the filter in use alone: the fresh one that takes its place hides what was written meanwhile."""

from __future__ import annotations

from contextlib import ExitStack

from cachenode.core.bloom import Bloom
from cachenode.core.rebuilds import Rebuilds
from tests.sim.mutants.frame import Mutant, swap


def _add(self: Bloom, key: bytes) -> None:
    if self._present is not None:
        self._present.keys.add(key)


def apply(stack: ExitStack) -> None:
    swap(stack, Bloom, "add", _add)
    swap(stack, Rebuilds, "_REST", 0.0)  # so that there are many


MUTANT = Mutant(apply, "bloom_alone", seeds=10)
