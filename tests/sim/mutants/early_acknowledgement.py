"""Queued writes leave the queue when they are read for a call, before the origin has them."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import ExitStack

from cachenode.adapters.queue_memory import MemoryQueue
from cachenode.core.entries import QueuedWrite
from tests.sim.mutants.frame import Mutant, swap

_newest = MemoryQueue.newest


async def forgetful(
    self: MemoryQueue, namespace: str, keys: Sequence[bytes], most_bytes: int = 0
) -> list[QueuedWrite | None]:
    found = await _newest(self, namespace, keys, most_bytes)
    for key in keys if most_bytes else ():  # only who sends them says how many bytes he takes
        self.records[namespace].pop(key, None)
    return found


def apply(stack: ExitStack) -> None:
    swap(stack, MemoryQueue, "newest", forgetful)


MUTANT = Mutant(apply, "behind_evict", ("C7", "C3"))
