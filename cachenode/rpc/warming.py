"""The admin calls about warming."""

from __future__ import annotations

import asyncio
import secrets
from collections.abc import AsyncIterator
from typing import Any

from grpc import aio

from cachenode.core.entries import Failure
from cachenode.core.failures import NOT_READY, UNKNOWN_NAMESPACE
from cachenode.core.warming import WarmJob
from cachenode.node.service import Node
from cachenode.node.warm_duties import WarmDuties
from cachenode.rpc.status import abort
from cachenode_api.keys import DEFAULT_NAMESPACE
from cachenode_api.reasons import Reason
from cachenode_api.v1 import admin_pb2 as pb
from cachenode_api.v1 import common_pb2

__all__ = ["MOST_KEYS", "WarmCalls"]

Context = aio.ServicerContext[Any, Any]

MOST_KEYS = 10_000
_EVERY_S = 0.2
_RATE_PER_S = 500.0
_FASTEST = 1_000_000.0
_MOST_ID = 64


class WarmCalls:
    """A part of the admin service."""

    _node: Node
    _warm: WarmDuties | None

    async def Warm(self, request: pb.WarmRequest, context: Context) -> AsyncIterator[pb.WarmProgress]:  # noqa: N802
        """Run a job, and tell how far it is until it has ended."""
        node, warm = self._node, self._warm
        namespace = node.namespaces.get(request.namespace)
        if namespace is None:
            await abort(context, UNKNOWN_NAMESPACE)
        text = _wrong(request) or ("" if namespace.origin is not None else "namespace: it has no origin to load from")
        if request.origin and namespace.origin is not None and not namespace.origin.enumerates:
            text = "origin: its loader cannot list keys: it has no `keys`"
        if text:
            await abort(context, Failure(Reason.INVALID_REQUEST, text))
        if warm is None or not node.placement.ready or node.closing:
            await abort(context, NOT_READY)
        source = "origin" if request.origin else "hot" if request.top else "keys"
        job = WarmJob(
            request.job_id or secrets.token_hex(6),
            namespace.policy.name,
            source,
            request.rate_per_s or _RATE_PER_S,
            total=len(request.keys),
            top=request.top,
        )
        begun = await warm.begin(namespace, job, list(request.keys))
        if isinstance(begun, Failure):
            await abort(context, begun)
        job = node.warming.jobs[namespace.policy.name]
        try:
            while not begun.done():
                yield _progress(job)
                await asyncio.wait([begun], timeout=_EVERY_S)
            yield _progress(job)
        finally:
            if source == "keys" and not begun.done():  # nobody else has the rest of its keys
                begun.cancel()

    async def WarmStatus(self, request: pb.WarmStatusRequest, context: Context) -> pb.WarmStatusResponse:  # noqa: N802
        """Return the last jobs."""
        if request.namespace and self._node.namespaces.get(request.namespace) is None:
            await abort(context, UNKNOWN_NAMESPACE)
        jobs = [job for name, job in self._node.warming.jobs.items() if request.namespace in {"", name}]
        return pb.WarmStatusResponse(header=self._said_by(), jobs=[_progress(job) for job in jobs])

    async def CancelWarm(self, request: pb.CancelWarmRequest, context: Context) -> pb.CancelWarmResponse:  # noqa: N802
        """End a job."""
        name = request.namespace or DEFAULT_NAMESPACE
        if self._node.namespaces.get(name) is None:
            await abort(context, UNKNOWN_NAMESPACE)
        return pb.CancelWarmResponse(
            header=self._said_by(), cancelled=await self._node.warming.cancel(name, request.job_id)
        )

    def _said_by(self) -> common_pb2.ResponseHeader:
        placement = self._node.placement
        return common_pb2.ResponseHeader(node_id=placement.me.id, view_epoch=placement.epoch)


def _wrong(request: pb.WarmRequest) -> str:
    """Return what is wrong with a request, empty if nothing."""
    if bool(request.keys) + request.origin + bool(request.top) != 1:
        return "keys, origin, top: one of them says which keys"
    if len(request.keys) > MOST_KEYS:
        return f"keys: {len(request.keys):,} in one request, must be at most {MOST_KEYS:,}"
    if request.rate_per_s and not 0 < request.rate_per_s <= _FASTEST:
        return f"rate_per_s: must be above 0 and at most {_FASTEST:,.0f}"
    if len(request.job_id) > _MOST_ID:
        return f"job_id: must be at most {_MOST_ID} characters"
    return ""


def _progress(job: WarmJob) -> pb.WarmProgress:
    return pb.WarmProgress(
        job_id=job.id,
        namespace=job.namespace,
        source=job.source,
        state=job.state,
        total=job.total,
        done=job.done,
        loaded=job.loaded,
        fresh=job.fresh,
        absent=job.absent,
        failed=job.failed,
        error=job.error,
        node_id=job.node_id,
        rate_per_s=job.rate_per_s,
    )
