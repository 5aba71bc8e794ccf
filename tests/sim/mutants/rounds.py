"""A stand-in's load is shared by whoever asks while it is under way, also after an invalidation."""

from __future__ import annotations

from contextlib import ExitStack
from typing import Any

from cachenode.core.rounds import Rounds
from tests.sim.mutants.frame import Mutant, swap

_join = Rounds.join


def _join_running(self: Rounds[Any], place: Any, caller: Any) -> None:
    running = self.running(place)
    if running is None:
        _join(self, place, caller)
    else:
        running.sharing[caller] = None


def apply(stack: ExitStack) -> None:
    swap(stack, Rounds, "join", _join_running)


MUTANT = Mutant(apply, "stand_ins")
