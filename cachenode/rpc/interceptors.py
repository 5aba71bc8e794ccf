"""The outermost interceptor: no exception text leaves the node.

grpc.aio sends the text of an exception that a handler raises to the client (``Unexpected <class 'ValueError'>: …``),
whatever secret it holds. Here such an exception becomes INTERNAL with a request id, and its text goes to the log
under the same id.

Handlers are wrapped once per method and remembered, so that a call pays one dictionary look-up.
"""

from __future__ import annotations

import asyncio
import secrets
from collections.abc import Awaitable, Callable
from typing import Any, NoReturn

import grpc
import structlog
from grpc import aio

from cachenode.rpc.status import REASON_KEY
from cachenode_api.reasons import Reason

__all__ = ["ErrorInterceptor"]

_log = structlog.get_logger(__name__)


class ErrorInterceptor(aio.ServerInterceptor):
    """Maps what handlers raise to a status without its text."""

    def __init__(self) -> None:
        self._wrapped: dict[str, grpc.RpcMethodHandler[Any, Any] | None] = {}

    async def intercept_service(  # type: ignore[override]  # noqa: D102 - inherited; handlers of any types
        self,
        continuation: Callable[[grpc.HandlerCallDetails], Awaitable[grpc.RpcMethodHandler[Any, Any]]],
        handler_call_details: grpc.HandlerCallDetails,
    ) -> grpc.RpcMethodHandler[Any, Any]:
        method = handler_call_details.method
        wrapped = self._wrapped.get(method)
        if wrapped is None:
            handler: grpc.RpcMethodHandler[Any, Any] | None = await continuation(handler_call_details)
            if (
                handler is None
            ):  # an unknown method: answered by gRPC, and not remembered, since strangers choose its name
                return handler  # type: ignore[return-value]
            wrapped = self._wrapped[method] = _wrap(handler)
        return wrapped


def _wrap(handler: grpc.RpcMethodHandler[Any, Any]) -> grpc.RpcMethodHandler[Any, Any]:
    if handler.unary_unary is not None:
        return grpc.unary_unary_rpc_method_handler(
            _guarded(handler.unary_unary), handler.request_deserializer, handler.response_serializer
        )
    if handler.stream_stream is not None:
        behaviour = handler.stream_stream
        if hasattr(behaviour, "__code__") and behaviour.__code__.co_flags & 0x200:  # async generator (reflection)
            return handler
        return grpc.stream_stream_rpc_method_handler(
            _guarded(behaviour), handler.request_deserializer, handler.response_serializer
        )
    return handler


def _guarded(behaviour: Callable[..., Any]) -> Callable[..., Awaitable[Any]]:
    async def call(request: object, context: aio.ServicerContext[Any, Any]) -> object:
        try:
            return await behaviour(request, context)
        except (asyncio.CancelledError, aio.AbortError):
            raise
        except Exception as error:  # noqa: BLE001 - the border: whatever it is must not reach the client as text
            await _hide(error, context)

    return call


async def _hide(error: Exception, context: aio.ServicerContext[Any, Any]) -> NoReturn:
    request_id = secrets.token_hex(8)
    _log.error("request_failed", request_id=request_id, error_type=type(error).__name__, exc_info=error)
    await context.abort(
        grpc.StatusCode.INTERNAL,
        f"a defect in the node; its log has more under request {request_id}",
        trailing_metadata=((REASON_KEY, Reason.INTERNAL.name),),
    )
