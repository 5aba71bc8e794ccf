"""A client acknowledges an invalidation at once and acts on it a little later."""

from __future__ import annotations

from contextlib import ExitStack
from typing import Any

from cachenode_client._session import Session
from tests.sim.mutants.frame import Mutant, swap

_LATER_S = 0.02
_drop = Session._drop


def _drop_later(self: Session, frame: Any) -> Any:
    sequence, self._sequence = self._sequence, frame.sequence

    def act() -> None:
        now, self._sequence = self._sequence, sequence
        _drop(self, frame)
        self._sequence = now

    self._loop.call_later(_LATER_S, act)
    return frozenset()


def apply(stack: ExitStack) -> None:
    swap(stack, Session, "_drop", _drop_later)


MUTANT = Mutant(apply, "calm")
