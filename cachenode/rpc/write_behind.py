"""The admin calls about queues of writes behind. None of them shows a value."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from typing import Any

from grpc import aio

from cachenode.core.entries import Failure
from cachenode.core.failures import UNKNOWN_NAMESPACE, queue_unavailable
from cachenode.core.stats import NamespaceCounters, NodeStats
from cachenode.errors import L2Unavailable
from cachenode.node.dead_letters import discard, replay
from cachenode.node.namespaces import Namespace
from cachenode.node.service import Node
from cachenode.node.write_behind import WriteBehind
from cachenode.rpc.status import abort
from cachenode_api.reasons import Reason
from cachenode_api.v1 import admin_pb2 as pb
from cachenode_api.v1 import common_pb2

__all__ = ["WriteBehindCalls"]

Context = aio.ServicerContext[Any, Any]

_NOT_BEHIND = Failure(Reason.INVALID_REQUEST, 'namespace: it does not write behind; write = "behind" makes it')
_BAD_ID = Failure(Reason.INVALID_REQUEST, "id: not one of a dead letter; they look like 1700000000000-0")
_BAD_LIMIT = Failure(Reason.INVALID_REQUEST, "limit: must be at most 10,000")
_MOST, _DEFAULT = 10_000, 100
_ID = re.compile(r"[0-9]{1,20}(-[0-9]{1,20})?\Z")


class WriteBehindCalls:
    """A part of the admin service."""

    _node: Node
    _stats: Callable[[], NodeStats]

    async def WriteBehindStatus(  # noqa: N802
        self, request: pb.WriteBehindStatusRequest, context: Context
    ) -> pb.WriteBehindStatusResponse:
        """Return how much waits."""
        if request.namespace:
            names = [(await self._behind(request.namespace, context))[1].policy.name]
        else:
            names = [space.policy.name for space in self._node.namespaces if self._node.behind(space) is not None]
        counters = {space.name: space for space in self._stats().namespaces}
        behind = self._node.write_behind
        try:
            queues = [await _queue(behind, counters[name]) for name in names if behind is not None]
        except L2Unavailable as error:
            await abort(context, queue_unavailable(str(error)))
        return pb.WriteBehindStatusResponse(header=self._named(), queues=queues)

    async def ListDeadLetters(  # noqa: N802
        self, request: pb.ListDeadLettersRequest, context: Context
    ) -> pb.ListDeadLettersResponse:
        """Return dead letters."""
        behind, namespace = await self._behind(request.namespace, context)
        if request.limit > _MOST:
            await abort(context, _BAD_LIMIT)
        (after,) = await self._ids([request.after], context) if request.after else (b"",)
        try:
            letters = await behind.queue.dead_letters(namespace.policy.name, after, request.limit or _DEFAULT)
        except L2Unavailable as error:
            await abort(context, queue_unavailable(str(error)))
        found = [
            pb.DeadLetter(
                id=letter.id.decode(),
                key=letter.key,
                removal=letter.removal,
                version=letter.version,
                size=letter.size,
                attempts=letter.attempts,
                age_s=letter.age_s,
                reason=letter.reason,
            )
            for letter in letters
        ]
        return pb.ListDeadLettersResponse(header=self._named(), letters=found)

    async def ReplayDeadLetters(  # noqa: N802
        self, request: pb.ReplayDeadLettersRequest, context: Context
    ) -> pb.ReplayDeadLettersResponse:
        """Queue dead letters again."""
        behind, namespace = await self._behind(request.namespace, context)
        ids = await self._ids(request.ids, context)
        try:
            queued, outdated = await replay(self._node, behind, namespace, ids)
        except L2Unavailable as error:
            await abort(context, queue_unavailable(str(error)))
        return pb.ReplayDeadLettersResponse(header=self._named(), queued=queued, outdated=outdated)

    async def DropDeadLetters(  # noqa: N802
        self, request: pb.DropDeadLettersRequest, context: Context
    ) -> pb.DropDeadLettersResponse:
        """Remove dead letters for ever."""
        behind, namespace = await self._behind(request.namespace, context)
        ids = await self._ids(request.ids, context)
        try:
            dropped = await discard(behind, namespace, ids)
        except L2Unavailable as error:
            await abort(context, queue_unavailable(str(error)))
        return pb.DropDeadLettersResponse(header=self._named(), dropped=dropped)

    async def _behind(self, name: str, context: Context) -> tuple[WriteBehind, Namespace]:
        namespace = self._node.namespaces.get(name)
        if namespace is None:
            await abort(context, UNKNOWN_NAMESPACE)
        behind = self._node.behind(namespace)
        if behind is None:
            await abort(context, _NOT_BEHIND)
        return behind, namespace

    async def _ids(self, ids: Sequence[str], context: Context) -> list[bytes]:
        if len(ids) > _MOST:
            await abort(context, Failure(Reason.INVALID_REQUEST, f"ids: {len(ids):,} exceed the limit of {_MOST:,}"))
        if not all(map(_ID.match, ids)):
            await abort(context, _BAD_ID)
        return [each.encode() for each in ids]

    def _named(self) -> common_pb2.ResponseHeader:
        placement = self._node.placement
        return common_pb2.ResponseHeader(node_id=placement.me.id, view_epoch=placement.epoch)


async def _queue(behind: WriteBehind, counters: NamespaceCounters) -> pb.WriteBehindQueue:
    status = await behind.queue.status(counters.name)
    return pb.WriteBehindQueue(
        namespace=counters.name,
        waiting=status.waiting,
        oldest_s=status.oldest_s,
        dead_letters=status.dead,
        max_backlog=behind.most,
        waiting_here=max(0, counters.queue_waiting),
        applied=counters.queue_applied,
        coalesced=counters.queue_coalesced,
        retries=counters.queue_retries,
        given_up=counters.queue_dead_letters,
    )
