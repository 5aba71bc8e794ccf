"""What waits for its origin is not looked for when a key is loaded."""

from __future__ import annotations

from contextlib import ExitStack

from cachenode.core.entries import Loaded
from cachenode.node.namespaces import Namespace
from cachenode.node.write_behind import WriteBehind
from tests.sim.mutants.frame import Mutant, swap


async def clean(self: WriteBehind, namespace: Namespace, key: bytes) -> tuple[bool, Loaded | None]:
    del self, namespace, key
    return False, None


def apply(stack: ExitStack) -> None:
    swap(stack, WriteBehind, "loaded", clean)


MUTANT = Mutant(apply, "behind_evict", ("C3", "C4"))
