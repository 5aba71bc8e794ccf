"""CacheService: one call per operation, for any language."""

from __future__ import annotations

import math
from collections.abc import AsyncIterator, Sequence
from functools import partial
from typing import Any

from grpc import aio

from cachenode import traced
from cachenode.core.entries import Batch, BatchResult, Failure, Operation
from cachenode.core.events import Invalidation
from cachenode.core.failures import UNKNOWN_NAMESPACE
from cachenode.errors import EventRefused
from cachenode.node.events import Events
from cachenode.node.service import Node
from cachenode.rpc.status import abort
from cachenode.wire import MAX_DETAIL, invalidation_to_wire
from cachenode_api.dependencies import Parent, canonical_parents, pack_references
from cachenode_api.errors import ContractError, InvalidTags
from cachenode_api.keys import DEFAULT_NAMESPACE
from cachenode_api.metadata import INCARNATION_KEY, SEQUENCE_KEY
from cachenode_api.reasons import Reason
from cachenode_api.records import DEPENDENT, HEADER, HEADER_BYTES, STALE, TAGGED
from cachenode_api.selectors import EVERYTHING, SelectorKind
from cachenode_api.tags import canonical_tags, pack_tags, tags_length
from cachenode_api.tracing import brought, switch
from cachenode_api.v1 import cache_pb2 as pb
from cachenode_api.v1 import cache_pb2_grpc, common_pb2

__all__ = ["CacheService"]

Context = aio.ServicerContext[Any, Any]


