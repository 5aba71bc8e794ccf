"""The other nodes are not told what L2 could not take."""

from __future__ import annotations

from collections.abc import Awaitable
from contextlib import ExitStack
from typing import Any

from cachenode.node.witnesses import Witnesses
from tests.sim.mutants.frame import Mutant, swap


async def _nothing() -> None:
    pass


def _tell_nobody(*_: Any) -> Awaitable[None]:
    return _nothing()


def apply(stack: ExitStack) -> None:
    swap(stack, Witnesses, "_tell_missed", _tell_nobody)
    swap(stack, Witnesses, "_hand_on", lambda *_: None)


MUTANT = Mutant(apply, "forsaken")
