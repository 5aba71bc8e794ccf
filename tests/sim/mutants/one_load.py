"""Whoever asks for a key that is being loaded has it loaded too."""

from __future__ import annotations

from contextlib import ExitStack
from typing import Any

from cachenode.core.flights import Flights
from tests.sim.mutants.frame import Mutant, swap

_lead = Flights.lead


def _lead_anyway(self: Flights[Any], key: bytes, *more: Any) -> Any:
    self._by_key.pop(key, None)
    return _lead(self, key, *more)


def apply(stack: ExitStack) -> None:
    swap(stack, Flights, "find", lambda *_: None)
    swap(stack, Flights, "lead", _lead_anyway)


MUTANT = Mutant(apply, "through_calm", ("C6",))