class CacheService(cache_pb2_grpc.CacheServiceServicer):
    """Serves unary calls.

    Args:
        node: Executes them.
        events: Acts on events.
        max_batch_keys: Most keys in GetMany and SetMany.
    """

    def __init__(self, node: Node, events: Events, *, max_batch_keys: int) -> None:
        self._node = node
        self._events = events
        self._max_batch_keys = max_batch_keys
        self._last_header = common_pb2.ResponseHeader()

    async def Get(self, request: pb.GetRequest, context: Context) -> pb.GetResponse:  # noqa: N802
        """Read one value."""
        namespace, key = request.namespace or DEFAULT_NAMESPACE, request.key
        asked = request.slide or (switch.tracer is not None and _parent(context))
        record, now_s = (b"", 0.0) if asked else self._node.hit(namespace, key)
        layer: int = common_pb2.LAYER_L1
        if not record:
            batch = Batch(Operation.GET, namespace, [key], slide=request.slide, slide_ms=request.slide_ms)
            result = await self._one(batch, context)
            record, now_s, layer = result.records[0], result.now_s, layer_at(result, 0)
        response = pb.GetResponse(header=self._header())
        fill_entry(response.entry, record, now_s, layer)
        return response

    async def GetMany(self, request: pb.GetManyRequest, context: Context) -> pb.GetManyResponse:  # noqa: N802
        """Read many values."""
        batch = Batch(Operation.GET, request.namespace or DEFAULT_NAMESPACE, list(request.keys))
        result = await self._many(batch, context)
        response = pb.GetManyResponse(header=self._header())
        for at, record in enumerate(result.records):
            answer = response.results.add(error=error_at(result, at))
            fill_entry(answer.entry, record, result.now_s, layer_at(result, at))
        return response

    async def Set(self, request: pb.SetRequest, context: Context) -> pb.SetResponse:  # noqa: N802
        """Store one value."""
        batch = Batch(
            operation=Operation.SET,
            namespace=request.namespace or DEFAULT_NAMESPACE,
            keys=[request.key],
            values=[request.value],
            flags=[request.flags],
            ttls_ms=[request.ttl_ms],
            if_versions=[request.if_version] if request.if_version else (),
            acknowledged=request.acknowledgement != common_pb2.ACKNOWLEDGEMENT_OWNER,
        )
        if request.tags:
            try:
                tags = pack_tags(canonical_tags(request.tags))
            except InvalidTags as error:
                await abort(context, Failure(Reason.INVALID_REQUEST, str(error)))
            batch.values, batch.flags = [tags + request.value], [request.flags | TAGGED]
        batch.depends_on = await _parents(request.depends_on, batch, context)
        result = await self._one(batch, context)
        return pb.SetResponse(header=self._header(), version=result.versions[0])

    async def Incr(self, request: pb.IncrRequest, context: Context) -> pb.IncrResponse:  # noqa: N802
        """Add to a counter."""
        batch = Batch(
            operation=Operation.INCR,
            namespace=request.namespace or DEFAULT_NAMESPACE,
            keys=[request.key],
            ttls_ms=[request.ttl_ms],
            deltas=[request.delta],
        )
        record = (await self._one(batch, context)).records[0]
        version = HEADER.unpack_from(record)[2]
        return pb.IncrResponse(header=self._header(), value=int(record[HEADER_BYTES:]), version=version)

    async def SetMany(self, request: pb.SetManyRequest, context: Context) -> pb.SetManyResponse:  # noqa: N802
        """Store many values."""
        batch = Batch(
            operation=Operation.SET,
            namespace=request.namespace or DEFAULT_NAMESPACE,
            keys=[item.key for item in request.items],
            values=[item.value for item in request.items],
            flags=[item.flags for item in request.items],
            ttls_ms=[item.ttl_ms for item in request.items],
        )
        if any(item.depends_on for item in request.items):
            blocks = [await _parents(item.depends_on, batch, context) for item in request.items]
            batch.depends_on = [block[0] if block else b"" for block in blocks]
        result = await self._many(batch, context)
        results = [
            pb.SetManyResponse.Result(version=result.versions[at], error=error_at(result, at))
            for at in range(len(batch.keys))
        ]
        return pb.SetManyResponse(header=self._header(), results=results)

    async def Delete(self, request: pb.DeleteRequest, context: Context) -> pb.DeleteResponse:  # noqa: N802
        """Remove one value."""
        batch = Batch(Operation.DELETE, request.namespace or DEFAULT_NAMESPACE, [request.key])
        batch.acknowledged = request.acknowledgement != common_pb2.ACKNOWLEDGEMENT_OWNER
        result = await self._one(batch, context)
        return pb.DeleteResponse(header=self._header(), found=result.versions[0] != 0)

    async def Invalidate(self, request: pb.InvalidateRequest, context: Context) -> pb.InvalidateResponse:  # noqa: N802
        """Declare values untrue."""
        namespace = request.namespace or DEFAULT_NAMESPACE
        acknowledged = request.acknowledgement != common_pb2.ACKNOWLEDGEMENT_OWNER
        expire = request.mode == common_pb2.INVALIDATION_MODE_EXPIRE
        texts, kinds = _selectors(request)
        if not request.keys and not texts:
            text = "invalidate: name keys, prefixes, patterns, tags, or the whole namespace"
            await abort(context, Failure(Reason.INVALID_REQUEST, text))
        found = 0
        if request.keys:
            keys = list(request.keys)
            batch = Batch(Operation.INVALIDATE, namespace, keys, acknowledged=acknowledged, expire=expire)
            found = sum(version != 0 for version in await self._done(batch, context))
        if texts:
            batch = Batch(Operation.BARRIER, namespace, texts, flags=kinds, acknowledged=acknowledged, expire=expire)
            await self._done(batch, context)
        return pb.InvalidateResponse(header=self._header(), found=found)

    async def _done(self, batch: Batch, context: Context) -> Sequence[int]:
        """Return the versions of a batch of which nothing may fail."""
        result = await self._many(batch, context)
        for failure in result.failures.values():
            await abort(context, failure)
        return result.versions

    async def PublishEvent(  # noqa: N802
        self, request: pb.PublishEventRequest, context: Context
    ) -> pb.PublishEventResponse:
        """Act on an event."""
        left_s = context.time_remaining() or 0.0
        try:
            publishing = self._events.publish(
                request.name, request.payload, "api", event_id=request.event_id, timeout_s=left_s
            )
            if switch.tracer is not None and (parent := _parent(context)):
                publishing = traced.published(parent, self._node.placement.me.id, publishing)
            published = await publishing
        except EventRefused as error:
            await abort(context, Failure(error.reason, str(error)))
        return pb.PublishEventResponse(
            header=self._header(),
            known=published.known,
            duplicate=published.duplicate,
            found=published.found,
            invalidations=[_event_invalidation(each) for each in published.invalidations],
        )

    async def Watch(  # noqa: N802
        self, request: pb.WatchRequest, context: Context
    ) -> AsyncIterator[pb.WatchEvent]:
        """Tell of what is invalidated here, from where the caller left off if that is still known."""
        me = self._node.placement.me
        log = self._node.invalidations.log
        if request.namespace and self._node.namespaces.get(request.namespace) is None:
            await abort(context, UNKNOWN_NAMESPACE)
        same = request.incarnation == me.incarnation
        after, log.wanted = request.after if same else log.sequence, True
        await context.send_initial_metadata(((INCARNATION_KEY, me.incarnation), (SEQUENCE_KEY, str(after))))
        if request.incarnation and not same:
            yield pb.WatchEvent(node_id=me.id, incarnation=me.incarnation, sequence=log.sequence, reset=True)
        async for event in log.follow(after):
            if event is None:
                yield pb.WatchEvent(node_id=me.id, incarnation=me.incarnation, sequence=log.sequence, reset=True)
            elif request.namespace in {"", event.namespace}:
                yield pb.WatchEvent(
                    node_id=me.id,
                    incarnation=me.incarnation,
                    sequence=event.sequence,
                    invalidation=invalidation_to_wire(event.namespace, event.keys, event.selectors),
                )

    async def Touch(self, request: pb.TouchRequest, context: Context) -> pb.TouchResponse:  # noqa: N802
        """Give a value a new TTL."""
        batch = Batch(
            operation=Operation.TOUCH,
            namespace=request.namespace or DEFAULT_NAMESPACE,
            keys=[request.key],
            ttls_ms=[request.ttl_ms],
        )
        result = await self._one(batch, context)
        return pb.TouchResponse(header=self._header(), found=result.versions[0] != 0)

    async def GetOrLease(self, request: pb.GetOrLeaseRequest, context: Context) -> pb.GetOrLeaseResponse:  # noqa: N802
        """Read one value, or get the right to load it."""
        batch = Batch(
            Operation.LEASE, request.namespace or DEFAULT_NAMESPACE, [request.key], lease_s=request.lease_ms / 1_000
        )
        batch.depends_on = await _parents(request.depends_on, batch, context)
        result = await self._one(batch, context)
        token = result.tokens[0] if result.tokens else 0
        response = pb.GetOrLeaseResponse(header=self._header(), token=token)
        fill_entry(response.entry, result.records[0], result.now_s, layer_at(result, 0))
        return response

    async def Fulfill(self, request: pb.FulfillRequest, context: Context) -> pb.FulfillResponse:  # noqa: N802
        """Store a loaded value and hand it to those who wait."""
        batch = Batch(
            operation=Operation.FULFILL,
            namespace=request.namespace or DEFAULT_NAMESPACE,
            keys=[request.key],
            values=[request.value],
            flags=[request.flags],
            ttls_ms=[request.ttl_ms],
            tokens=[request.token],
        )
        batch.depends_on = await _parents(request.depends_on, batch, context)
        result = await self._one(batch, context)
        return pb.FulfillResponse(header=self._header(), version=result.versions[0])

    async def Abandon(self, request: pb.AbandonRequest, context: Context) -> pb.AbandonResponse:  # noqa: N802
        """Give the right to load back."""
        if len(request.failure) > MAX_DETAIL:
            text = f"failure: {len(request.failure):,} characters exceed the limit of {MAX_DETAIL:,}"
            await abort(context, Failure(Reason.INVALID_REQUEST, text))
        batch = Batch(
            operation=Operation.ABANDON,
            namespace=request.namespace or DEFAULT_NAMESPACE,
            keys=[request.key],
            flags=[int(request.absent)],
            tokens=[request.token],
            details=[request.failure],
        )
        await self._one(batch, context)
        return pb.AbandonResponse(header=self._header())

    def _header(self) -> common_pb2.ResponseHeader:
        epoch = self._node.placement.epoch
        if self._last_header.view_epoch != epoch or not self._last_header.node_id:
            self._last_header = common_pb2.ResponseHeader(node_id=self._node.placement.me.id, view_epoch=epoch)
        return self._last_header

    async def _one(self, batch: Batch, context: Context) -> BatchResult:
        """Execute a batch of one key; its failure is the call's."""
        result = await self._execute(batch, context)
        if result.failures:
            await abort(context, result.failures[0])
        return result

    async def _many(self, batch: Batch, context: Context) -> BatchResult:
        count = len(batch.keys)
        if not 0 < count <= self._max_batch_keys:
            text = f"keys: {count:,} in one call, must be 1 to {self._max_batch_keys:,}"
            await abort(context, Failure(Reason.INVALID_REQUEST, text))
        return await self._execute(batch, context)

    async def _execute(self, batch: Batch, context: Context) -> BatchResult:
        batch.timeout_s = context.time_remaining() or 0.0
        parts: list[BatchResult] = []
        if switch.tracer is not None and (parent := _parent(context)):
            execute = partial(self._node.execute, batch)
            rest = traced.execute_traced(parent, self._node.placement.me.id, batch, parts.append, execute)
        else:
            rest = self._node.execute(batch, parts.append)
        if rest is not None:
            await rest
        if len(parts) == 1 and parts[0].indices is None:
            return parts[0]
        return joined(parts, len(batch.keys), is_get=batch.operation.gives_records)


