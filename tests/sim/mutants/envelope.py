"""L2 takes every write, also one that is older than what it holds."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import ExitStack

from cachenode.adapters.l2_memory import MemoryL2, _Slot
from cachenode.core.entries import L2Write
from tests.sim.mutants.frame import Mutant, swap


async def _write(self: MemoryL2, namespace: str, writes: Sequence[L2Write]) -> list[bool]:
    now = self._clock.now()
    for write in writes:
        self._slots[namespace, write.key] = _Slot(
            write.value, write.flags, write.version, now + write.ttl_s, write.position
        )
    return [True] * len(writes)


def apply(stack: ExitStack) -> None:
    swap(stack, MemoryL2, "write", _write)


MUTANT = Mutant(apply, "fills", ("C3", "C4"))
