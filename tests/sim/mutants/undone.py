"""What a reader found in L2 of a write under way is kept although the key was removed meanwhile."""

from __future__ import annotations

from contextlib import ExitStack
from typing import Any

from cachenode.core.entries import L2Entry
from cachenode.node import filler
from tests.sim.mutants.frame import Mutant, swap


def _newest(namespace: Any, key: bytes, entry: L2Entry, _now: float) -> bool:
    return bool(entry.version == namespace.writing.get(key))


def apply(stack: ExitStack) -> None:
    swap(stack, filler, "_newest", _newest)


MUTANT = Mutant(apply, "fills")
