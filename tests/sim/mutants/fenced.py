"""A node whose lease is over says of keys that have an origin that there is nothing."""

from __future__ import annotations

from contextlib import ExitStack
from typing import Any

from cachenode.core.entries import BatchResult
from cachenode.node.reads import Reads
from tests.sim.mutants.frame import Mutant, swap


def _nothing(self: Reads, batch: Any, namespace: Any, reply: Any) -> None:
    reply(BatchResult(records=[b""] * len(batch.keys), now_s=self._node.clock.now()))


def apply(stack: ExitStack) -> None:
    swap(stack, Reads, "fenced", _nothing)


MUTANT = Mutant(apply, "through")
