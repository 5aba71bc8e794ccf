"""That the origin has nothing for a key is believed although a barrier covers the key since."""

from __future__ import annotations

from contextlib import ExitStack

from cachenode.node.namespaces import Namespace
from tests.sim.mutants.frame import Mutant, swap


def _absent(self: Namespace, key: bytes, now: float) -> bool:
    return self.negatives.since(key, now) is not None


def apply(stack: ExitStack) -> None:
    swap(stack, Namespace, "absent", _absent)


MUTANT = Mutant(apply, "through_calm")
