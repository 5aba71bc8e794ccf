"""A client keeps the records of a frame although the frame says that they are untrue."""

from __future__ import annotations

from contextlib import ExitStack
from typing import Any

from cachenode_client._session import Session
from tests.sim.mutants.frame import Mutant, swap

_hand_over = Session._hand_over


def apply(stack: ExitStack) -> None:
    def careless(self: Session, frame: Any, _doomed: Any) -> None:
        _hand_over(self, frame, frozenset())

    swap(stack, Session, "_hand_over", careless)


MUTANT = Mutant(apply, "fills", seeds=60, first=60)
