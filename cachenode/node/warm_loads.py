"""WARM: the owner of keys loads those whose values are not there, after all who read and all that is due.

To `Loads` this is one more reader: a flight that somebody waits for already is waited for, and a reader who comes to
one that was begun here has it moved up (``test_reader_hurries_what_is_being_warmed``). Nothing that was loaded here is
counted as a miss.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import TYPE_CHECKING

from cachenode.core.entries import Batch, BatchResult, Failure
from cachenode.core.failures import NOT_OWNER, bad_key, failed
from cachenode.core.origin_limits import Priority
from cachenode.core.warming import Warmed
from cachenode.node.filler import fill
from cachenode_api.keys import MAX_KEY_BYTES
from cachenode_api.records import HEADER, STALE

if TYPE_CHECKING:
    from cachenode.node.namespaces import Namespace
    from cachenode.node.service import Node, Reply, Rest

__all__ = ["WarmLoads"]


class WarmLoads:
    """The part of a node that warms its own keys, and has others warm theirs."""

    def __init__(self, node: Node) -> None:
        self._node = node

    def begin(self, batch: Batch, namespace: Namespace, reply: Reply, from_peer: bool) -> Rest | None:
        """Warm keys (see `Node.execute`)."""
        node = self._node
        failures = {i: bad_key(len(key)) for i, key in enumerate(batch.keys) if not 0 < len(key) <= MAX_KEY_BYTES}
        own, away = node.split(batch.keys, (i for i in range(len(batch.keys)) if i not in failures))
        if from_peer and away:
            failures |= {index: NOT_OWNER for indices in away.values() for index in indices}
            away = {}
        if failures:
            reply(failed(batch, failures))
        parts = [(own, self._own(batch, namespace, own, reply))] if own else []
        parts += [(indices, node.writes.ask(owner, batch, indices, reply)) for owner, indices in away.items()]
        return node.run_parts(batch, reply, parts) if parts else None

    async def _own(self, batch: Batch, namespace: Namespace, left: list[int], reply: Reply) -> None:
        """Answer this node's keys, each removed from `left` once it is answered."""
        known: dict[int, Warmed] = {}
        due: dict[int, asyncio.Task[bytes | Failure]] = {}
        for index in left:
            key, now = batch.keys[index], self._node.clock.now()
            record = self._node.present(namespace, key, now)
            if record is not None:
                load = self._renew(batch, namespace, key, record, now)
                if load is not None:
                    due[index] = load
                else:
                    known[index] = Warmed.FRESH
            elif self._absent(namespace, key, now):
                known[index] = Warmed.ABSENT
        self._tell(known, left, reply)
        look = [index for index in left if index not in due]
        await asyncio.gather(
            self._look(batch, namespace, look, left, reply),
            *(self._when_loaded(index, load, left, reply) for index, load in due.items()),
        )

    def _renew(
        self, batch: Batch, namespace: Namespace, key: bytes, record: bytes, now: float
    ) -> asyncio.Task[bytes | Failure] | None:
        """Load a value anew that is due; return the load, None if it is as good as new."""
        if namespace.renewals is None or namespace.origin is None:
            return None
        _, flags, version, _ = HEADER.unpack_from(record)
        if not flags & STALE and namespace.renewals.ends(key, version)[0] > now:
            return None
        token = self._node.loads.renew(batch, namespace, key, self._node.read_through, now)
        return self._node.read_through.begin(namespace, key, token, Priority.WARMING) if token else None

    def _absent(self, namespace: Namespace, key: bytes, now: float) -> bool:
        """Return True if it is known that a key has no value."""
        if namespace.negatives and namespace.absent(key, now):
            return True
        bloom = namespace.bloom
        return bloom is not None and bloom.absent(key, self._node.placement.kept, namespace.barriers.covers)

    async def _look(self, batch: Batch, namespace: Namespace, look: list[int], left: list[int], reply: Reply) -> None:
        """Bring keys from L2, or from the origin."""
        if not look:
            return

        def told(result: BatchResult) -> None:
            indices = look if result.indices is None else result.indices
            bad = dict(result.failures)
            found = Warmed.FRESH if result.layers is not None else Warmed.LOADED
            codes = [0 if at in bad else found if record else Warmed.ABSENT for at, record in enumerate(result.records)]
            _forget(left, indices)
            reply(BatchResult(indices=indices, versions=codes, failures=bad))

        if namespace.origin is not None:
            await self._node.loads.lease(batch, namespace, list(look), told, None)
            return
        codes: dict[int, Warmed] = {}

        def filled(first: int, records: list[bytes], _layers: Sequence[int], _sure: bool) -> None:
            for index, record in zip(look[first:], records, strict=False):
                codes[index] = Warmed.FRESH if record else Warmed.ABSENT

        await fill(self._node, namespace, [batch.keys[index] for index in look], filled)
        self._tell(codes, left, reply)

    async def _when_loaded(
        self, index: int, load: asyncio.Task[bytes | Failure], left: list[int], reply: Reply
    ) -> None:
        outcome = await asyncio.shield(load)
        _forget(left, [index])
        if isinstance(outcome, Failure):
            reply(BatchResult(indices=[index], versions=[0], failures={0: outcome}))
        else:
            reply(BatchResult(indices=[index], versions=[Warmed.LOADED if outcome else Warmed.ABSENT]))

    def _tell(self, codes: dict[int, Warmed], left: list[int], reply: Reply) -> None:
        if codes:
            _forget(left, codes)
            reply(BatchResult(indices=list(codes), versions=list(codes.values())))


def _forget(left: list[int], answered: Sequence[int] | dict[int, Warmed]) -> None:
    gone = set(answered)
    left[:] = [index for index in left if index not in gone]