def _parent(context: Context) -> str:
    """Return the traceparent of a call inside a trace that is being recorded, else nothing."""
    return brought(context.invocation_metadata())


def joined(parts: Sequence[BatchResult], count: int, *, is_get: bool) -> BatchResult:
    """Return the results of a whole batch from its parts."""
    records, versions, layers = [b""] * (count if is_get else 0), [0] * (0 if is_get else count), [1] * count
    tokens = [0] * count
    whole = BatchResult(records=records, versions=versions, layers=layers, tokens=tokens)
    for part in parts:
        whole.now_s = part.now_s or whole.now_s
        for at, index in enumerate(range(count) if part.indices is None else part.indices):
            if is_get:
                records[index] = part.records[at]
                layers[index] = part.layers[at] if part.layers else 1
                tokens[index] = part.tokens[at] if part.tokens else 0
            else:
                versions[index] = part.versions[at]
            if at in part.failures:
                whole.failures[index] = part.failures[at]
    return whole


def _event_invalidation(each: Invalidation) -> pb.EventInvalidation:
    mode = common_pb2.INVALIDATION_MODE_EXPIRE if each.expire else common_pb2.INVALIDATION_MODE_UNSPECIFIED
    return pb.EventInvalidation(
        namespace=each.namespace,
        mode=mode,
        keys=each.keys,
        selectors=[selector.text for selector in each.selectors],
        kinds=[selector.kind.value for selector in each.selectors],
    )


