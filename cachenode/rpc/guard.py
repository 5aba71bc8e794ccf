"""The border: no exception text leaves the node.

grpc.aio sends the text of an exception that a handler raises to the client (``Unexpected <class 'ValueError'>: …``),
whatever secret it holds. Here such an exception becomes INTERNAL with a request id, and its text goes to the log under
the same id.

Handlers are wrapped where they are registered, which is as far out as an interceptor and costs a call nothing:
grpc.aio runs interceptors as coroutines for each call anew.
"""

from __future__ import annotations

import asyncio
import contextlib
import inspect
import sys
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable, Mapping, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any, NoReturn, cast

import grpc
import structlog
from grpc import aio

from cachenode.core.failures import too_many
from cachenode.defects import new_request_id, told
from cachenode.rpc.status import REASON_KEY, abort
from cachenode_api.metadata import REQUEST_ID_KEY
from cachenode_api.reasons import Reason

__all__ = ["CallLimits", "GuardedServer", "Slots"]

_CACHE, _ADMIN = "/cachenode.v1.CacheService/", "/cachenode.v1.AdminService/"
_WATCH = frozenset({f"{_CACHE}Watch", f"{_ADMIN}Warm"})

_log = structlog.get_logger(__name__)

if TYPE_CHECKING:
    from cachenode.rpc.audit import Audit, Note
    from cachenode.rpc.gate import Gate

    Admit = Callable[[object, aio.ServicerContext[Any, Any]], Awaitable[None]]
    Handler = grpc.RpcMethodHandler[Any, Any]


class Slots:
    """How many calls of a kind may be under way at a time, whoever makes them.

    Args:
        what: Their name, for people.
        most: How many.
    """

    __slots__ = ("most", "refused", "taken", "what")

    def __init__(self, what: str, most: int) -> None:
        self.what = what
        self.most = most
        self.taken = 0
        self.refused = 0

    async def refuse(self, context: aio.ServicerContext[Any, Any]) -> NoReturn:
        """End a call that is one too many."""
        self.refused += 1
        await abort(context, too_many(self.what, self.taken + 1, self.most))


class CallLimits:
    """How many calls of each kind may be under way. Sessions and links have limits of their own; health has none.

    Args:
        calls: Unary calls.
        watchers: Streams that watch something.
    """

    def __init__(self, calls: int, watchers: int) -> None:
        self._calls, self._watchers = Slots("calls", calls), Slots("watchers", watchers)

    def of(self, method: str) -> Slots | None:
        """Return the slots of a method, by its whole name; None for one without."""
        if method in _WATCH:
            return self._watchers
        return self._calls if method.startswith((_CACHE, _ADMIN)) else None

    def refused(self) -> dict[str, int]:
        """Return how many calls were one too many, by kind."""
        return {slots.what: slots.refused for slots in (self._calls, self._watchers)}


class GuardedServer:
    """Takes the place of a server in ``add_…Servicer_to_server``: registers each handler wrapped.

    Args:
        server: Gets the handlers.
        gate: Says who is let in; None for all.
        slots: Says for a method, by its whole name, how many of its calls may be under way; None for any number.
        audit: Takes note of what calls do; None for nobody.
    """

    def __init__(
        self,
        server: aio.Server,
        gate: Gate | None = None,
        slots: Callable[[str], Slots | None] = lambda _: None,
        audit: Audit | None = None,
    ) -> None:
        self._server = server
        self._gate = gate
        self._slots = slots
        self._audit = audit

    def add_generic_rpc_handlers(self, handlers: Sequence[grpc.GenericRpcHandler]) -> None:
        """Register the handlers of a service."""
        self._server.add_generic_rpc_handlers(
            [_Guarded(handler, self._gate, self._slots, self._audit) for handler in handlers]
        )

    def add_registered_method_handlers(self, service: str, handlers: Mapping[str, Handler]) -> None:
        """Nothing: grpc.aio serves the same methods from the generic handlers."""


class _Guarded(grpc.GenericRpcHandler):
    """The handlers of one service, each wrapped once, at its first call."""

    def __init__(
        self,
        inner: grpc.GenericRpcHandler,
        gate: Gate | None,
        slots: Callable[[str], Slots | None] = lambda _: None,
        audit: Audit | None = None,
    ) -> None:
        self._inner = inner
        self._gate = gate
        self._slots = slots
        self._audit = audit
        self._wrapped: dict[str, Handler] = {}

    def service(self, handler_call_details: grpc.HandlerCallDetails) -> Handler | None:
        """Return the wrapped handler of a method, None if the service does not have it."""
        method = handler_call_details.method
        wrapped = self._wrapped.get(method)
        if wrapped is None:
            handler = self._inner.service(handler_call_details)
            if handler is None:  # not remembered: strangers choose the names of methods that do not exist
                return None
            admit = partial(self._gate.admit, method) if self._gate is not None else None
            wrapped = self._wrapped[method] = _wrap(
                handler,
                admit,
                self._slots(method) or Slots("calls", sys.maxsize),
                self._audit.of(method) if self._audit is not None else None,
            )
        return wrapped


