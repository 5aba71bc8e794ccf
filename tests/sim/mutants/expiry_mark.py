"""What is expired ends sooner, and is served until then as if nothing had been said."""

from __future__ import annotations

from contextlib import ExitStack

from cachenode.core.store import Store
from cachenode_api.records import HEADER, HEADER_BYTES, STALE
from tests.sim.mutants.frame import Mutant, swap

_mark_stale = Store.mark_stale


def _unmarked(self: Store, key: bytes, until: float) -> bytes:
    record = _mark_stale(self, key, until)
    slot, flags, version, deadline = HEADER.unpack_from(record)
    return HEADER.pack(slot, flags & ~STALE, version, deadline) + record[HEADER_BYTES:]


def apply(stack: ExitStack) -> None:
    swap(stack, Store, "mark_stale", _unmarked)


MUTANT = Mutant(apply, "refreshes", ("C3",))