async def _parents(parents: Sequence[pb.Parent], batch: Batch, context: Context) -> Sequence[bytes]:
    """Return the block of what a value depends on, none if there is nothing."""
    if not parents:
        return ()
    try:
        named = [Parent(parent.namespace or batch.namespace, parent.key) for parent in parents]
        return [pack_references(canonical_parents(named, batch.namespace))]
    except ContractError as error:
        await abort(context, Failure(Reason.INVALID_REQUEST, str(error)))


def _selectors(request: pb.InvalidateRequest) -> tuple[list[bytes], list[int]]:
    """Return the texts and kinds of what an invalidation covers besides keys."""
    texts = [*request.prefixes, *request.patterns, *(tag.encode() for tag in request.tags)]
    kinds = [SelectorKind.PREFIX] * len(request.prefixes) + [SelectorKind.GLOB] * len(request.patterns)
    kinds += [SelectorKind.TAG] * len(request.tags)
    if request.whole_namespace:
        texts, kinds = [*texts, EVERYTHING], [*kinds, SelectorKind.NAMESPACE]
    return texts, [kind.value for kind in kinds]


def layer_at(result: BatchResult, at: int) -> int:
    """Return the layer that answered for one key."""
    return result.layers[at] if result.layers else common_pb2.LAYER_L1


def fill_entry(entry: pb.Entry, record: bytes, now_s: float, layer: int) -> None:
    """Write a record, empty if absent, into an entry, field by field: built apart it would be copied."""
    entry.found = bool(record)
    if not record:
        return
    _, flags, version, deadline = HEADER.unpack_from(record)
    value = record[HEADER_BYTES:]
    entry.value = value[tags_length(value) :] if flags & TAGGED else value
    entry.version = version
    entry.layer = layer  # type: ignore[assignment]  # an open enum is an int
    if flags:
        entry.flags = flags & ~(STALE | TAGGED | DEPENDENT)
        entry.stale = bool(flags & STALE)
    if deadline != math.inf:
        entry.ttl_ms = max(0, int((deadline - now_s) * 1_000))


def error_at(result: BatchResult, at: int) -> pb.KeyError | None:
    """Return why one key failed, None if it did not."""
    failure = result.failures.get(at)
    if failure is None:
        return None
    return pb.KeyError(reason=failure.reason.value, detail=failure.detail)  # type: ignore[arg-type]
