"""A near cache's lease counts from when its answer came, not from when it was asked for."""

from __future__ import annotations

from contextlib import ExitStack
from typing import Any

import cachenode_client._session as module
from tests.sim.mutants.frame import Mutant, swap


def _renew(self: module.Session, answer: Any) -> None:
    if self._asked_at.pop(answer.nonce, None) is not None:
        self.shelf.renew(module.boot_clock() + answer.lease_ms / 1_000)


def apply(stack: ExitStack) -> None:
    swap(stack, module.Session, "_renew", _renew)


MUTANT = Mutant(apply, "leases")
