"""Failures as gRPC statuses: the one table is `cachenode_api.reasons.GRPC_CODES`."""

from __future__ import annotations

from typing import Any, NoReturn

import grpc
from grpc import aio

from cachenode.core.entries import Failure
from cachenode_api.metadata import REASON_KEY
from cachenode_api.reasons import GRPC_CODES

__all__ = ["FINAL", "PUSHBACK_KEY", "REASON_KEY", "abort"]

FINAL = frozenset(
    {
        grpc.StatusCode.INVALID_ARGUMENT,
        grpc.StatusCode.NOT_FOUND,
        grpc.StatusCode.UNIMPLEMENTED,
        grpc.StatusCode.UNAUTHENTICATED,
        grpc.StatusCode.PERMISSION_DENIED,
    }
)
"""How a node answers what no other node would answer otherwise."""

PUSHBACK_KEY = "grpc-retry-pushback-ms"
"""What gRPC's own retries wait for, where a client has them switched on (gRFC A6)."""


async def abort(context: aio.ServicerContext[Any, Any], failure: Failure) -> NoReturn:
    """End a call with a failure's status, text and reason."""
    code = grpc.StatusCode[GRPC_CODES[failure.reason]]
    metadata = [(REASON_KEY, failure.reason.name)]
    if failure.retry_after_ms:
        metadata.append((PUSHBACK_KEY, str(failure.retry_after_ms)))
    await context.abort(code, failure.detail, trailing_metadata=tuple(metadata))
