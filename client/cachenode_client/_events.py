"""Events: telling the cluster that something has happened, and what that has made untrue.

An event is told to any node, over a unary call; the node's rules say what becomes untrue. It bears an id, so that a
call which is sent again, because its answer was lost, is done once by the node that has done it.
"""

from __future__ import annotations

import asyncio
import json
import uuid
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NoReturn

import grpc
from grpc import aio

from cachenode_api.errors import InvalidSelector
from cachenode_api.keys import seat_of
from cachenode_api.metadata import REASON_KEY
from cachenode_api.reasons import Reason
from cachenode_api.selectors import Selector, make_selector
from cachenode_api.tracing import carried
from cachenode_api.v1 import cache_pb2 as pb
from cachenode_api.v1 import cache_pb2_grpc, common_pb2
from cachenode_client.errors import CacheError, CacheTimeout, CacheUnavailable, InvalidArgument, NodeError, from_reason

if TYPE_CHECKING:
    from cachenode_client._channels import Channels
    from cachenode_client._checks import Mode
    from cachenode_client._engine import Engine
    from cachenode_client._session import Session

__all__ = ["EventInvalidation", "Published", "encoded_fields", "publish"]

_PAUSES_S = (0.05, 0.2, 0.5)
_MAX_ID = 128
_UNREACHABLE = frozenset({grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.CANCELLED})


@dataclass(frozen=True, slots=True, repr=False)
class EventInvalidation:
    """What an event has made untrue in one namespace. Its representation shows no key.

    Attributes:
        namespace: Of the keys and selectors.
        mode: What became of the values: "remove" or "expire".
        keys: Single keys.
        selectors: What else: each has a `kind`, a `text`, and `covers(key, tags)`.
    """

    namespace: str
    mode: Mode
    keys: tuple[bytes, ...] = ()
    selectors: tuple[Selector, ...] = ()

    def __repr__(self) -> str:
        counts = f"keys=<{len(self.keys):,}>, selectors=<{len(self.selectors):,}>"
        return f"EventInvalidation(namespace={self.namespace!r}, mode={self.mode!r}, {counts})"


@dataclass(frozen=True, slots=True)
class Published:
    """What has become of an event.

    Attributes:
        known: Whether a rule of the nodes names it; if not, nothing was done.
        duplicate: Whether the node had done it before, for an event of the same id.
        found: How many of the keys had a value.
        invalidations: What was declared untrue.
    """

    known: bool
    duplicate: bool
    found: int
    invalidations: tuple[EventInvalidation, ...] = ()


def encoded_fields(name: str, fields: Mapping[str, Any] | None, event_id: str | None) -> pb.PublishEventRequest:
    """Return the message of an event.

    Raises:
        InvalidArgument: It cannot be told.
    """
    if type(name) is not str or not name:
        raise InvalidArgument("name: must be a text that is not empty")
    if event_id is not None and not (type(event_id) is str and 0 < len(event_id) <= _MAX_ID):
        raise InvalidArgument(f"event_id: must be a text of 1 to {_MAX_ID} characters")
    if fields is not None and not isinstance(fields, Mapping):
        raise InvalidArgument(f"fields: must be a mapping, not {type(fields).__name__}")
    try:
        payload = json.dumps(dict(fields or {}), allow_nan=False).encode()
        return pb.PublishEventRequest(name=name, payload=payload, event_id=event_id or uuid.uuid4().hex)
    except (TypeError, ValueError, RecursionError):
        raise InvalidArgument("fields: must be texts, numbers, booleans, None, and mappings of these") from None


async def publish(engine: Engine, request: pb.PublishEventRequest, timeout_s: float) -> Published:
    """Tell a node of an event, another one if that fails; return when it is done.

    Raises:
        CacheError: It was refused, could not be done, or not in time.
    """
    loop, retry = engine.loop, 0
    deadline = loop.time() + timeout_s
    while True:
        session = await engine.router.wait_route(seat_of(request.event_id[:8]), deadline - loop.time())
        try:
            return await _tell(engine.router.channels, session, request, deadline - loop.time())
        except CacheError as error:
            left = deadline - loop.time()
            if not error.retryable or retry == len(_PAUSES_S) or left <= _PAUSES_S[retry]:
                raise
        await asyncio.sleep(_PAUSES_S[retry])
        retry += 1


async def _tell(channels: Channels, session: Session, request: pb.PublishEventRequest, left_s: float) -> Published:
    async with channels.open(session.address, showing_token=True) as channel:
        stub: Any = cache_pb2_grpc.CacheServiceStub(channel)
        metadata = tuple(carried().items())
        try:
            answer: pb.PublishEventResponse = await stub.PublishEvent(
                request, timeout=max(0.01, left_s), metadata=metadata
            )
        except aio.AioRpcError as error:
            _raise(channels, error)
    try:
        found = tuple(_invalidation(each) for each in answer.invalidations)
    except (InvalidSelector, ValueError):
        text = "The node sent a reply that does not fit the request."
        raise NodeError(text, reason="malformed_reply") from None
    return Published(answer.known, answer.duplicate, answer.found, found)


def _invalidation(each: pb.EventInvalidation) -> EventInvalidation:
    selectors = tuple(make_selector(kind, text) for kind, text in zip(each.kinds, each.selectors, strict=True))
    mode: Mode = "expire" if each.mode == common_pb2.INVALIDATION_MODE_EXPIRE else "remove"
    return EventInvalidation(each.namespace, mode, tuple(each.keys), selectors)


def _raise(channels: Channels, error: aio.AioRpcError) -> NoReturn:
    name = dict(error.trailing_metadata() or ()).get(REASON_KEY)
    if isinstance(name, str) and name in Reason.__members__:
        raise from_reason(Reason[name], error.details() or "") from None
    if error.code() is grpc.StatusCode.DEADLINE_EXCEEDED:
        raise CacheTimeout from None
    if error.code() in _UNREACHABLE:
        raise CacheUnavailable(f"The node could not be reached ({channels.status(error)}).") from None
    if error.code() is grpc.StatusCode.UNIMPLEMENTED:
        raise NodeError("The node is of a release that knows no events; update it.", reason="unimplemented") from None
    raise NodeError(reason="unknown") from None
