"""The ownership lease counts from when the registry's answer came, not from when it was asked."""

from __future__ import annotations

from contextlib import ExitStack
from typing import Any

from cachenode.node.membership import RegistryMembership
from tests.sim.mutants.frame import Mutant, swap

_take = RegistryMembership._take


def _late(self: RegistryMembership, renewal: Any, _sent_at: float) -> None:
    _take(self, renewal, self._clock.now())


def apply(stack: ExitStack) -> None:
    swap(stack, RegistryMembership, "_take", _late)


MUTANT = Mutant(apply, "exile")
