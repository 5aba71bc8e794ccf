"""A value that is past its TTL, and served while it is loaded anew, is not marked."""

from __future__ import annotations

import math
from contextlib import ExitStack

from cachenode.core.renewals import Renewals
from tests.sim.mutants.frame import Mutant, swap

_ends = Renewals.ends


def _no_soft_end(self: Renewals, key: bytes, version: int) -> tuple[float, float]:
    return _ends(self, key, version)[0], math.inf


def apply(stack: ExitStack) -> None:
    swap(stack, Renewals, "ends", _no_soft_end)


MUTANT = Mutant(apply, "refreshes", ("C5",))
