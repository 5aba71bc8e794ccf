"""Executes batches: what is here at once, what a peer owns or L2 may hold as it becomes known.

`Node.execute` answers at once, without awaiting, every key that needs no waiting, and returns a coroutine for the
rest. So hits are answered in the order in which they were asked, while misses complete in their own time, and a reply
is made and queued in one turn of the
loop: nothing can happen to the key between the look at its version and the place of the answer in the queue.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Callable, Coroutine, Hashable, Iterable, Sequence
from typing import Any

from cachenode.core.entries import Batch, BatchResult, Failure, Operation
from cachenode.core.failures import LATE, NOT_READY, UNKNOWN_NAMESPACE, failed
from cachenode.core.versions import VersionSource
from cachenode.node.changes import Changes
from cachenode.node.l2_tier import L2Tier
from cachenode.node.loads import MAX_LEASE_S, Loads
from cachenode.node.mover import Mover
from cachenode.node.namespaces import Namespace, Namespaces
from cachenode.node.placement import Placement
from cachenode.node.reads import Reads
from cachenode.node.writes import Writes
from cachenode.ports import Clock, Peers
from cachenode_api.reasons import Reason

__all__ = ["Node", "Reply"]

Reply = Callable[[BatchResult], None]
Rest = Coroutine[Any, Any, None]


class Node:
    """What a cachenode does, without saying how its peers, its store and its clients are reached.

    Args:
        placement: The view in force.
        namespaces: The entries in memory.
        peers: The links to the other nodes.
        tier: The shared store; None if there is none.
        clock: The clock of all deadlines in memory.
        call_timeout_s: Longest wait for a peer or L2, whatever the caller would allow.
    """

    def __init__(
        self,
        *,
        placement: Placement,
        namespaces: Namespaces,
        peers: Peers,
        tier: L2Tier | None,
        clock: Clock,
        versions: VersionSource,
        call_timeout_s: float = 5.0,
    ) -> None:
        self.placement = placement
        self.namespaces = namespaces
        self.tier = tier
        self.clock = clock
        self.versions = versions
        self.mover = Mover(placement, namespaces)
        self.forwarded = 0
        self.failures: Counter[Reason] = Counter()
        self._peers = peers
        self._call_timeout_s = call_timeout_s
        self._reads = Reads(self)
        self.writes = Writes(self)
        self.loads = Loads(self)
        self.changes = Changes(self)
        placement.listeners.append(lambda _, view: versions.enter(view.epoch))

    def execute(self, batch: Batch, reply: Reply, *, from_peer: bool = False, holder: Hashable = None) -> Rest | None:
        """Execute a batch.

        Args:
            batch: Its columns must have fitting lengths.
            reply: Takes results; called one or more times, each key exactly once over all calls.
            from_peer: True if a peer forwarded the batch: then it is not forwarded again.
            holder: Who gets the leases that the batch asks for; `Loads.release` ends them.

        Returns:
            A coroutine that does and answers what is left, or None if nothing is. It must be awaited; it does not
            raise, and it ends within the batch's time limit. Cancelling it leaves the rest unanswered.
        """
        namespace = self.namespaces.get(batch.namespace)
        if namespace is None:
            self._refuse(batch, reply, UNKNOWN_NAMESPACE)
            return None
        if not self.placement.ready:
            self._refuse(batch, reply, NOT_READY)
            return None
        if batch.operation.reads:
            return self._reads.begin(batch, namespace, reply, from_peer, holder)
        return self.writes.begin(batch, namespace, reply, from_peer)

    def hit(self, namespace: str, key: bytes) -> tuple[bytes, float]:
        """Return the record of one key and the time it counts against, if it is in memory; else an empty record.

        The short way of a single read. If it leads nowhere, `execute` says why.
        """
        found = self.namespaces.get(namespace)
        now = self.clock.now()
        if found is None or not self.placement.ready:
            return b"", now
        return self._reads.hit(found, key, now), now

    def _refuse(self, batch: Batch, reply: Reply, failure: Failure) -> None:
        self.failures[failure.reason] += len(batch.keys)
        reply(failed(batch, dict.fromkeys(range(len(batch.keys)), failure)))

    def split(self, keys: Sequence[bytes], indices: Iterable[int]) -> tuple[list[int], dict[str, list[int]]]:
        """Return which of the keys are this node's, and which are whose."""
        if self.placement.alone:
            return list(indices), {}
        own: list[int] = []
        away: dict[str, list[int]] = {}
        me, owner_of = self.placement.me.id, self.placement.owner
        for index in indices:
            owner = owner_of(keys[index]) or me
            if owner == me:
                own.append(index)
            else:
                away.setdefault(owner, []).append(index)
        return own, away

    async def forward(self, owner: str, batch: Batch, indices: Sequence[int]) -> BatchResult:
        """Let a peer execute part of a batch.

        Raises:
            PeerUnavailable: As `Peers.forward`.
        """
        self.forwarded += len(indices)
        return await self._peers.forward(owner, part_of(batch, indices))

    async def run_parts(self, batch: Batch, reply: Reply, parts: Sequence[tuple[Sequence[int], Rest]]) -> None:
        """Run the parts of a batch side by side; one that is late is answered with the reason.

        Args:
            batch: The batch.
            reply: Takes what is late.
            parts: The positions of each part's keys, from which it may remove what it has answered, and the part.
        """

        async def run(indices: Sequence[int], part: Rest) -> None:
            longest = MAX_LEASE_S if batch.operation is Operation.LEASE else self._call_timeout_s
            try:
                async with asyncio.timeout(min(batch.timeout_s or self._call_timeout_s, longest)):
                    await part
            except TimeoutError:
                self.failures[Reason.DEADLINE_EXCEEDED] += len(indices)
                if indices:
                    reply(failed(batch, dict.fromkeys(indices, LATE)))

        if len(parts) == 1:
            await run(*parts[0])
        else:
            await asyncio.gather(*(run(indices, part) for indices, part in parts))

    def l2_for(self, namespace: Namespace) -> L2Tier | None:
        """Return the shared store if the namespace uses it."""
        return self.tier if namespace.policy.l2 else None

    def __repr__(self) -> str:
        return f"<Node {self.placement.me.id} epoch={self.placement.epoch} used={self.namespaces.memory.used_bytes}>"


def part_of(batch: Batch, indices: Sequence[int]) -> Batch:
    """Return a batch of some keys of another."""

    def pick(column: Sequence[Any]) -> Sequence[Any]:
        return column if len(column) <= 1 < len(batch.keys) else [column[index] for index in indices]

    return Batch(
        operation=batch.operation,
        namespace=batch.namespace,
        keys=[batch.keys[index] for index in indices],
        values=[batch.values[index] for index in indices] if batch.values else (),
        flags=[batch.flags[index] for index in indices] if batch.flags else (),
        ttls_ms=pick(batch.ttls_ms) if batch.ttls_ms else (),
        timeout_s=batch.timeout_s,
        tokens=[batch.tokens[index] for index in indices] if batch.tokens else (),
        details=[batch.details[index] for index in indices] if batch.details else (),
        lease_s=batch.lease_s,
        if_versions=pick(batch.if_versions) if batch.if_versions else (),
        deltas=pick(batch.deltas) if batch.deltas else (),
    )
