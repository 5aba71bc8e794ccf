"""A session with a near cache, as far as a node can tell, without gRPC: the test acknowledges, or does not."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

from cachenode.core.entries import Batch, BatchResult, Operation
from cachenode.node.service import Node
from cachenode_api.records import HEADER_BYTES
from cachenode_api.selectors import Selector

__all__ = ["NearSession", "settled"]


class NearSession:
    """A session that keeps every copy it may keep, and drops what it has heard.

    Attributes:
        told: The keys and selectors of each word, as they came.
        copies: What it would serve while its lease lives.
    """

    def __init__(self, node: Node, *, lease: bool = True) -> None:
        self.node = node
        self.holder = node.invalidations.holder(self._tell)
        self.told: list[tuple[str, list[bytes], list[bytes]]] = []
        self.copies: dict[bytes, bytes] = {}
        self._unheard: list[tuple[Sequence[bytes], Sequence[Selector]]] = []
        if lease:
            self.renew()

    def renew(self) -> float:
        """Get the lease, as a heartbeat's answer would bring it; return its length for the client."""
        return self.node.invalidations.grant(self.holder)

    def _tell(self, namespace: str, keys: Sequence[bytes], selectors: Sequence[Selector]) -> None:
        self.holder.sequence += 1
        self.told.append((namespace, list(keys), [selector.text for selector in selectors]))
        self._unheard.append((keys, selectors))

    def acknowledge(self) -> None:
        """Act on all that was told, and say so."""
        for keys, selectors in self._unheard:
            dead = {key for key in self.copies if key in keys or any(one.covers(key, ()) for one in selectors)}
            for key in dead:
                del self.copies[key]
        self._unheard.clear()
        self.node.invalidations.heard(self.holder, self.holder.sequence)

    def serves(self, key: bytes) -> bytes | None:
        """Return what a reader of this client would get without asking."""
        return self.copies.get(key) if self.node.clock.now() < self.holder.until else None

    async def execute(self, batch: Batch) -> BatchResult:
        """Execute a batch over this session; return the last part of its result."""
        batch.near = self.holder
        parts: list[BatchResult] = []

        def reply(result: BatchResult) -> None:
            parts.append(result)
            if result.near:
                keys = batch.keys if result.indices is None else [batch.keys[at] for at in result.indices]
                namespace = self.node.namespaces.get(batch.namespace)
                assert namespace is not None
                namespace.exposure.note(keys, self.holder)
                for key, record in zip(keys, result.records, strict=True):
                    if record:
                        self.copies[key] = record[HEADER_BYTES:]

        rest = self.node.execute(batch, reply)
        if rest is not None:
            await rest
        return parts[-1]

    async def read(self, *keys: bytes, namespace: str = "default") -> bool:
        """Read keys; return whether they were copied."""
        return (await self.execute(Batch(Operation.GET, namespace, list(keys)))).near


async def settled(task: asyncio.Task[object], *, turns: int = 20) -> bool:
    """Return whether a task is done after as many turns of the loop as its work could need."""
    for _ in range(turns):
        await asyncio.sleep(0)
    return task.done()
