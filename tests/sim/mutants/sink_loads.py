"""What is loaded while a write of the key is at the sink is stored."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager

from cachenode.core.entries import SinkWrite
from cachenode.node.namespaces import Namespace
from cachenode.node.write_through import WriteThrough
from tests.sim.mutants.frame import Mutant, swap


@contextmanager
def not_held(_self: WriteThrough, _namespace: Namespace, _write: SinkWrite) -> Iterator[None]:
    yield


def apply(stack: ExitStack) -> None:
    swap(stack, WriteThrough, "_holding", not_held)


MUTANT = Mutant(apply, "written_evict")
