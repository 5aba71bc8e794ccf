"""A new owner takes what is handed over whatever view it belongs to, and at any time."""

from __future__ import annotations

from contextlib import ExitStack
from typing import Any

from cachenode.core.gains import Gains
from cachenode.node.handover import Handover
from cachenode.node.placement import Placement
from tests.sim.mutants.frame import Mutant, swap


def _takes(_self: Gains, _namespace: str, _key: bytes, _now: float) -> bool:
    return True


def _owned(self: Placement, key: bytes) -> bool:
    return self.owns(key)


def apply(stack: ExitStack) -> None:
    def refuses(*_: Any) -> bool:
        return False

    swap(stack, Handover, "_refuses", refuses)
    swap(stack, Placement, "acquired", _owned)
    swap(stack, Gains, "takes", _takes)


MUTANT = Mutant(apply, "handovers", ("C3", "C4"))
