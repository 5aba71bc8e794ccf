"""A filter answers for keys that were another node's since it was begun: what that one wrote is hidden."""

from __future__ import annotations

from contextlib import ExitStack
from typing import Any

from cachenode.core.bloom import Bloom
from tests.sim.mutants.frame import Mutant, swap

_absent = Bloom.absent


def _anybodys(self: Bloom, key: bytes, _kept: Any, covers: Any) -> bool:
    return _absent(self, key, lambda _key, _since: True, covers)


def apply(stack: ExitStack) -> None:
    swap(stack, Bloom, "absent", _anybodys)


MUTANT = Mutant(apply, "bloom_swings", seeds=10)