def _wrap(handler: Handler, admit: Admit | None, slots: Slots, note: Note | None) -> Handler:
    if handler.unary_unary is not None:
        return grpc.unary_unary_rpc_method_handler(
            _audited(_guarded(handler.unary_unary, admit, slots), note),
            handler.request_deserializer,
            handler.response_serializer,
        )
    if handler.unary_stream is not None:
        if not inspect.isasyncgenfunction(handler.unary_stream):  # it writes by itself (the health service's Watch)
            return handler
        return grpc.unary_stream_rpc_method_handler(
            _audited(_guarded(_written(handler.unary_stream), admit, slots), note),
            handler.request_deserializer,
            handler.response_serializer,
        )
    if handler.stream_stream is not None:
        behaviour = handler.stream_stream
        if hasattr(behaviour, "__code__") and behaviour.__code__.co_flags & 0x200:  # async generator (reflection)
            return handler
        return grpc.stream_stream_rpc_method_handler(
            _guarded(behaviour, admit, slots, stream=True), handler.request_deserializer, handler.response_serializer
        )
    return handler


def _guarded(
    behaviour: Callable[..., Any], admit: Admit | None, slots: Slots, *, stream: bool = False
) -> Callable[..., Awaitable[Any]]:
    async def call(request: object, context: aio.ServicerContext[Any, Any]) -> object:
        if slots.taken >= slots.most:
            await slots.refuse(context)
        slots.taken += 1
        try:
            if admit is not None:
                await admit(None if stream else request, context)
            return await behaviour(request, context)
        except (asyncio.CancelledError, aio.AbortError):
            raise
        except (aio.InternalError, aio.UsageError):  # the call is no more: nobody is there to be told
            raise asyncio.CancelledError from None
        except NotImplementedError as error:
            if context.code() != grpc.StatusCode.UNIMPLEMENTED:
                await _hide(error, context)
            await context.abort(grpc.StatusCode.UNIMPLEMENTED, "this node does not have the method")
        except Exception as error:  # noqa: BLE001 - the border: whatever it is must not reach the client as text
            await _hide(error, context)
        finally:
            slots.taken -= 1

    return call


def _written(behaviour: Callable[..., AsyncIterator[Any]]) -> Callable[..., Awaitable[Any]]:
    """Return a stream of answers as a coroutine that writes them and returns the last.

    grpc.aio drops the generator of a call that is cancelled, and what is in its ``finally`` runs when the call is no
    more: looking at the context then (``peer``, ``auth_context``) reads freed memory and ends the process
    (``test_a_cancelled_stream_is_audited``). Here it is closed within the call.
    """

    async def call(request: object, context: aio.ServicerContext[Any, Any]) -> object:
        message = None
        async with contextlib.aclosing(cast("AsyncGenerator[Any, None]", behaviour(request, context))) as messages:
            async for message in messages:
                try:
                    await context.write(message)
                except aio.InternalError:  # the call is no more, and its cancellation on the way
                    raise asyncio.CancelledError from None
        return message

    return call


def _audited(call: Callable[..., Awaitable[Any]], note: Note | None) -> Callable[..., Awaitable[Any]]:
    """Return a call that is taken note of, however it ends; the same call if it need not be."""
    if note is None:
        return call

    async def audited(request: object, context: aio.ServicerContext[Any, Any]) -> object:
        answer, peer = None, context.peer()  # gRPC forgets it with the connection
        try:
            answer = await call(request, context)
            return answer
        finally:
            note(request, answer, context, peer)

    return audited


async def _hide(error: Exception, context: aio.ServicerContext[Any, Any]) -> NoReturn:
    request_id = new_request_id()
    _log.error("request_failed", request_id=request_id, error_type=type(error).__name__, exc_info=error)
    await context.abort(
        grpc.StatusCode.INTERNAL,
        told(request_id),
        trailing_metadata=((REASON_KEY, Reason.INTERNAL.name), (REQUEST_ID_KEY, request_id)),
    )
