"""What L2 has of expired values is served as if nothing had been said."""

from __future__ import annotations

from contextlib import ExitStack

from cachenode.core.entries import L2Entry
from cachenode.node.namespaces import Namespace
from cachenode_api.records import STALE
from tests.sim.mutants.frame import Mutant, swap

_judge = Namespace.judge


def _unmarked(self: Namespace, key: bytes, entry: L2Entry, now: float) -> L2Entry | None:
    judged = _judge(self, key, entry, now)
    return judged if judged is None or judged.flags & STALE == entry.flags & STALE else entry


def apply(stack: ExitStack) -> None:
    swap(stack, Namespace, "judge", _unmarked)


MUTANT = Mutant(apply, "expiries", ("C3",))
