"""A newcomer saves nothing of what it wrote before its first filter."""

from __future__ import annotations

from contextlib import ExitStack

from cachenode.core.bloom import Bloom
from tests.sim.mutants.frame import Mutant, swap

_written = Bloom.written


def _later(self: Bloom) -> tuple[bytes, tuple[bytes, ...]] | None:
    found = _written(self)
    return (found[0], ()) if found is not None else None


def apply(stack: ExitStack) -> None:
    swap(stack, Bloom, "written", _later)


MUTANT = Mutant(apply, "bloom_swings", seeds=10)
