"""A near cache's lease counts from when its answer came, not from when it was asked for."""

from __future__ import annotations

from contextlib import ExitStack
from typing import Any

from cachenode_client import _session
from tests.sim.mutants.frame import Mutant, swap


def _renew(self: _session.Session, answer: Any) -> None:
    boot_clock = vars(_session)["boot_clock"]  # the world's
    if self._asked_at.pop(answer.nonce, None) is not None:
        self.shelf.renew(boot_clock() + answer.lease_ms / 1_000)


def apply(stack: ExitStack) -> None:
    swap(stack, _session.Session, "_renew", _renew)


MUTANT = Mutant(apply, "late_answers")
