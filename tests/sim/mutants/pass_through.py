"""A node that gains keys keeps what it reads of them, although others may still act for them."""

from __future__ import annotations

from contextlib import ExitStack
from typing import Any

from cachenode.node.reads import Reads
from cachenode.node.service import Node
from tests.sim.mutants.frame import Mutant, swap


def _read_own(self: Reads, batch: Any, namespace: Any, own: list[int], reply: Any) -> Any:
    return [(own, self._fill(batch, namespace, own, reply))]


def apply(stack: ExitStack) -> None:
    swap(stack, Reads, "_read_own", _read_own)
    swap(stack, Node, "may_keep", lambda self, key: self.placement.owns(key))


MUTANT = Mutant(apply, "clock_steps")
