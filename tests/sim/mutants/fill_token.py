"""Fill tokens are always good: what was read from L2 is stored although the key was written meanwhile."""

from __future__ import annotations

from contextlib import ExitStack

from cachenode.core.fills import FillTokens
from tests.sim.mutants.frame import Mutant, swap


def _settle(self: FillTokens, key: bytes, token: int) -> bool:
    self._by_key.pop(key, None)
    return True


def apply(stack: ExitStack) -> None:
    swap(stack, FillTokens, "settle", _settle)


MUTANT = Mutant(apply, "fills")
