"""A write goes to the cache first, and to the origin after that."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from contextlib import ExitStack

from cachenode.core.entries import Batch, BatchResult, SinkWrite
from cachenode.node.namespaces import Namespace
from cachenode.node.write_through import WriteThrough
from tests.sim.mutants.frame import Mutant, swap


async def cache_first(
    self: WriteThrough,
    one: Batch,
    namespace: Namespace,
    write: SinkWrite,
    to_cache: Callable[[], Awaitable[BatchResult]],
) -> BatchResult:
    with self._holding(namespace, write):
        result = await to_cache()
        failure = await self._to_sink(namespace, write)
    return BatchResult(versions=[0], failures={0: failure}) if failure is not None else result


def apply(stack: ExitStack) -> None:
    swap(stack, WriteThrough, "_write", cache_first)


MUTANT = Mutant(apply, "written_calm", ("origin first", "C3"))
